"""Precisions side by side, shape by shape: how much faster, and at what loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from sweeper.ledger.typed import FinalLine, MeasuredLine
from sweeper.measurements.measured import Measured, PlannedPoint, loss_of, micro_batches, tokens_per_s
from sweeper.measurements.resolved import without_winning_probes
from sweeper.measurements.speeds import speed_of
from sweeper.planning.resolving import ladders
from sweeper.stats.additive_fit import AdditiveFit, Difference, Observation, fit
from sweeper.values.labels import labels
from sweeper.values.records import Config

Correction = Callable[[MeasuredLine], float]
"""What drift adds to the log speed that a line measured."""
ORDER = ("fp32", "bf16", "fp8")
"""Precisions, the one that others are compared with first."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of geometric means with its 95% interval, None without an estimate of the noise."""

    value: float
    low: float | None
    high: float | None

    @property
    def resolved(self) -> bool | None:
        """Whether the interval leaves out one; None without an interval."""
        return None if self.low is None or self.high is None else self.low > 1 or self.high < 1


@dataclass(frozen=True, kw_only=True)
class PrecisionPair:
    """One shape and recipe in `precisions` (a, b), at the micro-batches that each runs at.

    `speed` is tokens/s of b ÷ those of a, `loss` the mean loss of b less that of a, paired by seed; None where only
    one of them was trained. `source`: whether both were trained, or, of precision auto, both probed.
    """

    label: str
    precisions: tuple[str, str]
    batch_sizes: tuple[int, int]
    speed: Ratio | None
    loss: Difference | None
    source: Literal["trials", "probes"]


def precision_pairs(m: Measured, here: Sequence[PlannedPoint], correction: Correction) -> tuple[PrecisionPair, ...]:
    """The pairs of which both sides were measured on the device of `m`, in the order of `here`.

    `here` are the points as they are resolved there; `correction` is what drift adds to a record's log speed.
    """
    return (*_declared(m, here, correction), *_probed(m, here, correction))


def _declared(m: Measured, here: Sequence[PlannedPoint], correction: Correction) -> list[PrecisionPair]:
    """Where precision is declared, trained points that differ in nothing else."""
    trained = {record.config_id for record in m.trials}
    points_of = Counter(point.config.config_id for point in here)
    alike: dict[tuple[Config, int | None], list[PlannedPoint]] = {}
    for point in here:
        if point.config.precision in ORDER and point.config.config_id in trained:
            batch_size = point.execution.batch_size if points_of[point.config.config_id] > 1 else None
            alike.setdefault((point.config.at_precision("bf16"), batch_size), []).append(point)
    alike = {key: points for key, points in alike.items() if len(points) > 1}
    if not alike:
        return []
    pooled = without_winning_probes(m, here)
    losses, speeds = (
        fit(_losses(pooled.trials)),
        fit(_speeds((*pooled.finals, *pooled.speeds), correction)),
    )
    names = labels([{**config.to_dict(), "batch_size": batch_size} for config, batch_size in alike])
    found = []
    for name, points in zip(names, alike.values(), strict=True):
        ordered = sorted(points, key=lambda point: ORDER.index(str(point.config.precision)))
        for a, b in pairwise(ordered):
            if a.config.precision == b.config.precision:
                continue
            found.append(
                PrecisionPair(
                    label=name,
                    precisions=(str(a.config.precision), str(b.config.precision)),
                    batch_sizes=(a.execution.batch_size, b.execution.batch_size),
                    speed=_ratio(speeds, b.probe_id, a.probe_id),
                    loss=losses.difference(b.config.config_id, a.config.config_id),
                    source="trials",
                )
            )
    return found


def _ratio(speeds: AdditiveFit, b: str, a: str) -> Ratio | None:
    if not {a, b} <= set(speeds.treatments):
        return None
    d = speeds.difference(b, a)
    low, high = (None if end is None else math.exp(end) for end in (d.low, d.high))
    return Ratio(value=math.exp(d.value), low=low, high=high)


def _probed(m: Measured, here: Sequence[PlannedPoint], correction: Correction) -> list[PrecisionPair]:
    """Where precision is auto, the fastest probe of each; shapes that differ in what speed doesn't know, once."""
    automatic = [point for point in here if point.config.precision == "auto"]
    if not automatic:
        return []
    measured = {record.probe_id: speed for record in m.speeds if (speed := tokens_per_s(record)) is not None}
    speeds, found = fit(_speeds((*m.finals, *m.speeds), correction)), micro_batches(here)
    fastest: dict[tuple[str, ...], tuple[PlannedPoint, list[tuple[str, int, str]]]] = {}
    for point in automatic:
        of_each = []
        for ladder in ladders(point.config, found[point.config.config_id]):
            if probes := [probe for probe in ladder.probes if probe.probe_id in measured]:
                best = max(probes, key=lambda probe: measured[probe.probe_id])
                of_each.append((str(ladder.precision), best.execution.batch_size, best.probe_id))
        if len(of_each) == len(ORDER[1:]):
            fastest.setdefault(tuple([probe_id for _, _, probe_id in of_each]), (point, of_each))
    names = labels([point.config.to_dict() for point, _ in fastest.values()])
    return [
        PrecisionPair(
            label=name,
            precisions=(a[0], b[0]),
            batch_sizes=(a[1], b[1]),
            speed=_ratio(speeds, b[2], a[2]),
            loss=None,
            source="probes",
        )
        for name, (_, (a, b)) in zip(names, fastest.values(), strict=True)
    ]


def _losses(finals: Iterable[FinalLine]) -> list[Observation]:
    return [Observation(treatment=r.config_id, block=f"seed {r.seed}", value=loss_of(r)) for r in finals]


def _speeds(records: Iterable[MeasuredLine], correction: Correction) -> list[Observation]:
    """Every log speed, so that what repeats scatter says how sure a single probe is."""
    return [
        Observation(
            treatment=record.probe_id,
            block=f"seed {record.seed}" if isinstance(record, FinalLine) else "probe",
            value=math.log(found.speed) - correction(record),
        )
        for record in records
        if (found := speed_of(record)) is not None
    ]
