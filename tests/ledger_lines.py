"""Records, as tests write them, as the lines that the ledger reads; and a ledger's lines as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fakes import make_final, make_job

from sweeper.ledger.lines import asked_record, event_record
from sweeper.ledger.typed import Line, Outcome, read_line
from sweeper.values.events import Failed, Final, Rung, Speed


def as_line(record: Mapping[str, Any]) -> Line:
    """As it would be read from a ledger."""
    return read_line(json.dumps(record).encode())


def as_lines(records: Iterable[Mapping[str, Any]]) -> list[Line]:
    """As they would be read from a ledger."""
    return [as_line(record) for record in records]


def plain_lines(path: Path) -> list[dict[str, Any]]:
    """A ledger's whole lines, without sweeper's reader; none where there is no ledger."""
    return [json.loads(one) for one in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def event_of(record: Mapping[str, Any]) -> Speed | Final | Failed | None:
    """The event that a record was made of; None of one that is no outcome."""
    found = as_line(record)
    return found.event if isinstance(found, Outcome) else None


def record_of(kind: str, **fields: Any) -> dict[str, Any]:
    """A record of this type with all that such a line has, but for what `fields` change."""
    job = make_job()
    events = {
        "rung": Rung(job=job, tokens=1024, loss=5.0),
        "final": make_final(job),
        "failed": Failed(job=job, error="ValueError: boom"),
        "speed": Speed(
            job=replace(job, kind="speed"), status="ok", speed=None, peak_memory_bytes=None, seconds={}, environment={}
        ),
    }
    whole = asked_record(job) if kind == "asked" else event_record(events[kind])
    return {**whole, "time": "2026-01-01T00:00:00.000000+00:00", **fields}
