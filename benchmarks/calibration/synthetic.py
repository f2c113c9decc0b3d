"""Synthetic studies whose truth is known, as ledger lines that go through `sweeper.frontier.frontiers.frontier`.

`drawn` is the wide regime: losses spread over about twenty times a trial's scatter. `regimes.py` has those where real
studies lie.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs

from sweeper.frontier.frontiers import Frontier, frontier
from sweeper.ledger.typed import Line, line_of
from sweeper.measurements.measured import PlannedPoint
from sweeper.model.shape import Shape
from sweeper.stats.pareto import nondominated
from sweeper.values.events import Final, SpeedSummary
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe

OBJECTIVES = {"val_loss": "min", "tokens_per_s": "max"}
TRIAL_S = 60
MOST_UNSTABLE = 0.1
"""A config that diverges for this share of seeds or more is truly on no frontier, and beats nothing."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One synthetic study: the truth of its `points`, and what noise does to each cell [configs, seeds].

    `loss` is in nats, `log_speed` the log of tokens/s; `missing` marks trials that never ran, `diverged` those that
    diverged, and `divergence` is each config's true share of seeds that do. `seed_effect` and `round_effect` are what
    the noise has in common on average: every interval is given these very seeds and rounds. `sd` is each config's
    scatter of a trial's loss, `outlier` the cell (config, seed) that has one.
    """

    points: tuple[PlannedPoint, ...]
    loss: np.ndarray
    log_speed: np.ndarray
    loss_noise: np.ndarray
    speed_noise: np.ndarray
    missing: np.ndarray
    seed_effect: float
    round_effect: float
    sd: np.ndarray
    diverged: np.ndarray
    divergence: np.ndarray
    outlier: tuple[int, int] | None = None

    def records(self) -> list[Line]:
        """The ledger's lines, seed by seed as a driver asks for them."""
        n, seeds = self.loss_noise.shape
        order = [(i, seed) for seed in range(seeds) for i in range(n) if not self.missing[i, seed]]
        return [self._line(i, seed, number) for number, (i, seed) in enumerate(order)]

    def _line(self, i: int, seed: int, number: int) -> Line:
        ok, point = not self.diverged[i, seed], self.points[i]
        speed = math.exp(self.log_speed[i] + self.speed_noise[i, seed])
        event = Final(
            job=Job(kind="train", config=point.config, execution=point.execution, seed=seed),
            status="ok" if ok else "diverged",
            val_loss=float(self.loss[i] + self.loss_noise[i, seed]) if ok else None,
            val_bpb=None,
            curve=(),
            tokens=10**6,
            seconds={"train": 50.0, "evaluate": 5.0},
            speed=SpeedSummary(tokens_per_s=speed, low=speed, high=speed, windows=(speed,) * 3, step_ms=1.0),
            peak_memory_bytes=2**30,
            environment={"device": "pretended", "versions": {"torch": "2.13.0"}, "data_fingerprint": "f00d"},
        )
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_700_000_000 + number * TRIAL_S))
        return structs.replace(line_of(event), time=at)

    def found(self) -> Frontier:
        """What sweeper reports of it."""
        return frontier(
            self.records(), study="synthetic", profile="full", planned=self.points, objectives=OBJECTIVES,
            seeds=self.loss_noise.shape[1],
        )  # fmt: skip

    @property
    def truly_on(self) -> dict[str, bool]:
        """By config id, whether it is stable, and no other stable one is truly as good in both and better in one."""
        stable = self.divergence < MOST_UNSTABLE
        loss = np.where(stable, self.loss, np.nan)
        on = nondominated(np.stack([loss, self.log_speed], axis=1), [False, True])
        return dict(zip(self.ids, on.tolist(), strict=True))

    @property
    def ids(self) -> list[str]:
        """The configs' ids."""
        return [point.config.config_id for point in self.points]


def drawn(source: np.random.Generator, *, null: bool = False) -> Study:
    """A study at random; `null` makes all configs truly equal."""
    n, seeds = int(source.integers(6, 25)), int(source.integers(2, 6))
    points = shapes(source, n)
    depth, width = np.log([[p.config.shape.n_layers, p.config.shape.d_model] for p in points]).T
    sd, speed_sd = math.exp(source.uniform(math.log(0.003), math.log(0.03))), source.uniform(0.002, 0.03)
    loss, log_speed = surface(source, depth, width), speeds(source, depth, width)
    if source.random() < 0.5:
        near_ties(source, loss, log_speed, sd, speed_sd)
    if null:
        loss, log_speed = np.full(n, loss.mean()), np.full(n, log_speed.mean())
    shared = source.normal(0, sd * source.uniform(0.5, 2), size=seeds)
    rounds = np.cumsum(source.normal(0, source.uniform(0, 0.03), size=seeds))
    within = np.cumsum(source.normal(0, source.uniform(0, 0.1) * speed_sd, size=(seeds, n)).ravel()).reshape(seeds, n)
    missing = np.zeros((n, seeds), dtype=bool)
    if source.random() < 0.3:
        missing = source.random((n, seeds)) < source.uniform(0.05, 0.2)
        missing[np.arange(n), source.integers(0, seeds, size=n)] = False
    return Study(
        points=points,
        loss=loss,
        log_speed=log_speed,
        loss_noise=shared + source.normal(0, sd, size=(n, seeds)),
        speed_noise=rounds + within.T + source.normal(0, speed_sd, size=(n, seeds)),
        missing=missing,
        seed_effect=float(shared.mean()),
        round_effect=float(rounds.mean()),
        sd=np.full(n, sd),
        diverged=np.zeros((n, seeds), dtype=bool),
        divergence=np.zeros(n),
    )


def shapes(source: np.random.Generator, n: int, rates: Sequence[float] | None = None) -> tuple[PlannedPoint, ...]:
    """So many different depths × widths, each a config, at these learning rates where they are given."""
    grid = [(layers, width) for layers in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48) for width in range(128, 1025, 64)]
    chosen = [grid[k] for k in source.choice(len(grid), size=n, replace=False)]
    lrs = [Optimizer().lr] * n if rates is None else rates
    return tuple([_point(layers, width, lr) for (layers, width), lr in zip(chosen, lrs, strict=True)])


def _point(layers: int, width: int, lr: float) -> PlannedPoint:
    shape = Shape(
        n_layers=layers, d_model=width, n_heads=width // 64, n_kv_heads=1, head_dim=64, ffn_hidden=3 * width,
        vocab_size=256, tie_embeddings=True,
    )  # fmt: skip
    recipe = Recipe(
        data="python-stdlib", steps=1000, seq_len=256, tokens_per_step=1024, precision="bf16",
        optimizer=Optimizer(lr=lr), eval_tokens=65536,
    )  # fmt: skip
    config = Config(shape=shape, recipe=recipe)
    return PlannedPoint(config=config, execution=Execution(batch_size=4, compile=True), off_target=None)


def surface(source: np.random.Generator, depth: np.ndarray, width: np.ndarray) -> np.ndarray:
    """A power law of the count, a broad basin over the aspect ratio, and what each shape has of its own."""
    count = depth + 2 * width
    law = source.uniform(0.01, 0.06) * (count.mean() - count)
    basin = source.uniform(0.005, 0.03) * (width - depth - source.uniform(3, 5)) ** 2
    own = source.normal(0, source.uniform(0.001, 0.02), size=len(depth))
    return 2.5 + law + basin + own


def speeds(source: np.random.Generator, depth: np.ndarray, width: np.ndarray) -> np.ndarray:
    """FLOPs and a cost per layer; narrow matmuls run below peak."""
    efficiency = np.log(np.exp(width) / (np.exp(width) + source.uniform(100, 400)))
    cost = np.log(np.exp(depth) * np.exp(2 * width) + source.uniform(1, 5) * 1e4 * np.exp(depth))
    return 25 + efficiency - source.uniform(0.3, 1.0) * cost + source.normal(0, 0.02, size=len(depth))


def near_ties(source: np.random.Generator, loss: np.ndarray, log_speed: np.ndarray, sd: float, speed_sd: float) -> None:
    """Bring up to a third of configs within a fraction of the noise of others, in loss and some in speed too."""
    n = len(loss)
    for i in source.choice(n, size=int(source.integers(1, n // 3 + 1)), replace=False):
        other = int(source.integers(0, n))
        loss[i] = loss[other] + source.normal(0, 0.3 * sd)
        if source.random() < 0.4:
            log_speed[i] = log_speed[other] + source.normal(0, 0.3 * speed_sd)
