"""Steps, each in a process of its own: what crashes, hangs or poisons the device ends that step alone. Stdlib only.

The steps' processes are forked from one that has imported torch and never touched a device, so that a step starts at
once. A step's rows are in the report as soon as they are found.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from gpu_steps.rows import CUT_SHORT, Task, be_a_step, tell_device, to_find
from sweeper.values.run_folder import write_atomically

PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = ["torch", "sweeper.runners.training.trial"]

OUT_OF_TIME = "not run: out of time"
AT_ITS_LIMIT = "ended at its limit of time"
AS_IT_SHOULD = ("done", OUT_OF_TIME, CUT_SHORT)
LEAST_SHARE = 0.25
"""A step starts while this share of its estimated time is left."""
PATIENCE = 4
LEAST_LIMIT_S = 240
"""A step ends at PATIENCE × its estimate, but not before this."""
REQUIRED_PATIENCE = 2.5
REQUIRED_LEAST_LIMIT_S = {"cuda": 20, "cpu": LEAST_LIMIT_S}
"""The same of required steps, which the end of the run's minutes doesn't bound: whatever hangs, some of it is left."""
OVERTIME_S = 5
"""What a step that isn't required may take beyond the run's minutes."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """`function` is module:name, called with the step's Rows; `seconds` an estimate by type of device.

    `required` steps run however little time is left: without them no speed means anything. A step `each_run` also
    runs where an earlier one has done it: what it leaves isn't in the report.
    """

    name: str
    what: str
    function: str
    seconds: Mapping[str, float]
    required: bool = False
    each_run: bool = False

    def limit_s(self, device_type: str) -> float:
        """Seconds after which the step is ended by itself, however many the run has left."""
        if self.required:
            return max(REQUIRED_LEAST_LIMIT_S[device_type], REQUIRED_PATIENCE * self.seconds[device_type])
        return max(LEAST_LIMIT_S, PATIENCE * self.seconds[device_type])


def asked_device(device_type: str) -> tuple[str, str]:
    """The kind of this machine's device, and what keeps it from being used: exactly one is empty."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=tell_device, args=(theirs, device_type))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return "", "the device can't be asked: see above"
    finally:
        process.join()


class Report:
    """The JSON on disk: one object, rewritten whole after every row."""

    def __init__(self, path: Path, head: Mapping[str, Any], *, before: Path | None = None) -> None:
        """Goes on where the file at `path` ended, or, where none is there, the file `before`, which stays as it is.

        ValueError where that isn't such a report of the same device type.
        """
        self.path = path
        self.data: dict[str, Any] = {**head, "runs": [], "steps": {}}
        known = path if path.exists() or before is None else before
        if known.exists():
            try:
                earlier = json.loads(known.read_text())
                self.data |= {"runs": earlier["runs"], "steps": earlier["steps"]}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{known} isn't a report of this command ({error!r})") from error
            if earlier.get("device") != head["device"]:
                raise ValueError(f"{known} holds results of {earlier.get('device')}, not of {head['device']}")

    def begin(self, run: Mapping[str, Any]) -> None:
        """Note another invocation."""
        self.data["runs"].append(run)
        self.save()

    def keep(self, name: str, result: Mapping[str, Any]) -> None:
        """Put a step's result in the place of its last one."""
        self.data["steps"][name] = result
        self.save()

    def of(self, name: str) -> dict[str, Any]:
        """A step's result so far, {} where there is none."""
        return dict(self.data["steps"].get(name, {}))

    def save(self) -> None:
        """Replace the file."""
        write_atomically(self.path, json.dumps(self.data, indent=1) + "\n")


def run_steps(steps: Sequence[Step], report: Report, task: Task, *, again: bool = False) -> None:
    """Run what isn't done yet, in order; `task.deadline` is that of the whole run, on the monotonic clock.

    What is done and red is repeated once the source has changed.
    """
    for step in steps:
        earlier = {} if again else report.of(step.name)
        left = to_find(earlier.get("rows", {}), task.source)
        if earlier.get("status") == "done" and not left and not step.each_run:
            _say(step, "kept from an earlier run")
            continue
        estimate = step.seconds[task.device]
        if not step.required and task.deadline - time.monotonic() < LEAST_SHARE * estimate:
            if not report.of(step.name).get("rows"):
                report.keep(step.name, {"status": OUT_OF_TIME})
            _say(step, OUT_OF_TIME)
            continue
        _say(step, f"{step.what} (about {estimate:g} s)")
        started = time.monotonic()
        kept_rows = {label: row for label, row in earlier.get("rows", {}).items() if label not in left}
        own = replace(task, step=step.name, function=step.function, required=step.required,
                      earlier_rows=kept_rows, steps=report.data["steps"])  # fmt: skip
        own_limit = started + step.limit_s(task.device)
        limit = own_limit if step.required else min(own_limit, task.deadline + OVERTIME_S)
        status = _supervised(step, own, report, limit=limit)
        if status == AT_ITS_LIMIT and limit < own_limit:
            status = CUT_SHORT
        result = report.of(step.name) | {"seconds": round(time.monotonic() - started, 1)}
        report.keep(step.name, result | ({"status": status} if status else {}))
        _say(step, f"{report.of(step.name)['status']}, {result['seconds']} s")


def _supervised(step: Step, task: Task, report: Report, *, limit: float) -> str | None:
    """Run a step's process, passing its findings on to the report; why it was ended, None where it ended itself."""
    found = Path(tempfile.mkdtemp(dir=task.folder)) / "found.json"
    begun = {"status": "running", "date": datetime.now(UTC).isoformat(timespec="seconds"), "source": task.source}
    report.keep(step.name, begun | {"rows": dict(task.earlier_rows)})
    with _process(replace(task, found=str(found))) as process:
        seen = 0
        while process.is_alive() and time.monotonic() < limit:
            process.join(0.2)
            if found.exists() and (changed := found.stat().st_mtime_ns) != seen:
                seen = changed
                report.keep(step.name, begun | json.loads(found.read_text()))
        stopped = process.is_alive()
    if found.exists():
        report.keep(step.name, begun | json.loads(found.read_text()))
    if stopped:
        return AT_ITS_LIMIT
    return None if report.of(step.name)["status"] != "running" else f"died with exit code {process.exitcode}"


@contextlib.contextmanager
def _process(task: Task) -> Iterator[BaseProcess]:
    """A running step; when left, it and what it started are ended."""
    process = PROCESSES.Process(target=be_a_step, args=(task,))
    process.start()
    try:
        yield process
    finally:
        # The step leads a process group, once it has come to life.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _say(step: Step, text: str) -> None:
    print(f"{step.name}: {text}", flush=True)


def failed(report: Report, steps: Iterable[Step]) -> list[str]:
    """Steps that didn't end as a step should, with time or without."""
    return [step.name for step in steps if report.of(step.name)["status"] not in AS_IT_SHOULD]
