"""Runs the jobs of a session one after another in this process, for debugging."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from sweeper.runners.training.job_run import DEFAULT_TARGET, JobRun, stopped
from sweeper.values.errors import CantWrite, SweeperError
from sweeper.values.events import Continue, Done, Event, Rung, Stop, Wait
from sweeper.values.records import Job


class Asked(Protocol):
    """Where jobs come from and where their events go: `sweeper.running.session.Session`."""

    @property
    def kinds(self) -> Sequence[str]:
        """The device types that jobs are asked for, none where they aren't told apart."""
        ...

    def ask(self, free: Sequence[str] = ()) -> Job | Wait | Done:
        """The next job, Wait while the rest depends on running ones, Done when nothing is left.

        Where there are `kinds`, it is one for a kind of the `free` ones.
        """
        ...

    def tell(self, event: Event) -> Continue | Stop:
        """Take in an event; Stop ends its job."""
        ...


def run(
    session: Asked, *, job_target: str = DEFAULT_TARGET, logs: Path, options: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Run jobs until none is left. What a job prints goes to `logs/<job_id>.log`.

    `options` are handed to the job's function by name, like `checkpoints`. CantWrite of a job ends the run, without an
    outcome: its files lie where the ledger does.
    """
    while True:
        answer = session.ask()
        if isinstance(answer, Done):
            return
        if isinstance(answer, Wait):
            raise SweeperError("the search waits for an outcome, but no job is running")
        running = JobRun(answer, job_target=job_target, logs=logs, options=options, raises=(CantWrite,))
        _run_job(session, running, answer)


def _run_job(session: Asked, running: JobRun, job: Job) -> None:
    rungs: list[Rung] = []
    began = time.monotonic()
    try:
        while isinstance(event := running.next_event(), Rung):
            rungs.append(event)
            if isinstance(session.tell(event), Stop):
                running.close()
                event = stopped(job, rungs, seconds=time.monotonic() - began)
                break
    finally:
        running.close()
    session.tell(event)
