"""The ledger's lines: what was asked, what came out, when a run started. Events go in and come out unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sweeper.values.events import Event, Failed, Final, Rung, Speed, SpeedSummary
from sweeper.values.records import SCHEMA, UNRESOLVED, Config, Execution, Job, Resolved, flat, without_none
from sweeper.values.schedule import Branch


def started_record(*, devices: int, command: str) -> dict[str, Any]:
    """The line of a run that starts: it holds `devices` until its last outcome. `command` is "" where unknown."""
    return {"schema": SCHEMA, "type": "started", "devices": devices, "command": command}


def asked_record(job: Job) -> dict[str, Any]:
    """The line of a job that is about to be handed out, without the reference, which all of a study's jobs share."""
    bare = replace(job, reference=None, reference_every_s=0.0)
    own = {"device": None, "attempt": job.attempt, "job": bare.to_dict()}
    return {"schema": SCHEMA, "type": "asked", **job.ids(), **own}


def job_id_of(record: Mapping[str, Any]) -> str:
    """The job that a line is about, by the id that it has as a `records.Job`; "" of a line about none."""
    if "trial_id" in record:
        return str(record["trial_id"])
    asked = record.get("job", record)
    return f"{record['probe_id']}@{asked['on']}" if asked.get("beside") else str(record.get("probe_id", ""))


def event_record(event: Event) -> dict[str, Any]:
    """The ledger line of an event, without its time: ids, device, seed, config and the event's own fields."""
    job = event.job
    own = {
        key: flat(value) if isinstance(value, SpeedSummary) else value
        for key, value in vars(event).items()
        if key not in ("job", "type", "branches")
    }
    if isinstance(event, Final) and event.branches:
        own["branches"] = [flat(branch) for branch in event.branches]
    device = event.environment.get("device") if not isinstance(event, Rung) else None
    record = {"schema": SCHEMA, "type": event.type, **job.ids(), "device": device, "attempt": job.attempt}
    if not isinstance(event, Rung):
        record |= {"seed": job.seed, **job.config.to_dict(), "execution": flat(job.execution)}
        if job.resolved != UNRESOLVED:
            record["resolved"] = without_none(flat(job.resolved))
        if job.memory_bytes is not None:
            record["memory_bytes"] = job.memory_bytes
        if job.on is not None:
            record |= {"on": job.on, "beside": job.beside}
        record["params"] = flat(job.config.shape.params)
    return {**record, **own}


def event_from_record(record: Mapping[str, Any]) -> Event | None:
    """The event of a ledger line, so that resume can replay it; None for lines that are no event of an outcome."""
    kind = _OUTCOMES.get(record["type"])
    if kind is None:
        return None
    job = Job(
        kind="train" if "trial_id" in record else "speed",
        config=Config.from_dict(record),
        execution=Execution(**record["execution"]),
        seed=record["seed"],
        attempt=record["attempt"],
        memory_bytes=record.get("memory_bytes"),
        resolved=Resolved(**record.get("resolved", {})),
        on=record.get("on"),
        beside=record.get("beside", False),
    )
    fields = {key: record[key] for key in kind.__dataclass_fields__ if key in record and key != "type"}
    if fields.get("speed"):
        fields["speed"] = SpeedSummary(**{**fields["speed"], "windows": tuple(fields["speed"]["windows"])})
    if "curve" in fields:
        fields["curve"] = tuple((tokens, loss) for tokens, loss in fields["curve"])
        fields["notes"] = tuple(fields["notes"])
        fields["branches"] = tuple([Branch(**branch) for branch in record.get("branches", ())])
    event: Event = kind(job=job, **fields)
    return event


_OUTCOMES: Mapping[str, type[Speed] | type[Final] | type[Failed]] = {
    "speed": Speed,
    "final": Final,
    "failed": Failed,
}
