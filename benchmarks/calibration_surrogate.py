"""How often the surrogate's intervals hold what wasn't measured, on synthetic studies whose true means are known.

    python benchmarks/calibration_surrogate.py [--studies N] [--out FILE]

A study has 660 shapes, depth × width × FFN ratio, and a loss and a speed that are drawn for it: a power law in the
count, shallow valleys in aspect and FFN ratio, a penalty for few layers; FLOPs, an efficiency of narrow matmuls, a cost
per layer and, in every other study, 2% off where the width is no multiple of 128. Of 8 to 30 configs, drawn at random,
2 or 3 seeds are trained: noise of 1% to 25% of the loss's spread, 0.3% to 5% of the speed, beside what a seed shifts
all configs by. Counted is, over the unmeasured configs in the hull, how many true means (at the study's seeds) the 90%
intervals of the surrogates that are believed hold: 80% to 97% must be. Exit code 1 where it isn't so. Shown beside it:
the same with the default number of KV heads, a divisor of the heads near a third of them, which no axis knows of.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from provenance import RESULTS, provenance

from sweeper.planning.candidates import of_plan
from sweeper.planning.plan import make_plan
from sweeper.recommend.surrogate import surrogate
from sweeper.stats.additive_fit import Observation, fit, t_quantile
from sweeper.study.loader import load

LEAST, MOST = 0.80, 0.97
FEW = 14
"""Studies with fewer measured configs are shown apart, too."""
METRICS = ("val_loss", "tokens_per_s")
STUDY = """\
name: calibration
model: {vocab_size: 32768, head_dim: 64, KV_HEADS tie_embeddings: true, multiple_of: 64}
axes:
  n_layers: [4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40]
  d_model: {from: 384, to: 1280, step: 64}
  ffn_ratio: [2, 2.67, 3.33, 4]
trial: {data: python-stdlib, tokens: 1B, seq_len: 1024, batch_size: 8, precision: bf16}
"""


def lattice(kv_heads: str) -> tuple[Any, Any]:
    """The study, and its configs in columns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(STUDY.replace("KV_HEADS", kv_heads))
        loaded = load(path)
        return loaded.study, of_plan(make_plan(loaded, cpus=2))[0]


def surfaces(rows: Any, draw: np.random.Generator, *, tiles: bool) -> dict[str, np.ndarray]:
    """True loss and log speed of every config."""
    shape = rows.shape
    depth, width, ratio = shape.n_layers, shape.d_model, shape.ffn_hidden / shape.d_model
    size = np.log(rows.params)
    loss = 3.2 - draw.uniform(0.03, 0.3) * (size - size.mean())
    loss = loss + draw.uniform(0, 0.05) * (np.log(width / depth) - draw.uniform(2.5, 4.5)) ** 2
    loss = loss + draw.uniform(0, 0.15) * (np.log(ratio) - draw.uniform(0.7, 1.4)) ** 2 + draw.uniform(0, 0.5) / depth
    speed = np.log(1e14 / np.asarray(shape.train_flops_per_token(1024), dtype=np.float64))
    speed = speed + np.log(width / (width + draw.uniform(0, 600))) - np.log1p(draw.uniform(0, 0.05) * depth)
    if tiles:
        speed = speed - 0.02 * (width % 128 != 0)
    return {"val_loss": loss, "tokens_per_s": speed}


def one_study(study: Any, rows: Any, number: int) -> dict[str, dict[str, Any]]:
    """What the surrogates of one drawn study hold."""
    draw = np.random.default_rng(number)
    tiles = number % 2 == 1
    truth = surfaces(rows, draw, tiles=tiles)
    measured = draw.choice(len(rows), int(draw.integers(8, 31)), replace=False)
    seeds = int(draw.integers(2, 4))
    scale = {
        "val_loss": math.exp(draw.uniform(math.log(0.01), math.log(0.25))) * truth["val_loss"].std(),
        "tokens_per_s": math.exp(draw.uniform(math.log(0.003), math.log(0.05))),
    }
    points = [point(rows, row) for row in measured.tolist()]
    others = np.ones(len(rows), dtype=bool)
    others[measured] = False
    return {
        m: {"tiles": tiles, **judged(study, rows, points, m, truth[m], measured, others, scale[m], seeds, draw)}
        for m in METRICS
    }


def point(rows: Any, row: int) -> Any:
    """What a surrogate takes of a frontier's point."""
    config = rows.config(row)
    named = {"val_loss": config.config_id, "tokens_per_s": f"p{config.config_id}"}
    ids = {"config_id": named["val_loss"], "probe_id": named["tokens_per_s"]}
    return SimpleNamespace(**ids, config=config, batch_size=8, treatment=named.__getitem__)


def judged(study, rows, points, metric, truth, measured, others, noise, seeds, draw) -> dict[str, Any]:
    """Coverage in the hull and beyond it, and the intervals' width, for one outcome."""
    shifts = draw.normal(0, 3 * noise, seeds)
    ids = [one.probe_id if metric == "tokens_per_s" else one.config_id for one in points]
    values = truth[measured][:, None] + shifts + draw.normal(0, noise, (len(ids), seeds))
    observed = fit(
        [
            Observation(treatment=one, block=f"seed {seed}", value=float(values[n, seed]))
            for n, one in enumerate(ids)
            for seed in range(seeds)
        ]
    )
    model = surrogate(study, points, metric, observed)
    if model.model is None:
        return {"measured": len(ids), "believed": False}
    means, deviations = model.predict(rows)
    half = t_quantile(0.95, model.degrees_of_freedom) * deviations
    held = np.abs(truth + shifts.mean() - means) <= half
    among = model.space.among_measured(rows)
    inside, outside = others & among, others & ~among
    return {
        "measured": len(ids),
        "believed": model.believed,
        "inside": int(inside.sum()),
        "covered": float(held[inside].mean()) if inside.any() else None,
        "covered_outside": float(held[outside].mean()) if outside.any() else None,
        "width": float(2 * half[inside].mean() / np.ptp(truth)) if inside.any() else None,
        "left_out_covered": model.covered,
    }


def calibrated(studies: int, *, kv_heads: str = "n_kv_heads: 1,") -> dict[str, Any]:
    """Means over studies, for each outcome."""
    study, rows = lattice(kv_heads)
    found = [one_study(study, rows, number) for number in range(studies)]
    return {metric: summary([one[metric] for one in found]) for metric in METRICS}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one outcome's studies: those believed, and of these the coverage, weighing each study alike."""
    used = [one for one in found if one["believed"] and one["covered"] is not None]
    few = [one for one in used if one["measured"] < FEW]
    return {
        "studies": len(found),
        "believed": round(sum(one["believed"] for one in found) / len(found), 3),
        "covered": mean([one["covered"] for one in used]),
        f"covered_below_{FEW}_measured": mean([one["covered"] for one in few]),
        "covered_smooth": mean([one["covered"] for one in used if not one["tiles"]]),
        "covered_with_steps_of_2%": mean([one["covered"] for one in used if one["tiles"]]),
        "covered_whether_believed_or_not": mean([one.get("covered") for one in found]),
        "covered_when_extrapolating": mean([one["covered_outside"] for one in used]),
        "width_of_spread": mean([one["width"] for one in used]),
        "left_out_covered": mean([one["left_out_covered"] for one in used]),
        "configs_inside": mean([one["inside"] for one in used], digits=0),
    }


def mean(values: list[float | None], digits: int = 3) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), digits) if known else None


def main() -> int:
    """Run, print, write; 1 where an outcome's coverage isn't as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=120)
    parser.add_argument("--out", type=Path, default=RESULTS / "calibration_surrogate.json")
    arguments = parser.parse_args()
    result = calibrated(arguments.studies)
    print(json.dumps(result, indent=2))
    uneven = calibrated(arguments.studies // 3, kv_heads="")
    print("with the default number of KV heads, which jumps from width to width:", json.dumps(uneven, indent=2))
    record = {**provenance("scikit-learn", "numpy", "scipy"), "must_be": [LEAST, MOST], "outcomes": result}
    record["default_kv_heads"] = uneven
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(LEAST <= one["covered"] <= MOST for one in result.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
