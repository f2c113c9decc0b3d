"""The ledger as observations: what is planned now, what became of each job, and what may be pooled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sweeper.records import Config, Execution, probe_id
from sweeper.search.driver import MAX_ATTEMPTS

Record = Mapping[str, Any]
State = Literal["ok", "diverged", "out_of_memory", "stopped_early", "failed", "asked", "missing"]
_Key = tuple[str, int | None]
"""(config id, seed) of a trial, (probe id, None) of a speed job."""


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
    """What became of one job: `seed` is None for a speed job; `why` is a failure's one line."""

    config_id: str
    seed: int | None
    state: State
    why: str = ""
    failures: int = 0

    @property
    def to_do(self) -> bool:
        """Whether `sweeper run` would do it, or is doing it."""
        return self.state in ("asked", "missing") or (self.state == "failed" and self.failures < MAX_ATTEMPTS)


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
    """The state of every planned speed job and trial, by the latest record of each; missing without one.

    Seeds 0 … `seeds` − 1 are expected of every config and others ignored; where `seeds` is None, every seed
    that any config was asked for. What ran out of memory at a micro-batch that isn't asked for any more is
    missing, as the Driver asks for it again.
    """
    ladders: dict[str, list[str]] = {}
    for point in planned:
        ladders.setdefault(point.config.config_id, []).append(point.probe_id)
    latest: dict[_Key, Record] = {}
    failures: Counter[_Key] = Counter()
    key: _Key
    for record in records:
        if record["type"] == "rung":
            continue
        key = (record["config_id"], _seed(record)) if "trial_id" in record else (record["probe_id"], None)
        latest[key] = record
        failures[key] += record["type"] == "failed"
    trials = {key: r for key, r in latest.items() if key[0] in ladders and key[1] is not None}
    expected = range(seeds) if seeds is not None else sorted({_seed(r) for r in trials.values()})
    speed_jobs = _speed_jobs(ladders, trials)
    jobs: list[tuple[str, _Key]] = [(config_id, (probe, None)) for probe, config_id in speed_jobs.items()]
    jobs += [(config_id, (config_id, seed)) for seed in (expected or range(1)) for config_id in ladders]
    states = []
    for config_id, key in jobs:
        record = latest.get(key, {})
        state = (
            "missing" if not record or _at_another_micro_batch(record, ladders[config_id], latest) else _state(record)
        )
        why = str(record.get("error", ""))
        states.append(JobState(config_id=config_id, seed=key[1], state=state, why=why, failures=failures[key]))
    return states


def _speed_jobs(ladders: Mapping[str, Sequence[str]], trials: Mapping[_Key, Record]) -> dict[str, str]:
    """Probe id → config id of the speed jobs: of configs with several micro-batches, or trained at another one."""
    trained_elsewhere = {
        config_id
        for (config_id, _), record in trials.items()
        if record.get("status") == "ok" and record["probe_id"] != ladders[config_id][0]
    }
    owners: dict[str, str] = {}
    for config_id, probes in ladders.items():
        if len(probes) > 1 or config_id in trained_elsewhere:
            for probe in probes:
                owners.setdefault(probe, config_id)
    return owners


def _at_another_micro_batch(record: Record, probes: Sequence[str], latest: Mapping[_Key, Record]) -> bool:
    """Whether a trial ran out of memory elsewhere than at the first micro-batch whose probe had enough."""
    if record.get("status") != "out_of_memory" or "trial_id" not in record:
        return False
    enough = [probe for probe in probes if latest.get((probe, None), {}).get("status") != "out_of_memory"]
    return bool(record["probe_id"] != (enough or probes)[0])


def _seed(record: Record) -> int:
    return int(record["job"]["seed"] if record["type"] == "asked" else record["seed"])


def _state(record: Record) -> State:
    if record["type"] in ("asked", "failed"):
        return "asked" if record["type"] == "asked" else "failed"
    status: State = record["status"]
    return status


def measured(records: Iterable[Record], planned: Sequence[PlannedPoint], seeds: int | None = None) -> list[Measured]:
    """Per kind of device, the planned outcomes that are ok and comparable; devices in order of first record.

    Where `seeds` is given, trials of seed `seeds` and above don't count.

    Compared is the environment: the data's fingerprint for each way to read it, the precision that was
    used for each config, and torch's version. Where it differs, only records like the latest are kept.
    """
    configs = {point.config.config_id for point in planned}
    probes = {point.probe_id for point in planned}
    latest: dict[tuple[str, str, str], Record] = {}
    for record in records:
        if record["type"] == "final" and record["config_id"] in configs and (seeds is None or record["seed"] < seeds):
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
