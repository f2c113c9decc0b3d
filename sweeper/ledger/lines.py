"""The ledger's lines as they are written: what was asked, what came out, when a run started.

`sweeper.ledger.typed` reads them, so that events come out as they went in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sweeper.values.events import Event, Final, Rung, SpeedSummary
from sweeper.values.records import SCHEMA, UNRESOLVED, Job, flat, without_none


def started_record(*, devices: int, command: str) -> dict[str, Any]:
    """The line of a run that starts: it holds `devices` until its last outcome. `command` is "" where unknown."""
    return {"schema": SCHEMA, "type": "started", "devices": devices, "command": command}


def asked_record(job: Job) -> dict[str, Any]:
    """The line of a job that is about to be handed out, without the reference, which all of a study's jobs share."""
    bare = replace(job, reference=None, reference_every_s=0.0)
    own = {"device": None, "attempt": job.attempt, "job": bare.to_dict()}
    return {"schema": SCHEMA, "type": "asked", **job.ids(), **own}


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
