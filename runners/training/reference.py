"""The reference config, measured now and then by every worker process, so that its device's drift is known.

A job brings along which config that is and how often it's due (`Job.reference`, `reference_every_s`). Where it is due,
its speed is measured before the job, as a probe's is, and goes into the record of an outcome:

    environment.reference    a list of {probe_id, tokens_per_s, low, high, windows, time}: when it ended (ISO 8601, UTC)
    seconds.reference        what it took before this very job, which is on none of the job's own clocks

The list has one entry, or also those of jobs before it that left no record of their own (failed, told to stop).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sweeper.runners.device.device_state import DeviceInUse
from sweeper.values.events import Event, Final, Speed
from sweeper.values.records import Job

FIRST = 1 / 3
"""When a process measures its first, as a fraction of the interval: one that ends before never pays for any."""


@dataclass(kw_only=True)
class _Log:
    """What this process knows of one reference config: when it next is due, and what no record has told yet."""

    due: float
    untold: list[dict[str, Any]] = field(default_factory=list)


_logs: dict[tuple[str, str], _Log] = {}
"""By type of device and probe id; a process has one device of a type."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What looking at the reference before a job has come to. `seconds` None: it wasn't due."""

    untold: list[dict[str, Any]] = field(default_factory=list)
    seconds: float | None = None
    note: str = ""

    def told_by(self, outcome: Final | Speed) -> Final | Speed:
        """The job's outcome with what its record has to tell of the reference."""
        environment, seconds = dict(outcome.environment), dict(outcome.seconds)
        if self.untold:
            environment["reference"] = list(self.untold)
            self.untold.clear()
        if self.seconds is not None:
            seconds["reference"] = round(self.seconds, 3)
        new = (self.note,) if self.note else ()
        if isinstance(outcome, Final):
            return replace(outcome, environment=environment, seconds=seconds, notes=(*outcome.notes, *new))
        if new:
            environment["notes"] = [*environment.get("notes", ()), *new]
        return replace(outcome, environment=environment, seconds=seconds)


def look(job: Job, run: Callable[[Job], Iterator[Event]]) -> Look:
    """Measure the job's reference with `run` if that is due. What goes wrong in it is a note, and no error."""
    if job.reference is None:
        return Look()
    now, every = time.monotonic(), job.reference_every_s
    log = _logs.setdefault((job.device, job.reference.probe_id), _Log(due=now + FIRST * every))
    if now < log.due:
        return Look(untold=log.untold)
    note = ""
    try:
        *_, outcome = run(job.reference)
        if isinstance(outcome, Speed) and outcome.speed is not None:
            log.untold.append(_entry(outcome))
        else:
            status = outcome.status if isinstance(outcome, Speed | Final) else "no outcome"
            note = f"the reference config couldn't be measured: {status.replace('_', ' ')}"
    except Exception as error:
        traceback.print_exc()
        why = "other processes use the device" if isinstance(error, DeviceInUse) else type(error).__name__
        note = f"the reference config couldn't be measured: {why}"
    done = time.monotonic()
    log.due = done + every
    return Look(untold=log.untold, seconds=done - now, note=note)


def _entry(outcome: Speed) -> dict[str, Any]:
    speed = outcome.speed
    assert speed is not None
    return {
        "probe_id": outcome.job.probe_id,
        "tokens_per_s": speed.tokens_per_s,
        "low": speed.low,
        "high": speed.high,
        "windows": list(speed.windows),
        "time": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
