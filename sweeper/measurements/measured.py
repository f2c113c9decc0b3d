"""The ledger as observations: what is planned now, what became of each job, and what may be pooled."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from sweeper.ledger.typed import FinalLine, Line, MeasuredLine, SpeedLine
from sweeper.planning.outcomes import precision_used
from sweeper.planning.resolving import MicroBatches, ladders, majority
from sweeper.values.records import UNRESOLVED, Config, Execution, Job, Resolved
from sweeper.values.schedule import Branch

Seeds = int | Mapping[str, int] | None
"""How many seeds each config should have: of all, by config id, or None where that isn't known."""


@dataclass(frozen=True, kw_only=True)
class PlannedPoint:
    """One point that the study asks for now. `off_target` is (count − target) ÷ target, None without one.

    Where the micro-batch is the fastest of a `ladder` (ascending), `execution` is a rung of it: the one that was found,
    together with what else was `resolved`, by `sweeper.measurements.resolved`. `memory_bytes` is what a job may
    reserve, `branch_at` where a trial has branches. `probed`: its speed is measured before any training.
    """

    config: Config
    execution: Execution
    off_target: float | None
    ladder: tuple[Execution, ...] = ()
    memory_bytes: int | None = None
    resolved: Resolved = UNRESOLVED
    probed: bool = False
    branch_at: tuple[float, ...] = ()

    @property
    def probe_id(self) -> str:
        """The id under which the point's speed is known."""
        return Job(kind="speed", config=self.config, execution=self.execution, resolved=self.resolved).probe_id


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one device type measured and may be pooled.

    `finals` are planned trials that ended ok, `speeds` ok probes, each the latest of its id. `left_out`
    counts the records dropped because the thing named (such as "torch version") has changed since, or as
    "resolution" those `apart`: trials resolved otherwise (steps, precision) than most of their config. `elsewhere` are
    planned trials that other device types alone have run, resolved as those here, in the same environment and in
    the precision of the probe here: their losses count, as they don't depend on the device, and nothing else of them.
    `diverged` are planned trials that diverged, here or elsewhere, and didn't end ok here.
    """

    device: str
    finals: tuple[FinalLine, ...]
    speeds: tuple[SpeedLine, ...]
    left_out: Mapping[str, int]
    apart: tuple[FinalLine, ...] = ()
    elsewhere: tuple[FinalLine, ...] = ()
    diverged: tuple[FinalLine, ...] = ()

    @property
    def trials(self) -> tuple[FinalLine, ...]:
        """Those whose losses count: run here or elsewhere."""
        return (*self.finals, *self.elsewhere)


def micro_batches(planned: Sequence[PlannedPoint]) -> dict[str, MicroBatches]:
    """By config id: the ladder of its point, or the executions of its points."""
    each: dict[str, list[Execution]] = {}
    for point in planned:
        each.setdefault(point.config.config_id, []).append(point.execution)
    probed = {point.config.config_id for point in planned if point.probed}
    found = {
        config_id: MicroBatches(executions=tuple(executions), probed=config_id in probed)
        for config_id, executions in each.items()
    }
    rungs = {point.config.config_id: point.ladder for point in planned if point.ladder}
    return found | {config_id: MicroBatches(executions=ladder, choose="fastest") for config_id, ladder in rungs.items()}


def measured(records: Iterable[Line], planned: Sequence[PlannedPoint], seeds: Seeds = None) -> list[Measured]:
    """Per device type, the planned outcomes that are ok and comparable; devices in order of first record.

    Where `seeds` says how many there should be, of all or by config id, trials of further seeds don't count.

    Compared is what was resolved for each config, of which the commonest is kept, and the environment: the data's
    fingerprint for each way to read it, the precision that was used for each config, and torch's version. Where
    that differs, only records like the latest are kept.
    """
    configs = {point.config.config_id for point in planned}
    most = dict.fromkeys(configs, seeds) if seeds is None or isinstance(seeds, int) else seeds
    probes = {point.probe_id for point in planned} | _ladder_probes(planned)
    latest: dict[tuple[str, str], FinalLine | SpeedLine] = {}
    for record in records:
        if isinstance(record, FinalLine) and record.config_id in configs:
            if (n := most[record.config_id]) is not None and record.seed >= n:
                continue
        elif not isinstance(record, SpeedLine) or record.probe_id not in probes:
            continue
        place = (record.device_type, record.trial_id or record.probe_id)
        latest.pop(place, None)
        latest[place] = record
    finals = {key: record for (_, key), record in latest.items() if isinstance(record, FinalLine)}
    diverged = {key: record for key, record in finals.items() if record.status == "diverged"}
    return [
        _of_device(
            device,
            [record for place, record in latest.items() if place[0] == device],
            {key: record for (_, key), record in latest.items() if isinstance(record, FinalLine) and _usable(record)},
            diverged,
        )
        for device in dict.fromkeys(place[0] for place in latest)
    ]


def _ladder_probes(planned: Sequence[PlannedPoint]) -> set[str]:
    found = micro_batches(planned)
    configs = {point.config.config_id: point.config for point in planned}
    probed = [ladder for config_id, config in configs.items() for ladder in ladders(config, found[config_id])]
    return {probe_id for ladder in probed for probe_id in ladder.probe_ids}


def _of_device(
    device: str,
    records: Sequence[FinalLine | SpeedLine],
    anywhere: Mapping[str, FinalLine],
    diverged: Mapping[str, FinalLine],
) -> Measured:
    """`anywhere` has the latest usable final of each trial on any device type, `diverged` the latest that diverged."""
    usable = [record for record in records if _usable(record)]
    apart = _resolved_otherwise([record for record in usable if isinstance(record, FinalLine)])
    left_out: dict[str, int] = {"resolution": len(apart)} if apart else {}
    usable = [record for record in usable if not any(record is one for one in apart)]
    tried = {r.trial_id for r in records if isinstance(r, FinalLine) and r.status != "out_of_memory"}
    elsewhere = [_loss_alone(record) for trial_id, record in anywhere.items() if trial_id not in tried]
    probed = {record.probe_id: _precision(record) for record in usable if isinstance(record, SpeedLine)}
    elsewhere = [r for r in elsewhere if r.probe_id not in probed or probed[r.probe_id] == _precision(r)]
    for name, group, value in _COMPARED:
        newest = {group(record): value(record) for record in [*elsewhere, *usable]}
        kept = [record for record in usable if value(record) == newest[group(record)]]
        if len(kept) < len(usable):
            left_out[name] = len(usable) - len(kept)
        usable = kept
        elsewhere = [record for record in elsewhere if value(record) == newest[group(record)]]
    finals = [record for record in usable if isinstance(record, FinalLine)]
    return Measured(
        device=device,
        finals=tuple(finals),
        speeds=tuple(record for record in usable if isinstance(record, SpeedLine)),
        left_out=left_out,
        apart=tuple(apart),
        elsewhere=tuple(_resolved_alike(elsewhere, finals)),
        diverged=tuple([diverged[trial_id] for trial_id in diverged.keys() - {r.trial_id for r in finals}]),
    )


def _loss_alone(final: FinalLine) -> FinalLine:
    """A trial of another device type without what is that device's: speed, memory, times."""
    branches: tuple[Branch, ...] = tuple([replace(branch, train_seconds=None) for branch in final.branches])
    return structs.replace(
        final, speed=None, peak_memory_bytes=None, beside_memory_bytes=None, seconds={}, branches=branches
    )


def _resolved_alike(elsewhere: Sequence[FinalLine], finals: Sequence[FinalLine]) -> list[FinalLine]:
    """Of trials elsewhere those resolved as their config's `finals` here; without any, as most of them."""
    here = {record.config_id: record.resolved for record in finals}
    alike = [record for record in elsewhere if record.resolved == here.get(record.config_id, record.resolved)]
    apart = _resolved_otherwise(alike)
    return [record for record in alike if not any(record is one for one in apart)]


def _resolved_otherwise(finals: Sequence[FinalLine]) -> list[FinalLine]:
    """The trials that were resolved otherwise than most of their config, of equally many than the lowest seed."""
    by_config: dict[str, list[FinalLine]] = {}
    for record in sorted(finals, key=lambda record: record.seed):
        by_config.setdefault(record.config_id, []).append(record)
    commonest = {config_id: majority(one.resolved for one in own) for config_id, own in by_config.items()}
    return [record for record in finals if record.resolved != commonest[record.config_id]]


def _usable(record: FinalLine | SpeedLine) -> bool:
    if record.status != "ok":
        return False
    if isinstance(record, SpeedLine):
        return tokens_per_s(record) is not None
    return record.val_loss is not None and math.isfinite(record.val_loss)


def tokens_per_s(record: MeasuredLine) -> float | None:
    """The speed that a final or a probe measured, in tokens/s; None where it measured none."""
    value = record.speed.tokens_per_s if record.speed else None
    return value if value is not None and math.isfinite(value) and value > 0 else None


def loss_of(final: FinalLine) -> float:
    """The loss of a trial that ended ok, in nats per token. ValueError where it has none."""
    if final.val_loss is None:
        raise ValueError(f"{final.trial_id} has no loss")
    return final.val_loss


def _data(record: MeasuredLine) -> Hashable:
    config, recipe = record.config, record.config.recipe
    read = (recipe.data, recipe.seq_len, recipe.eval_tokens) if recipe else ()
    return (type(record), *read, config.vocab_size)


def _fingerprint(record: MeasuredLine) -> Any:
    return record.environment.get("data_fingerprint") if isinstance(record, FinalLine) else None


def _torch(record: MeasuredLine) -> Any:
    return (record.environment.get("versions") or {}).get("torch")


def _precision(record: MeasuredLine) -> Any:
    return precision_used(record.environment) or record.config.precision


_COMPARED: tuple[tuple[str, Callable[[MeasuredLine], Hashable], Callable[[MeasuredLine], Any]], ...] = (
    ("data", _data, _fingerprint),
    ("torch version", lambda _: None, _torch),
    ("precision used", lambda record: record.config_id, _precision),
)
