"""What probes and trials made of the planned points on one device type: micro-batch, precision, steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeper.ledger.typed import FinalLine
from sweeper.measurements.measured import Measured, PlannedPoint, micro_batches, tokens_per_s
from sweeper.planning.outcomes import Outcome
from sweeper.planning.resolving import MicroBatches, Settled, ladders, resolve
from sweeper.values.records import UNRESOLVED, Job, Resolved


def resolved_points(m: Measured, planned: Sequence[PlannedPoint]) -> dict[PlannedPoint, PlannedPoint]:
    """Each planned point as it is on this device type, by the rules of `sweeper.planning.resolving`.

    What the trials were given stands; a ladder's micro-batch is that of its fastest probe. Where nothing was probed
    it is that of the trials.
    """
    speeds = {record.probe_id: speed for record in m.speeds if (speed := tokens_per_s(record)) is not None}
    found = micro_batches(planned)
    finals: dict[str, FinalLine] = {}
    for record in m.trials:
        finals.setdefault(record.config_id, record)
    return {
        point: _resolved(point, found[point.config.config_id], speeds, finals.get(point.config.config_id))
        for point in planned
    }


def _resolved(
    point: PlannedPoint, executions: MicroBatches, speeds: Mapping[str, float], final: FinalLine | None
) -> PlannedPoint:
    kept = final.resolved if final else UNRESOLVED
    execution, by_probes = point.execution, UNRESOLVED

    def outcome_of(probe: Job) -> Outcome:
        return speeds.get(probe.probe_id, "unavailable")

    probed = ladders(point.config, executions)
    if any(probe_id in speeds for ladder in probed for probe_id in ladder.probe_ids):
        choice = resolve(point.config, executions, probed, outcome_of, kept=kept)
        if isinstance(choice, Settled):
            execution = choice.execution if point.ladder else execution
            by_probes = choice.resolved
    elif point.ladder and final:
        execution = final.execution
    resolved = Resolved(steps=kept.steps or by_probes.steps, precision=kept.precision or by_probes.precision)
    return replace(point, execution=execution, resolved=resolved)


def without_winning_probes(m: Measured, points: Sequence[PlannedPoint]) -> Measured:
    """`m` without the probes that won over others, where trials measured that speed too.

    The highest of several measurements reads too high; the trials' weren't chosen for being high.
    """
    chosen = {point.probe_id for point in points if len(point.ladder) > 1 or point.config.precision == "auto"}
    again = {record.probe_id for record in m.finals if tokens_per_s(record) is not None} & chosen
    return replace(m, speeds=tuple(record for record in m.speeds if record.probe_id not in again))


def shown(point: PlannedPoint) -> dict[str, Any]:
    """What was resolved, by the study's names; `tokens` follow from the steps. Empty where nothing was."""
    found: dict[str, Any] = {"batch_size": point.execution.batch_size} if point.ladder else {}
    if point.resolved.precision:
        found["precision"] = point.resolved.precision
    if point.resolved.steps:
        found["steps"] = point.resolved.steps
        found["tokens"] = point.config.tokens_of(point.resolved.steps)
    return found
