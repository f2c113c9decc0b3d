"""A training's speed from its windows. Imports no torch: the driver's process needs it for trials that were stopped."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from sweeper.values.events import SpeedSummary
from sweeper.values.records import Job

MIN_WINDOWS = 3
"""Of a speed: fewer don't say how far it can be relied on."""

SIZING_SHARE, LONGEST_SIZING_S = 0.05, 20.0
"""What a probe by which minutes become steps may take, of these minutes and in all: 20 s at 7 minutes and more."""


def window_seconds(job: Job, *, windows: int, shortest: float) -> float:
    """How long each of a job's `windows` is, `shortest` unless the job is a probe by which minutes become steps.

    A device that has just begun to work is cool, and faster than it will be for minutes: power settles within seconds,
    heat takes longer. In windows that are longer, the median is of a later time. Steps can't be corrected by a
    training's first rungs: they fix its schedule, and are the same for all seeds.
    """
    minutes = job.config.minutes
    if job.kind != "speed" or minutes is None:
        return shortest
    return max(shortest, min(SIZING_SHARE * 60 * minutes, LONGEST_SIZING_S) / windows)


def summarise(
    job: Job, rates: Sequence[float], *, peak_tflops: float | None = None, busy: float | None = None
) -> SpeedSummary | None:
    """Median, lowest and highest of a job's tokens/s in windows of whole steps; None below MIN_WINDOWS.

    `peak_tflops` is the device's, for the MFU; `busy`, the share of the time in which it was. None where not known.
    """
    if len(rates) < MIN_WINDOWS:
        return None
    (shape, recipe), median = job.config.ours, statistics.median(rates)
    tflops = median * shape.train_flops_per_token(recipe.seq_len) / 1e12
    return SpeedSummary(
        tokens_per_s=median,
        low=min(rates),
        high=max(rates),
        windows=tuple(rates),
        step_ms=1000 * recipe.tokens_per_step / median,
        tflops_per_s=tflops,
        mfu=tflops / peak_tflops if peak_tflops else None,
        busy=busy,
    )
