"""Whether P(on frontier) is what it says, in each regime of `regimes.py`, beside what it was before.

    python benchmarks/calibration/chances.py [--studies N] [--regimes NAME ...] [--out FILE]

Each study's ledger lines go through `sweeper.frontier.frontiers.frontier`. Before: a flat prior on every mean, one
variance for all trials, a config judged by the trials that didn't diverge; drawn here from the same lines. In each
regime, and over the three close ones together: the Brier score now and before, the interval of their difference by a
bootstrap over studies, and, by bins of the chance that was said, the share of points that truly are on the frontier. A
bin counts where it has 400 points. The studies are those from number 1000 on: of the first 350 several methods were
compared while this one was made. Of the wide regime also the score on the studies of the record before this one (200
of seed 1, drawn one after another). Exit code 1 where a criterion isn't met.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
from provenance import RESULTS, provenance  # noqa: E402
from regimes import REGIMES, SEED, SURFACES, studies  # noqa: E402
from synthetic import Study, drawn  # noqa: E402

from sweeper.frontier.posterior import drawn_means, on_frontier  # noqa: E402
from sweeper.stats.additive_fit import Observation, fit  # noqa: E402

BINS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0)
LEAST_POINTS = 400
FIRST = 1000
DRAWS = 4000
Row = Mapping[str, list[Any]]
"""Of a study's points: `now` and `before`, the chances; `on`, the truth; `standing`; `diverged`, how often it did."""


def judged(study: Study) -> Row | None:
    """None where a study has no noise to judge by."""
    one = study.found().frontiers[0]
    if len(one.points) < 2 or one.points[0].p_frontier is None:
        return None
    on, old = study.truly_on, before(study)
    return {
        "now": [point.p_frontier for point in one.points],
        "before": [old[point.config_id] for point in one.points],
        "on": [on[point.config_id] for point in one.points],
        "standing": [point.standing for point in one.points],
    }


def before(study: Study) -> dict[str, float]:
    """By config id, the chance under a flat prior, whatever diverged."""
    losses, speeds = [], []
    seeds = study.loss_noise.shape[1]
    for i, config_id in enumerate(study.ids):
        for seed in range(seeds):
            if not study.missing[i, seed] and not study.diverged[i, seed]:
                cell = {"treatment": config_id, "block": f"seed {seed}"}
                losses.append(Observation(**cell, value=float(study.loss[i] + study.loss_noise[i, seed])))
                speeds.append(Observation(**cell, value=float(study.log_speed[i] + study.speed_noise[i, seed])))
    source = np.random.default_rng(0)
    of_losses = fit(losses)
    values = drawn_means(of_losses, source, draws=DRAWS), -drawn_means(fit(speeds), source, draws=DRAWS)
    return dict(zip(of_losses.treatments, on_frontier(values).mean(axis=0).tolist(), strict=True))


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Both Brier scores, their difference with its interval, and the bins."""
    keys = ("now", "before", "on")
    p, old, on = (np.concatenate([np.asarray(row[key], dtype=float) for row in rows]) for key in keys)
    sizes = np.array([len(row["on"]) for row in rows])
    places = np.repeat(np.arange(len(rows)), sizes)
    now, then = (np.bincount(places, weights=(chance - on) ** 2) for chance in (p, old))
    again = np.random.default_rng(0).integers(0, len(rows), size=(2000, len(rows)))
    change = (now - then)[again].sum(axis=1) / sizes[again].sum(axis=1)
    ratio = now[again].sum(axis=1) / then[again].sum(axis=1)
    bins = {"now": reliability(p, on), "before": reliability(old, on)}
    return {
        "studies": len(rows),
        "points": len(on),
        "truly_on": float(on.mean()),
        "brier": {"now": float(((p - on) ** 2).mean()), "before": float(((old - on) ** 2).mean())},
        "change": {"mean": float(((p - on) ** 2 - (old - on) ** 2).mean()), **interval(change)},
        "ratio": {"mean": float(now.sum() / then.sum()), **interval(ratio)},
        "worst_bin": {key: max((abs(row["mean_p"] - row["share_on"]) for row in each if row["n"] >= LEAST_POINTS),
                               default=0.0) for key, each in bins.items()},
        "bins": bins,
        "truly_off_of_dominated": share_of(rows, "dominated"),
    }  # fmt: skip


def share_of(rows: Sequence[Row], standing: str) -> dict[str, float | int | None]:
    """Of the points that are said to stand so, how many are truly off the frontier."""
    off = [not on for row in rows for on, how in zip(row["on"], row["standing"], strict=True) if how == standing]
    return {"n": len(off), "share": sum(off) / len(off) if off else None}


def interval(values: np.ndarray) -> dict[str, float]:
    """Of 95%."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def reliability(p: np.ndarray, on: np.ndarray) -> list[dict[str, float]]:
    """By bins of the chance: how many points, their mean chance, the share that is truly on the frontier."""
    table = []
    for low, high in pairwise(BINS):
        inside = (p >= low) & ((p < high) | (high == BINS[-1]))
        if inside.any():
            table.append({
                "from": low, "to": high, "n": int(inside.sum()), "mean_p": float(p[inside].mean()),
                "share_on": float(on[inside].mean()),
            })  # fmt: skip
    return table


def run(regimes: Iterable[str], count: int) -> dict[str, Any]:
    """So many studies of each regime; `pooled` where the close ones are among them."""
    rows = {}
    for regime in regimes:
        rows[regime] = [row for study in studies(regime, count, first=FIRST) if (row := judged(study)) is not None]
        show(regime, summary(rows[regime]))
    found: dict[str, Any] = {"regimes": {regime: summary(each) for regime, each in rows.items()}}
    if set(SURFACES) <= set(rows):
        found["pooled"] = summary([row for regime in SURFACES for row in rows[regime]])
        show("pooled", found["pooled"])
    if "wide" in rows:
        source = np.random.default_rng(1)
        found["recorded_before"] = summary([row for _ in range(200) if (row := judged(drawn(source))) is not None])
        show("recorded before", found["recorded_before"])
    return found | {"criteria": {name: bool(met) for name, met in criteria(found).items()}}


def show(name: str, of: Mapping[str, Any]) -> None:
    """One line."""
    brier, worst = of["brier"], of["worst_bin"]
    print(f"{name:16s} Brier {brier['now']:.4f}, before {brier['before']:.4f}; "
          f"worst bin {worst['now']:.3f}, before {worst['before']:.3f}", flush=True)  # fmt: skip


def criteria(found: Mapping[str, Any]) -> dict[str, bool]:
    """What must hold of the regimes that were run."""
    regimes, pooled = found["regimes"], found.get("pooled")
    met = {
        "each regime: bins within 0.15": all(one["worst_bin"]["now"] <= 0.15 for one in regimes.values()),
        "each regime: Brier at most 0.006 above": all(one["change"]["mean"] <= 0.006 for one in regimes.values()),
    }
    if pooled:
        met["close regimes pooled: bins within 0.05"] = pooled["worst_bin"]["now"] <= 0.05
        met["close regimes pooled: Brier 8% below, surely"] = pooled["ratio"]["high"] <= 0.92
    if "wide" in regimes:
        met["wide: Brier at most 0.055"] = regimes["wide"]["brier"]["now"] <= 0.055
    return met


def main() -> int:
    """Run, print, write; 1 where a criterion isn't met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--regimes", nargs="+", choices=list(REGIMES), default=list(REGIMES))
    parser.add_argument("--out", type=Path, default=RESULTS / "calibration_chances.json")
    arguments = parser.parse_args()
    began = time.perf_counter()
    result = {
        **provenance("numpy", "scipy", "moocore"), "seed": SEED, **run(arguments.regimes, arguments.studies),
        "seconds": math.ceil(time.perf_counter() - began),
    }  # fmt: skip
    print(json.dumps(result["criteria"], indent=1))
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(result["criteria"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
