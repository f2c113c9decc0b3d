"""Whether the report's chances and verdicts hold, on synthetic studies whose truth is known.

    python benchmarks/calibration/verdicts.py [--studies N] [--seed S] [--out FILE]

Each study draws 6 to 24 shapes over depth × width, a smooth loss surface with a deviation of each shape's own, true log
speeds, some near ties, 2 to 5 seeds with an effect that all configs share, noise of trials, and speeds that drift from
round to round and within; three in ten lack some trials. Its ledger lines go through
`sweeper.frontier.frontiers.frontier`. Three kinds:

- as drawn: how often points that are reported with some P(on frontier) truly are on it, and what intervals cover;
- with one config moved so that its true gap to another is twice the minimum detectable difference that is printed;
- pure noise: all configs truly equal in loss and in speed.

Intervals are 95%, by a bootstrap over studies. Exit code 1 where a criterion isn't met.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
from provenance import RESULTS, provenance  # noqa: E402
from synthetic import OBJECTIVES, Study, drawn  # noqa: E402

from sweeper.frontier.answer import answer  # noqa: E402
from sweeper.frontier.frontiers import DeviceFrontier  # noqa: E402
from sweeper.stats.pareto import volume_of  # noqa: E402

BINS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0)
WINNER = ("has the lowest loss, shown", "one is on the frontier", "is the fastest and the best in loss.")
"""With which words the answer names a winner."""


def as_drawn(study: Study) -> dict[str, Any]:
    """Reported chances beside the truth, pairs' intervals, and verdicts that name a best."""
    one, on = study.found().frontiers[0], study.truly_on
    points = [(p.p_frontier, on[p.config_id], p.standing) for p in one.points]
    return {
        "p": [p for p, _, _ in points],
        "on": [truly for _, truly, _ in points],
        "dominated": [not truly for _, truly, standing in points if standing == "dominated"],
        "best": best_is_right(study, one),
        "volume": volume_is_covered(study, one),
    }


def volume_is_covered(study: Study, one: DeviceFrontier) -> bool:
    """Whether the true hypervolume, up to the same reference and of the points shown, lies in its interval."""
    truth = np.stack([study.loss + study.seed_effect, np.exp(study.log_speed + study.round_effect)], axis=1)
    volume = volume_of(truth, [one.reference[name] for name in OBJECTIVES], [False, True])
    assert one.hypervolume_interval is not None
    return one.hypervolume_interval.low <= volume <= one.hypervolume_interval.high


def best_is_right(study: Study, one: DeviceFrontier) -> list[bool]:
    """For each objective in which one config is said to be the best for sure, whether it is."""
    truth = {"val_loss": -study.loss, "tokens_per_s": study.log_speed}
    place = {config_id: i for i, config_id in enumerate(study.ids)}
    seen = [place[p.config_id] for p in one.points]
    of = {p.point_id: place[p.config_id] for p in one.points}
    return [
        bool(truth[name][of[best.point_id]] >= truth[name][seen].max())
        for name, best in one.best.items()
        if best.surely
    ]


def planted(study: Study, source: np.random.Generator) -> dict[str, Any]:
    """Whether a true gap of twice the printed minimum detectable difference is named, with its sign.

    Residuals don't depend on what is true of a config, so that a second report prints the same figure.
    """
    a, b = (int(k) for k in source.choice(len(study.loss), size=2, replace=False))
    printed = study.found().frontiers[0].noise["val_loss"].minimum_detectable
    assert printed is not None
    loss = study.loss.copy()
    loss[b] = loss[a] + 2 * printed
    moved = replace(study, loss=loss)
    one = moved.found().frontiers[0]
    again = one.noise["val_loss"].minimum_detectable
    assert again is not None
    assert math.isclose(again, printed, rel_tol=1e-6)
    tied = {frozenset((tie.a, tie.b)) for tie in one.ties}
    ids = study.ids
    mean = {p.config_id: p.objectives["val_loss"].mean for p in one.points}
    return {"named": frozenset((ids[a], ids[b])) not in tied and mean[ids[a]] < mean[ids[b]]}


def pure_noise(study: Study) -> dict[str, Any]:
    """What is claimed where there is nothing: a winner, and a difference between the best and the worst."""
    found = study.found()
    one = found.frontiers[0]
    alone = sum(p.standing in ("frontier", "tied") for p in one.points) == 1
    said = " ".join(answer(found))
    return {
        "winner": alone or any(best.surely for best in one.best.values()) or any(words in said for words in WINNER),
        "dominated": [p.standing == "dominated" for p in one.points],
        "gap": bool(one.gap and one.gap.low is not None and one.gap.low > 0),
        "pair": len(one.ties) < len(one.points) * (len(one.points) - 1) / 2,
    }


# ---- all studies together -----------------------------------------------------------------------------------------


def share(rows: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], Sequence[bool]]) -> dict[str, Any]:
    """The share of true values over all studies, and its interval by a bootstrap over studies."""
    counts = np.array([(sum(values), len(values)) for values in map(of, rows)], dtype=float)
    if counts[:, 1].sum() == 0:
        return {"n": 0, "share": None, "low": None, "high": None}
    source = np.random.default_rng(0)
    again = counts[source.integers(0, len(counts), size=(2000, len(counts)))].sum(axis=1)
    low, high = np.nanquantile(again[:, 0] / np.where(again[:, 1] > 0, again[:, 1], np.nan), [0.025, 0.975])
    n = int(counts[:, 1].sum())
    return {"n": n, "share": float(counts[:, 0].sum() / n), "low": float(low), "high": float(high)}


def brier(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean squared error of the chances, that of always saying the base rate, and the interval of their difference."""
    p, on = (np.concatenate([np.asarray(row[key], dtype=float) for row in rows]) for key in ("p", "on"))
    rate = on.mean()
    gains = [
        (((np.array(row["on"]) - rate) ** 2).sum() - ((np.array(row["p"]) - np.array(row["on"])) ** 2).sum(),
         len(row["p"])) for row in rows
    ]  # fmt: skip
    source = np.random.default_rng(0)
    again = np.array(gains)[source.integers(0, len(gains), size=(2000, len(gains)))].sum(axis=1)
    low, high = np.quantile(again[:, 0] / again[:, 1], [0.025, 0.975])
    return {
        "score": float(((p - on) ** 2).mean()), "base_rate": float(rate),
        "of_base_rate": float(((rate - on) ** 2).mean()), "gain_low": float(low), "gain_high": float(high),
    }  # fmt: skip


def reliability(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """By bins of the reported chance: how many points, their mean chance, the share that is truly on the frontier."""
    p, on = (np.concatenate([np.asarray(row[key], dtype=float) for row in rows]) for key in ("p", "on"))
    table = []
    for low, high in pairwise(BINS):
        inside = (p >= low) & ((p < high) | (high == BINS[-1]))
        if inside.any():
            table.append({
                "from": low, "to": high, "n": int(inside.sum()), "mean_p": float(p[inside].mean()),
                "share_on": float(on[inside].mean()),
            })  # fmt: skip
    return table


def run(studies: int, seed: int) -> dict[str, Any]:
    """All three kinds, so many studies each, and which criteria are met."""
    source = np.random.default_rng(seed)
    rows = [as_drawn(drawn(source)) for _ in range(studies)]
    gaps = [planted(drawn(source), source) for _ in range(studies)]
    noise = [pure_noise(drawn(source, null=True)) for _ in range(studies)]
    above = share(rows, lambda row: [on for p, on in zip(row["p"], row["on"], strict=True) if p >= 0.9])
    below = share(rows, lambda row: [on for p, on in zip(row["p"], row["on"], strict=True) if p <= 0.1])
    result: dict[str, Any] = {
        "studies": studies,
        "seed": seed,
        "truly_on_of_those_at_0.9_or_above": above,
        "truly_on_of_those_at_0.1_or_below": below,
        "brier": brier(rows),
        "reliability": reliability(rows),
        "truly_off_of_those_said_to_be_dominated": share(rows, lambda row: row["dominated"]),
        "hypervolumes_in_their_interval": share(rows, lambda row: [row["volume"]]),
        "right_of_those_said_to_be_best_for_sure": share(rows, lambda row: row["best"]),
        "named_of_gaps_of_twice_the_minimum_detectable": share(gaps, lambda row: [row["named"]]),
        "pure_noise": {
            "no_winner": share(noise, lambda row: [not row["winner"]]),
            "best_to_worst_is_a_tie": share(noise, lambda row: [not row["gap"]]),
            "no_pair_is_resolved": share(noise, lambda row: [not row["pair"]]),
            "points_not_said_to_be_dominated": share(noise, lambda row: [not one for one in row["dominated"]]),
        },
    }
    return result | {"criteria": {name: bool(met) for name, met in criteria(result).items()}}


def criteria(result: Mapping[str, Any]) -> dict[str, bool]:
    """What must hold. Best to worst has 95% by construction: there it is enough that its interval reaches that."""
    brier, noise = result["brier"], result["pure_noise"]
    return {
        "at 0.9 or above, at least 85% are truly on the frontier":
            result["truly_on_of_those_at_0.9_or_above"]["share"] >= 0.85,
        "at 0.1 or below, at most 15% are": result["truly_on_of_those_at_0.1_or_below"]["share"] <= 0.15,
        "Brier score below that of the base rate": brier["score"] < brier["of_base_rate"],
        "twice the minimum detectable difference is named in at least 80%":
            result["named_of_gaps_of_twice_the_minimum_detectable"]["share"] >= 0.8,
        "pure noise: no winner in at least 95%": noise["no_winner"]["share"] >= 0.95,
        "pure noise: best to worst is a tie in 95%": noise["best_to_worst_is_a_tie"]["high"] >= 0.95,
    }  # fmt: skip


def main() -> int:
    """Run, print, write; 1 where a criterion isn't met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "calibration.json")
    arguments = parser.parse_args()
    began = time.perf_counter()
    result = {**provenance("numpy", "scipy", "moocore"), **run(arguments.studies, arguments.seed)}
    result["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps({key: value for key, value in result.items() if key != "reliability"}, indent=1))
    print("reported P(on frontier): n, mean, share truly on")
    for row in result["reliability"]:
        print(f"  {row['from']:.2f}–{row['to']:.2f}: {row['n']:5d}  {row['mean_p']:.3f}  {row['share_on']:.3f}")
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(result["criteria"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
