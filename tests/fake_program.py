"""A training script of somebody else's, as a job: what it takes and gives depends on its axes alone."""

from __future__ import annotations

from collections.abc import Iterator

from fakes import make_final

from sweeper.model.shape import Params
from sweeper.values.events import Event, Rung, Speed, SpeedSummary
from sweeper.values.kinds import Program
from sweeper.values.records import Config, Job

LOSSES = {(2, 64): 2.4, (4, 64): 2.2, (2, 128): 2.1, (4, 128): 1.9}


def program(n_layer: int, n_embd: int, *, flops: int | None = None, fingerprint: str = "c0de") -> Config:
    """A config of it. Nobody but its study knows how many parameters that makes."""
    total = 12 * n_layer * n_embd**2
    return Config(
        shape=Program(
            name="nanoGPT",
            fingerprint=fingerprint,
            axes=(("n_layer", n_layer), ("n_embd", n_embd)),
            params=Params(total=total, trunk=total, embedding=0, head=0),
            train_flops_per_token=flops,
        ),
        recipe=None,
    )


def train(job: Job) -> Iterator[Event]:
    """A rung and an outcome; a probe its speed."""
    axes = job.config.shape.fields()
    depth, width = int(axes["n_layer"]), int(axes["n_embd"])
    at = 1e6 / (depth * width) * (1 + job.seed / 100)
    speed = SpeedSummary(tokens_per_s=at, low=at, high=at, windows=(at,), step_ms=1.0)
    environment = {"device": "cpu", "versions": {"torch": "2.13.0"}}
    if job.kind == "speed":
        yield Speed(job=job, status="ok", speed=speed, peak_memory_bytes=2**20, seconds={}, environment=environment)
        return
    yield Rung(job=job, tokens=1024, loss=5.0)
    loss = LOSSES[depth, width] + job.seed / 50 + depth * job.seed / 1000
    yield make_final(job, val_loss=loss, speed=speed, environment=environment)
