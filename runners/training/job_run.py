"""One job being run, whatever runs it: its events one by one, its output in its log, its faults as values."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sweeper.runners.training.speeds import summarise
from sweeper.values.events import Event, Failed, Final, Rung
from sweeper.values.records import Job
from sweeper.values.run_folder import writing

DEFAULT_TARGET = "sweeper.runners.training.trial:run_job"
"""Where the function lies that turns a job into its events, as "module:function"."""

JobFunction = Callable[..., Iterator[Event]]
"""Takes a Job, and by name the options that its runner was given."""


def settle_threads(cpus: int) -> None:
    """Give a job's computing and compiling `cpus` threads. Only counts before torch is imported."""
    for name in ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        os.environ[name] = str(cpus)


class JobRun:
    """A started job. `next_event` is called until it gives an outcome, which is any event but a Rung.

    `job_target` is imported when the first event is wanted, so that importing it may fail as the job may; it is
    called with the job and `options`.
    """

    def __init__(
        self,
        job: Job,
        *,
        job_target: str,
        logs: Path,
        options: Mapping[str, Any] = MappingProxyType({}),
        raises: tuple[type[BaseException], ...] = (),
    ) -> None:
        """`raises`: which of its exceptions are the run's, and no outcome of the job."""
        self._job, self._target, self._log, self._options = job, job_target, log_path(job, logs), options
        self._raises = raises
        self._events: Iterator[Event] | None = None

    def next_event(self) -> Event:
        """The next event. An exception, or an end without an outcome, is a Failed."""
        with output_to(self._log):
            try:
                if self._events is None:
                    self._events = load_target(self._target)(self._job, **self._options)
                event = next(self._events, None)
            except self._raises:
                raise
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                return failed(self._job, error)
        return event or Failed(job=self._job, error="the job ended without an outcome")

    def close(self) -> None:
        """Let the job release what it holds. What it raises on its way out only goes to its log."""
        close = getattr(self._events, "close", None)
        self._events = None
        if close is not None:
            with output_to(self._log):
                try:
                    close()
                except (Exception, SystemExit):
                    traceback.print_exc()


def load_target(job_target: str) -> JobFunction:
    """The function that "module:function" names. Raises ImportError or AttributeError."""
    module, _, name = job_target.partition(":")
    function: JobFunction = getattr(importlib.import_module(module), name)
    return function


def log_path(job: Job, logs: Path) -> Path:
    """Where what the job prints goes; attempts follow one another."""
    return logs / f"{job.job_id}.log"


def failed(job: Job, error: BaseException) -> Failed:
    """A job's exception as a value."""
    text = "".join(traceback.format_exception(error))
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return Failed(job=job, error=f"{name}: {lines[0]}" if lines else name, traceback=text)


def stopped(job: Job, rungs: Sequence[Rung], *, seconds: float) -> Final:
    """The outcome of a job that was told to stop after `rungs`, `seconds` after it was handed out.

    Rungs of a training that was begun anew don't count. It keeps its speed where enough of it was timed.
    """
    begun = max((n for n in range(1, len(rungs)) if rungs[n].tokens <= rungs[n - 1].tokens), default=0)
    return Final(
        job=rungs[-1].job if rungs else job,
        status="stopped_early",
        val_loss=None,
        val_bpb=None,
        curve=tuple((rung.tokens, rung.loss) for rung in rungs[begun:]),
        tokens=rungs[-1].tokens if rungs else 0,
        seconds=_spent(rungs[begun:], seconds),
        speed=summarise(job, [rung.tokens_per_s for rung in rungs[begun:] if rung.tokens_per_s]),
        peak_memory_bytes=None,
        environment={"device": rungs[-1].device} if rungs else {},
    )


def _spent(rungs: Sequence[Rung], seconds: float) -> dict[str, float]:
    """What of a stopped job's seconds its timed steps took; the rest is booked to its set-up."""
    train = sum(
        (rung.tokens - before.tokens) / rung.tokens_per_s for before, rung in pairwise(rungs) if rung.tokens_per_s
    )
    return {"set_up": round(max(0.0, seconds - train), 3), "train": round(train, 3)}


def last_lines(path: Path, *, lines: int = 20) -> str:
    """The end of a log, empty when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 200 * lines))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Append all that this process prints to `path`: Python's streams, and what libraries write to 1 and 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with writing(path):
            log = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  so that only opening it is its fault
        with log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield
    finally:
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
