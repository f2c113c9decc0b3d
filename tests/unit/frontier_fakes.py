"""Synthetic ledgers for the tests of the frontier and the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sweeper.ledger.lines import event_record
from sweeper.measurements.measured import PlannedPoint
from sweeper.model.shape import Shape
from sweeper.values.events import Done, Final, Speed, SpeedSummary
from sweeper.values.records import Config, Execution, Job, Optimizer, Precision, Recipe, Resolved

OBJECTIVES = {"val_loss": "min", "tokens_per_s": "max"}
PROXY = ((1, 1360), (2, 624), (3, 384), (4, 272), (6, 144), (8, 80), (12, 32))
"""Depths with the FFN that lands a trunk of width 96 near 0.5M."""


def config(n_layers: int = 1, ffn_hidden: int = 1360, *, lr: float = 2e-3, **recipe: Any) -> Config:
    fields: dict[str, Any] = {
        "data": "python-stdlib", "steps": 488, "seq_len": 256, "tokens_per_step": 1024,
        "precision": "fp32", "eval_tokens": 65536,
    }  # fmt: skip
    return Config(
        shape=Shape(
            n_layers=n_layers, d_model=96, n_heads=3, n_kv_heads=1, head_dim=32, ffn_hidden=ffn_hidden,
            vocab_size=256, tie_embeddings=True,
        ),
        recipe=Recipe(optimizer=Optimizer(lr=lr), **{**fields, **recipe}),
    )  # fmt: skip


def plan(configs: Sequence[Config], batch_sizes: Sequence[int] = (4,)) -> list[PlannedPoint]:
    return [
        PlannedPoint(config=c, execution=Execution(batch_size=b, compile=True), off_target=0.01)
        for c in configs
        for b in batch_sizes
    ]


def summary(tokens_per_s: float, spread: float = 0.02) -> SpeedSummary:
    low, high = tokens_per_s * (1 - spread / 2), tokens_per_s * (1 + spread / 2)
    return SpeedSummary(
        tokens_per_s=tokens_per_s, low=low, high=high, windows=(low, tokens_per_s, high), step_ms=1e6 / tokens_per_s
    )  # fmt: skip


def environment(**changes: Any) -> dict[str, Any]:
    return {
        "device": "2-core CPU", "driver": None, "versions": {"python": "3.11", "torch": "2.13.0"},
        "data": "python-stdlib", "data_fingerprint": "f00d", "epochs": 0.04, **changes,
    }  # fmt: skip


def final(
    point: PlannedPoint, seed: int, val_loss: float | None, tokens_per_s: float | None = 30_000.0, **changes: Any
) -> dict[str, Any]:
    own = {
        "status": "ok", "notes": (), "environment": environment(), "spread": 0.02, "resolved": Resolved(), **changes
    }  # fmt: skip
    job = Job(kind="train", config=point.config, execution=point.execution, seed=seed, resolved=own["resolved"])
    tokens = (job.steps or 0) * point.config.recipe.tokens_per_step
    end = val_loss if val_loss is not None else 2.0
    curve = tuple(
        (int(tokens * k / 40), end + 3.5 * math.exp(-k / 4) + 0.02 * math.sin(7 * k + seed)) for k in range(1, 41)
    )
    event = Final(
        job=job,
        status=own["status"],
        val_loss=val_loss,
        val_bpb=None if val_loss is None else val_loss / math.log(2),
        curve=curve,
        tokens=tokens,
        seconds={"set_up": 1.0, "compile": 4.0, "train": 15.0, "evaluate": 1.0},
        speed=None if tokens_per_s is None else summary(tokens_per_s, own["spread"]),
        peak_memory_bytes=400 * 2**20,
        environment=own["environment"],
        notes=own["notes"],
    )
    return {**event_record(event), "time": f"2025-01-01T00:{seed:02d}:00Z"}


def probe(
    point: PlannedPoint, tokens_per_s: float | None, precision: Precision | None = None, **changes: Any
) -> dict[str, Any]:
    """A probe's line, of a config of precision auto in `precision`; out of memory where `tokens_per_s` is None."""
    event = Speed(
        job=Job(
            kind="speed", config=point.config.at_precision(precision) if precision else point.config,
            execution=point.execution,
        ),
        status="out_of_memory" if tokens_per_s is None else "ok",
        speed=None if tokens_per_s is None else summary(tokens_per_s), peak_memory_bytes=10**8, seconds={},
        environment=environment(**changes),
    )  # fmt: skip
    return {**event_record(event), "time": "2025-01-01T00:00:00Z"}


def asked(point: PlannedPoint, seed: int) -> dict[str, Any]:
    job = Job(kind="train", config=point.config, execution=point.execution, seed=seed)
    return {
        "schema": 1, "type": "asked", "time": "2025-01-01T00:00:00Z", **job.ids(), "device": None,
        "job": job.to_dict(), "attempt": 1,
    }  # fmt: skip


def study(
    losses: Mapping[int, float],
    speeds: Mapping[int, float],
    *,
    seeds: int = 3,
    noise: float = 0.02,
    speed_noise: float = 0.01,
    rng: int = 0,
) -> tuple[list[PlannedPoint], list[dict[str, Any]]]:
    """Depth → true loss and speed of the proxy's shapes; seeds and machine drift shift all shapes alike."""
    draw = np.random.default_rng(rng)
    planned = plan([config(n, f) for n, f in PROXY if n in losses])
    records = []
    for seed in range(seeds):
        shift, drift = draw.normal(0, 0.03), draw.normal(0, 0.05)
        for point in planned:
            n = point.config.shape.n_layers
            loss = losses[n] + shift + draw.normal(0, noise)
            speed = speeds[n] * math.exp(drift + draw.normal(0, speed_noise))
            records += [asked(point, seed), final(point, seed, float(loss), float(speed))]
    return planned, records


LOSSES = {1: 1.69, 2: 1.61, 3: 1.565, 4: 1.56, 6: 1.557, 8: 1.575, 12: 1.64}
SPEEDS = {1: 40_000.0, 2: 37_000.0, 3: 34_500.0, 4: 32_000.0, 6: 28_000.0, 8: 25_000.0, 12: 19_500.0}


def play(machine, outcome, *, concurrency=1, rng=None, until=10_000):
    """Run a Driver's jobs, so many at a time, in any order where there is an `rng`; its events, so many or all."""
    events, running = [], []
    while len(events) < until:
        while len(running) < concurrency and isinstance(job := machine.ask(), Job):
            running.append(job)
        if not running:
            assert isinstance(machine.ask(), Done)
            break
        events.append(outcome(running.pop(rng.randrange(len(running)) if rng else 0)))
        machine.tell(events[-1])
    return events


def play_after_a_kill(driver, outcome, *, rng, kept, concurrency):
    """How often each job ran where a study was killed, replayed in any order and went on; and where nothing was."""
    events = play(driver(), outcome, concurrency=concurrency, rng=rng, until=kept)
    machine = driver()
    for event in rng.sample(events, len(events)):
        machine.tell(event)
    events += play(machine, outcome, concurrency=concurrency, rng=rng)
    return [Counter(event.job.job_id for event in found) for found in (events, play(driver(), outcome))]
