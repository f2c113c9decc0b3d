"""The process that writes to MLflow what `sweeper.tracking.tracker` sends it, behind the study's driver.

It is one of its own: MLflow's store is Python that computes, and would keep the driver's thread waiting for the
interpreter.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from sweeper.tracking.projection import MAX_PARAM
from sweeper.tracking.store import Writer, may_come_back, open_store, unwritable

PAUSE = 1.0
"""Seconds from one write to the next: what comes within them is written together, a short trial in three calls."""
FIRST_WAIT, LONGEST_WAIT, LONGEST_IN_A_HURRY = 0.5, 30.0, 2.0
"""Seconds from a failure to the next try: doubled each time, at most the longest, or that while someone waits."""
NICENESS = 10
"""Of this process: trials that are timed on the same cores come first."""

Task = tuple[Any, ...]
"""("add", records, whether they are new), ("artifacts",), ("end", status, milliseconds). And ("hurry", whether to),
which doesn't count as one."""


def main() -> None:
    """Take the writer's fields and then tasks from standard input, pickled; say on standard output how far it is."""
    os.nice(NICENESS)
    tasks, said = sys.stdin.buffer, os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # MLflow may print
    fields = pickle.load(tasks)
    with _alone(fields["folder"].tracking_lock):
        _Loop(Writer(**fields), said).run(tasks)


def ask(uri: str) -> None:
    """Print why MLflow will never take the store at `uri`, nothing where it may."""
    try:
        open_store(uri)
    except Exception as error:
        print("" if may_come_back(error) else said_of(error))


def said_of(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:MAX_PARAM]


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait for the writing process of a driver that was killed: it may be in the middle of a write.

    Where no file can be locked the process goes on without.
    """
    try:
        file = open(lock, "a", encoding="utf-8")  # noqa: SIM115  closed below
    except OSError:
        yield
        return
    with file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Loop:
    """Takes in all that waits, writes the difference; after a failure again, ever later. Ends with its input."""

    def __init__(self, writer: Writer, said: TextIO) -> None:
        self._writer, self._said = writer, said
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._began, self._error, self._lost = 0.0, "", False
        self._opened = self._refused = self._unwritable = False

    def run(self, tasks: BinaryIO) -> None:
        """Until the input ends, which is when the study's driver does: what isn't written then is caught up later."""
        threading.Thread(target=self._read, args=(tasks,), daemon=True).start()
        self._open()
        taken, wait, waiting = 0, 0.0, self._next_tasks(None)
        while None not in waiting:
            for task in waiting:
                taken += 1
                self._take(task)
            self._began = time.monotonic()
            try:
                self._writer.write()
            except Exception as error:
                self._note(error)
                self._unwritable = unwritable(error)
                longest = LONGEST_IN_A_HURRY if self._hurry.is_set() else LONGEST_WAIT
                wait = min(max(2 * wait, FIRST_WAIT), longest)
                self._say(written=None)
            else:
                wait = 0.0
                self._error = self._error if self._lost else ""
                self._opened, self._refused, self._unwritable = True, False, False
                self._say(written=taken)
            waiting = self._next_tasks(wait or None)

    def _open(self) -> None:
        """Say whether there is a store, or one that MLflow will never take."""
        try:
            self._writer.open()
        except Exception as error:
            self._note(error)
            self._refused, self._unwritable = not may_come_back(error), unwritable(error)
        self._opened = True
        self._say(written=None)

    def _read(self, tasks: BinaryIO) -> None:
        try:
            while True:
                task = pickle.load(tasks)
                if task[0] != "hurry":
                    self._queue.put(task)
                elif task[1]:
                    self._hurry.set()
                else:
                    self._hurry.clear()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._hurry.set()
            self._queue.put(None)

    def _take(self, task: Task | None) -> None:
        """A record that can't be projected is left out, and the rest goes on."""
        try:
            match task:
                case ("add", records, live):
                    self._writer.add(records, live=live)
                case ("artifacts",):
                    self._writer.want_artifacts()
                case ("end", status, time_ms):
                    self._writer.end(status, time_ms=time_ms)
        except Exception as error:
            self._lost = True
            self._note(error)

    def _note(self, error: Exception) -> None:
        self._error = said_of(error)

    def _say(self, *, written: int | None) -> None:
        said = {"written": written, "error": self._error, "lost": self._lost}
        state = {"opened": self._opened, "refused": self._refused, "unwritable": self._unwritable}
        print(json.dumps({**said, **state}), file=self._said)

    def _next_tasks(self, timeout: float | None) -> list[Task | None]:
        tasks = []
        try:
            tasks.append(self._queue.get(timeout=timeout))
            self._hurry.wait(max(0.0, self._began + PAUSE - time.monotonic()))
            while True:
                tasks.append(self._queue.get_nowait())
        except queue.Empty:
            return tasks
