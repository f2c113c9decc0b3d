"""A step from within: its process, and the rows that it finds. Stdlib only: the supervisor shall start at once."""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.values.run_folder import write_atomically

TRACEBACK_CHARACTERS = 3000
BAD = ("error", "not_run")
CUT_SHORT = "cut short: out of time"


class Unavailable(Exception):
    """What a row needs isn't there: neither green nor a failure."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a step's process is told. `device` is a type, `device_name` the kind.

    `folder` is scratch space; `found` the file that it writes its rows to; `steps` the results of the steps so far;
    `earlier_rows` the step's own rows of an earlier run that stay; each says by which `source` it was found.
    """

    device: str
    device_name: str
    folder: str
    deadline: float
    source: str
    step: str = ""
    function: str = ""
    found: str = ""
    required: bool = False
    earlier_rows: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, Any] = field(default_factory=dict)


class Rows:
    """The rows of a step, label → figures. Each is on disk before the next begins.

    A row that raises holds the error, and the step goes on. `green` in a row says whether it is as it must be.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.folder = Path(task.folder)
        self.rows: dict[str, Any] = dict(task.earlier_rows)

    def add(self, label: str, function: Callable[[], Mapping[str, Any]], *, least_s: float = 0) -> Mapping[str, Any]:
        """The row that `function` finds, unless it is known; {} where there are no figures.

        Out of time where fewer than `least_s` seconds are left.
        """
        if label not in self.rows:
            self.rows[label] = self._find(function, least_s)
            self.write("running")
            print(f"  {self.task.step} · {label}: {_short(self.rows[label])}", flush=True)
        row: Mapping[str, Any] = self.rows[label]
        return {} if any(sign in row for sign in (*BAD, "unavailable")) else row

    def _find(self, function: Callable[[], Mapping[str, Any]], least_s: float) -> Mapping[str, Any]:
        if not self.task.required and time.monotonic() + least_s > self.task.deadline:
            return {"not_run": "out of time"}
        start = time.monotonic()
        try:
            figures = dict(function())
        except Unavailable as lacking:
            return {"unavailable": str(lacking), "source": self.task.source}
        except Exception as error:
            return described(error)
        return figures | {"row_s": round(time.monotonic() - start, 2), "source": self.task.source}

    def forget(self) -> None:
        """Let go of rows of a run that was cut, where the others mean nothing without them."""
        self.rows = {}

    def green(self) -> bool:
        """Whether nothing found is as it must not be."""
        return all(row.get("green", True) and "error" not in row for row in self.rows.values())

    def write(self, status: str, **more: Any) -> None:
        """Put what is known on disk."""
        value = {"status": status, "green": self.green(), **more, "rows": self.rows}
        write_atomically(Path(self.task.found), json.dumps(plain(value), allow_nan=False))


def to_find(rows: Mapping[str, Mapping[str, Any]], source: str) -> list[str]:
    """Labels of rows of an earlier run to be found again: failed or not run; red or unavailable by another source."""

    def wanting(row: Mapping[str, Any]) -> bool:
        return not row.get("green", True) or "unavailable" in row

    return [
        label
        for label, row in rows.items()
        if any(sign in row for sign in BAD) or (wanting(row) and row.get("source") != source)
    ]


def plain(value: Any) -> Any:
    """`value` as JSON has it: NaN and infinities, which it doesn't have, become words, and so does what is foreign."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def described(error: BaseException) -> dict[str, Any]:
    """An exception as a row: its type and message, and the end of its traceback."""
    tail = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
    return {"error": f"{type(error).__name__}: {error}"[:1000], "traceback": tail}


def tell_device(connection: Any, device_type: str) -> None:
    """Send the device type of a type, and what keeps this machine from using one: exactly one is empty."""
    import torch

    if device_type == "cuda" and not torch.cuda.is_available():
        problem = f"torch {torch.__version__} can use no CUDA device here: --device cpu runs this command's toys"
        connection.send(("", problem))
        return
    from sweeper.runners.device.measuring import device_kind, pick_device

    connection.send((device_kind(pick_device(device_type)), ""))


def be_a_step(task: Task) -> None:
    """The process of a step: lead a process group, end with the supervisor, find rows."""
    os.setsid()
    supervisor = multiprocessing.parent_process()
    threading.Thread(target=_end_with, args=(supervisor,), daemon=True).start()
    rows = Rows(task)
    try:
        module, _, name = task.function.partition(":")
        getattr(importlib.import_module(module), name)(rows)
    except Exception as error:
        rows.write("failed", green=False, **described(error))
        return
    rows.write(_status(rows.rows.values()))


def _status(rows: Iterable[Mapping[str, Any]]) -> str:
    """done where nothing is left that another run could find."""
    found = list(rows)
    failed, missing = (sum(sign in row for row in found) for sign in BAD)
    if missing:
        return CUT_SHORT
    return f"{failed} of {len(found)} rows failed" if failed else "done"


def _end_with(supervisor: Any) -> None:
    multiprocessing.connection.wait([supervisor.sentinel])
    os.killpg(0, signal.SIGKILL)


def _short(row: Mapping[str, Any]) -> str:
    """A row in one line: its figures, without lists and inner objects."""
    left_out = ("traceback", "source")
    shown = {key: value for key, value in row.items() if key not in left_out and not isinstance(value, (dict, list))}
    return ", ".join(f"{key} {_figure(value)}" for key, value in shown.items())


def _figure(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
