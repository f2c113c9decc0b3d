"""Coordinate check: does a few steps' change of activations stay the same as width and depth grow?

    python benchmarks/coordinate_check.py [--seeds N] [--json FILE]

For each width (at one depth) and each depth (at one width): train a few steps at one learning rate, and take the mean
absolute change, since the start, of the residual stream after the last block and of the logits, on held-out text. Seeds
fix initialisation and data, and are the same for all sizes. A power law is fitted for each seed, and its exponents'
mean is given with its 95% interval (t over seeds): 0 where a learning rate transfers (2505.01618, after 2203.03466).

Width grows by heads of one size with two query heads per KV head; the FFN is twice the width. For contrast, and with a
third of the seeds: the standard parametrization, twice the learning rate, an untied head, and a single KV head whatever
the width.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from scipy.stats import t as student

from sweeper.model.shape import Shape, derive
from sweeper.runners.data.dataset import Dataset, held_out_batches, open_data, train_batches
from sweeper.runners.training.training import Training, build_training
from sweeper.values.records import Base, Config, Execution, Job, Optimizer, Recipe

CPU = torch.device("cpu")
DATA, VOCABULARY, SEQ_LEN, BATCH_SIZE = "python-stdlib", 256, 64, 8
HELD_OUT = 512
QUANTITIES = ("residual stream", "logits")


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Sizes of one field of the shape, the others being the base's. `steps` of training at `lr` without warm-up."""

    field: str
    sizes: tuple[int, ...]
    base: Base
    lr: float
    steps: int
    tied: bool = True
    fixed_kv_heads: bool = False


WIDTH = Scan(
    field="d_model",
    sizes=(64, 128, 256, 512),
    base=Base(n_layers=2, d_model=128, ffn_hidden=256),
    lr=5e-4,
    steps=8,
)
DEPTH = Scan(
    field="n_layers", sizes=(2, 4, 8, 16, 32), base=Base(n_layers=8, d_model=64, ffn_hidden=128), lr=5e-4, steps=8
)
"""Learning rate, steps and base were chosen after some trials; `results/README.md` says how much hangs on them."""

CHECKS = (
    (WIDTH, "completep", 1),
    (DEPTH, "completep", 1),
    (WIDTH, "standard", 3),
    (DEPTH, "standard", 3),
    (replace(WIDTH, lr=1e-3), "completep", 3),
    (replace(DEPTH, lr=1e-3), "completep", 3),
    (replace(WIDTH, tied=False), "completep", 3),
    (replace(DEPTH, tied=False), "completep", 3),
    (replace(WIDTH, fixed_kv_heads=True), "completep", 3),
)
"""What to scan, under which parametrization, and by what the number of seeds is divided."""


def shape_at(scan: Scan, size: int) -> Shape:
    """The scan's shape at one size."""
    fields = {"n_layers": scan.base.n_layers, "d_model": scan.base.d_model, scan.field: size}
    heads = {"n_kv_heads": 1} if scan.fixed_kv_heads else {"kv_groups": 2}
    ffn_hidden = fields["d_model"] * scan.base.ffn_hidden // scan.base.d_model
    return derive(
        {
            **fields,
            **heads,
            "head_dim": 16,
            "ffn_hidden": ffn_hidden,
            "vocab_size": VOCABULARY,
            "tie_embeddings": scan.tied,
        }
    )


@cache
def text() -> Dataset:
    """The data of all runs."""
    return open_data(DATA, None, VOCABULARY)


@torch.no_grad()
def activations(training: Training) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual stream after the last block, and the logits, on the held-out text."""
    batches = held_out_batches(
        text(), eval_tokens=HELD_OUT, batch_size=HELD_OUT // SEQ_LEN, seq_len=SEQ_LEN, device=CPU
    )
    (tokens_BT, _), *_ = batches
    hidden_BTD = training.model.hidden(tokens_BT)
    return hidden_BTD, training.model.head(hidden_BTD)


def changes(shape: Shape, optimizer: Optimizer, *, seed: int, steps: int) -> list[tuple[float, float]]:
    """After each step: mean absolute change of the residual stream and of the logits since the start."""
    recipe = Recipe(
        data=DATA,
        seq_len=SEQ_LEN,
        tokens_per_step=BATCH_SIZE * SEQ_LEN,
        precision="fp32",
        optimizer=optimizer,
        eval_tokens=HELD_OUT,
        steps=steps,
    )
    job = Job(
        kind="train",
        config=Config(shape=shape, recipe=recipe),
        execution=Execution(batch_size=BATCH_SIZE, compile=False),
        seed=seed,
    )
    batches = train_batches(text(), seed=seed, batch_size=BATCH_SIZE, seq_len=SEQ_LEN, device=CPU)
    training = build_training(job=job, device=CPU, batches=batches)
    start, found = activations(training), []
    for _ in range(steps):
        training.step()
        now = activations(training)
        found.append(tuple((after - before).abs().mean().item() for before, after in zip(start, now, strict=True)))
    batches.close()
    return found


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Least squares' slope of log value against log size."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(v) for v in values]).slope


def check(scan: Scan, parametrization: str, seeds: int) -> dict[str, object]:
    """Changes at each size and the exponents, for each quantity, after the last step and after each."""
    base = scan.base if parametrization == "completep" else None
    optimizer = Optimizer(lr=scan.lr, warmup=0.0, cooldown=0.0, base=base)
    found = [
        [changes(shape_at(scan, size), optimizer, seed=seed, steps=scan.steps) for size in scan.sizes]
        for seed in range(seeds)
    ]
    result: dict[str, object] = {**asdict(scan), "parametrization": parametrization}
    for index, quantity in enumerate(QUANTITIES):
        by_step = [
            summary([exponent(scan.sizes, [run[step][index] for run in runs]) for runs in found])
            for step in range(scan.steps)
        ]
        result[quantity] = {
            "change": {
                size: round(statistics.geometric_mean(runs[place][-1][index] for runs in found), 5)
                for place, size in enumerate(scan.sizes)
            },
            "exponent": by_step[-1],
            "exponent_by_step": [each["mean"] for each in by_step],
        }
    return result


def summary(exponents: Sequence[float]) -> Mapping[str, float | int]:
    """Mean over seeds and its 95% interval."""
    mean = statistics.fmean(exponents)
    error = statistics.stdev(exponents) / math.sqrt(len(exponents)) if len(exponents) > 1 else math.nan
    half = float(student.ppf(0.975, len(exponents) - 1)) * error
    return {
        "mean": round(mean, 4),
        "low": round(mean - half, 4),
        "high": round(mean + half, 4),
        "seeds": len(exponents),
    }


def main() -> None:
    from provenance import RESULTS, provenance

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--json", type=Path, default=RESULTS / "coordinate_check.json")
    arguments = parser.parse_args()
    result = {
        **provenance("sweeper", "torch"),
        "threads": torch.get_num_threads(),
        "data": text().description,
        "data_fingerprint": text().fingerprint,
        "checks": [],
    }
    for scan, parametrization, share in CHECKS:
        found = check(scan, parametrization, max(2, arguments.seeds // share))
        result["checks"].append(found)
        extra = ["untied"] * (not scan.tied) + ["one KV head"] * scan.fixed_kv_heads
        for quantity in QUANTITIES:
            mean, low, high = (found[quantity]["exponent"][key] for key in ("mean", "low", "high"))
            name = f"{parametrization:9} {scan.field:8} lr {scan.lr:g} {quantity:15}"
            print(f"{name} {mean:+.3f} [{low:+.3f}, {high:+.3f}]", *extra, flush=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
