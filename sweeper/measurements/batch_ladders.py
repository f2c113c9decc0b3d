"""What probes measured of each micro-batch: tokens/s and memory, where the memory ended, and which one trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sweeper.ledger.typed import Line, SpeedLine
from sweeper.measurements.measured import Measured, PlannedPoint, micro_batches, tokens_per_s
from sweeper.planning.resolving import ProbeLadder, ladders
from sweeper.values.labels import labels
from sweeper.values.records import Config


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One micro-batch, in sequences. `tokens_per_s` is None where the probe was out of memory or hasn't run.

    `low` and `high` are the slowest and the fastest window of the probe, no interval of repeats. `memory_bytes` is what
    it needed of its device. `chosen`: trials run at this micro-batch, as it was the fastest.
    """

    batch_size: int
    status: Literal["ok", "out_of_memory", "not_run"]
    tokens_per_s: float | None
    low: float | None
    high: float | None
    memory_bytes: int | None
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class BatchLadder:
    """The micro-batches of one shape in one precision, ascending; of several configs that differ in nothing else."""

    label: str
    precision: str
    config_ids: tuple[str, ...]
    rungs: tuple[Rung, ...]


def batch_ladders(records: Iterable[Line], m: Measured, here: Sequence[PlannedPoint]) -> tuple[BatchLadder, ...]:
    """The ladders of which something was measured on the device of `m`, in the order of `here`.

    `here` are the points as they are resolved there. A micro-batch that is an axis has a ladder too, of which none is
    chosen. Speeds are those that `m` pools; what was out of memory is looked up in `records`.
    """
    ended = {
        record.probe_id: record
        for record in records
        if isinstance(record, SpeedLine) and record.device_type == m.device
    }
    known = {probe_id: r for probe_id, r in ended.items() if r.status == "out_of_memory"}
    known |= {record.probe_id: record for record in m.speeds}
    found = micro_batches(here)
    sharing: dict[tuple[str, ...], tuple[ProbeLadder, list[PlannedPoint]]] = {}
    for point in here:
        for ladder in ladders(point.config, found[point.config.config_id]):
            if len(ladder.probes) > 1 and any(probe_id in known for probe_id in ladder.probe_ids):
                sharing.setdefault(ladder.probe_ids, (ladder, []))[1].append(point)
    names = _names([points[0].config for _, points in sharing.values()])
    return tuple(
        BatchLadder(
            label=names[points[0].config.at_precision("bf16")],
            precision=ladder.precision or "",
            config_ids=tuple(dict.fromkeys(point.config.config_id for point in points)),
            rungs=_rungs(ladder, known, points),
        )
        for ladder, points in sharing.values()
    )


def _names(configs: Iterable[Config]) -> dict[Config, str]:
    """Labels that leave the precision out: a ladder says its own."""
    each = list(dict.fromkeys(config.at_precision("bf16") for config in configs))
    return dict(zip(each, labels([config.to_dict() for config in each]), strict=True))


def _rungs(ladder: ProbeLadder, known: Mapping[str, SpeedLine], points: Sequence[PlannedPoint]) -> tuple[Rung, ...]:
    chosen = {
        point.execution
        for point in points
        if point.ladder and (point.resolved.precision or point.config.precision) == ladder.precision
    }
    rungs = []
    for probe in ladder.probes:
        record = known.get(probe.probe_id)
        speed = None if record is None else record.speed
        measured = None if record is None else tokens_per_s(record)
        rungs.append(
            Rung(
                batch_size=probe.execution.batch_size,
                status="not_run" if record is None else "ok" if measured else "out_of_memory",
                tokens_per_s=measured,
                low=speed.low if speed and measured else None,
                high=speed.high if speed and measured else None,
                memory_bytes=None if record is None else record.memory_needed,
                chosen=bool(measured) and probe.execution in chosen,
            )
        )
    return tuple(rungs)
