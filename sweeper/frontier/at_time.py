"""The losses of what was measured at equal training time, from its trials and its points' speeds."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.frontier.points import Point
from sweeper.ledger.typed import FinalLine
from sweeper.measurements.measured import loss_of
from sweeper.stats.additive_fit import AdditiveFit
from sweeper.stats.equal_time import CooledTrial, EqualTime, equal_minutes, equal_time


def at_equal_time(trials: Sequence[FinalLine], points: Sequence[Point], speeds: AdditiveFit) -> EqualTime | None:
    """Of each config at the micro-batch at which it is fastest; None where cooled losses are of one length alone.

    Trials whose length is given in minutes all train for as long, and are compared at their ends.
    """
    fastest = {point.config_id: point for point in sorted(points, key=lambda p: p.objectives["tokens_per_s"].mean)}
    cooled = [_cooled(record) for record in trials if record.config_id in fastest]
    minutes = [point.config.minutes for point in points]
    if not any(minutes):
        return equal_time(cooled, speeds, {config_id: point.probe_id for config_id, point in fastest.items()})
    return equal_minutes(cooled, 60 * float(minutes[0] or 0)) if len(set(minutes)) == 1 else None


def _cooled(record: FinalLine) -> CooledTrial:
    branches = {one.tokens: one.val_loss for one in record.branches if one.val_loss is not None}
    losses = {**branches, record.tokens: loss_of(record)}
    return CooledTrial(config_id=record.config_id, seed=record.seed, losses=losses)


def mean_trial_seconds(finals: Sequence[FinalLine]) -> float | None:
    """What a trial takes of its device, from set-up to the end; None without trials that were timed."""
    timed = [sum(record.seconds.values()) for record in finals if record.seconds]
    return sum(timed) / len(timed) if timed else None
