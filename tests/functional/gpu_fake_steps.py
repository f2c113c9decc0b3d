"""Steps for the tests of `benchmarks/gpu.py`'s harness: each in a process of its own, none touches torch."""

import os
import signal
import time
from pathlib import Path

from gpu_steps.rows import Unavailable


def finds(rows):
    """Three rows: figures, something that isn't there, and an error."""
    rows.add("good", lambda: {"value": 1, "green": True})
    rows.add("lacking", _lacks)
    rows.add("bad", _fails)


def finds_all(rows):
    """One good row, and a figure that JSON has no word for; counts how often it was asked."""
    rows.add("good", lambda: {"value": float("nan"), "green": True})
    with (Path(rows.task.folder).parent / "asked").open("a") as file:
        file.write("x")


def is_red(rows):
    """A row that isn't as it must be."""
    rows.add("wrong", lambda: {"green": False})


def grows(rows):
    """By source "a" a row is red and another lacks something, by others neither."""
    first = rows.task.source == "a"
    rows.add("good", lambda: {"value": time.monotonic()})
    rows.add("red", lambda: {"value": rows.task.source, "green": not first})
    rows.add("lacking", _lacks if first else lambda: {"value": rows.task.source, "green": True})


def raises(rows):
    """Fails outside any row, after one."""
    rows.add("good", lambda: {"value": 1})
    _fails()


def dies(rows):
    """Ends as a crash of the driver would."""
    rows.add("good", lambda: {"value": 1})
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(rows):
    """Never ends; a child of it doesn't, either."""
    rows.add("good", lambda: {"value": 1})
    if os.fork() == 0:
        time.sleep(600)
    (Path(rows.task.folder).parent / "hanging").write_text(str(os.getpid()))
    time.sleep(600)


def slow(rows):
    """Rows of which only the first has time."""
    rows.add("first", lambda: {"value": time.monotonic()})
    rows.add("second", lambda: {"value": 2}, least_s=3600)


def _fails():
    raise ValueError("planted")


def _lacks():
    raise Unavailable("the thing isn't here")
