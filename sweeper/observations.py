"""The ledger as observations: what is planned now, what became of each job, and what may be pooled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sweeper.records import Config, Execution, probe_id

Record = Mapping[str, Any]
State = Literal["ok", "diverged", "out_of_memory", "stopped_early", "failed", "asked", "missing"]


@dataclass(frozen=True, kw_only=True)
class PlannedPoint:
    """One point that the study asks for now. `off_target` is (count − target) ÷ target, None without one."""

    config: Config
    execution: Execution
    off_target: float | None

    @property
    def probe_id(self) -> str:
        """The id under which the point's speed is known."""
        return probe_id(self.config, self.execution)


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What became of one job: `seed` is None for a speed probe; `why` is a failure's one line."""

    config_id: str
    seed: int | None
    state: State
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one kind of device measured and may be pooled.

    `finals` are planned trials that ended ok, `speeds` ok probes, each the latest of its id. `left_out`
    counts the records dropped because the thing named (such as "torch version") has changed since.
    """

    device: str
    finals: tuple[Record, ...]
    speeds: tuple[Record, ...]
    left_out: Mapping[str, int]


def job_states(records: Iterable[Record], planned: Sequence[PlannedPoint], seeds: int | None = None) -> list[JobState]:
    """The state of every planned trial and of every probe asked for, by the latest record of each.

    A trial is missing when no record names it: seeds 0 … `seeds` − 1 are expected of every config, or,
    where `seeds` is None, every seed that any config was asked for.
    """
    configs = list(dict.fromkeys(point.config.config_id for point in planned))
    probes = {point.probe_id for point in planned}
    states: dict[str, JobState] = {}
    for record in records:
        probe = "trial_id" not in record
        wanted = record["probe_id"] in probes if probe else record["config_id"] in configs
        if not wanted or record["type"] == "rung":
            continue
        seed = None if probe else _seed(record)
        states[record["probe_id"] if probe else record["trial_id"]] = JobState(
            config_id=record["config_id"], seed=seed, state=_state(record), why=str(record.get("error", ""))
        )
    seen = {(state.config_id, state.seed) for state in states.values()}
    expected = range(seeds) if seeds is not None else sorted({s for _, s in seen if s is not None})
    missing = [
        JobState(config_id=config_id, seed=seed, state="missing")
        for config_id in configs
        for seed in (expected or range(1))
        if (config_id, seed) not in seen
    ]
    return [*states.values(), *missing]


def _seed(record: Record) -> int:
    return int(record["job"]["seed"] if record["type"] == "asked" else record["seed"])


def _state(record: Record) -> State:
    if record["type"] in ("asked", "failed"):
        return "asked" if record["type"] == "asked" else "failed"
    status: State = record["status"]
    return status


def measured(records: Iterable[Record], planned: Sequence[PlannedPoint]) -> list[Measured]:
    """Per kind of device, the planned outcomes that are ok and comparable; devices in order of first record.

    Compared is the environment: the data's fingerprint for each way to read it, the precision that was
    used for each config, and torch's version. Where it differs, only records like the latest are kept.
    """
    configs = {point.config.config_id for point in planned}
    probes = {point.probe_id for point in planned}
    latest: dict[tuple[str, str, str], Record] = {}
    for record in records:
        if record["type"] == "final" and record["config_id"] in configs:
            key = record["trial_id"]
        elif record["type"] == "speed" and record["probe_id"] in probes:
            key = record["probe_id"]
        else:
            continue
        place = (str(record.get("device") or "unknown device"), record["type"], key)
        latest.pop(place, None)
        latest[place] = record
    return [
        _of_device(device, [record for place, record in latest.items() if place[0] == device])
        for device in dict.fromkeys(place[0] for place in latest)
    ]


def _of_device(device: str, records: Sequence[Record]) -> Measured:
    usable = [record for record in records if _usable(record)]
    left_out: dict[str, int] = {}
    for name, group, value in _COMPARED:
        newest = {group(record): value(record) for record in usable}
        kept = [record for record in usable if value(record) == newest[group(record)]]
        if len(kept) < len(usable):
            left_out[name] = len(usable) - len(kept)
        usable = kept
    return Measured(
        device=device,
        finals=tuple(record for record in usable if record["type"] == "final"),
        speeds=tuple(record for record in usable if record["type"] == "speed"),
        left_out=left_out,
    )


def _usable(record: Record) -> bool:
    if record["status"] != "ok":
        return False
    if record["type"] == "speed":
        return tokens_per_s(record) is not None
    return record["val_loss"] is not None and math.isfinite(record["val_loss"])


def tokens_per_s(record: Record) -> float | None:
    """The speed that a final or a probe measured, in tokens/s; None where it measured none."""
    speed = record.get("speed")
    value = speed["tokens_per_s"] if speed else None
    return float(value) if value is not None and math.isfinite(value) and value > 0 else None


def _data(record: Record) -> Any:
    recipe = record["recipe"]
    return (
        record["type"],
        recipe["data"],
        recipe["seq_len"],
        recipe["eval_tokens"],
        record["shape"]["vocab_size"],
    )


def _fingerprint(record: Record) -> Any:
    return record["environment"].get("data_fingerprint") if record["type"] == "final" else None


def _torch(record: Record) -> Any:
    return (record["environment"].get("versions") or {}).get("torch")


def _precision(record: Record) -> Any:
    return record["environment"].get("precision", record["recipe"]["precision"])


_COMPARED: tuple[tuple[str, Callable[[Record], Any], Callable[[Record], Any]], ...] = (
    ("data", _data, _fingerprint),
    ("torch version", lambda _: None, _torch),
    ("precision used", lambda record: record["config_id"], _precision),
)
