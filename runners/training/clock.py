"""A job's seconds, each booked once.

    set_up      data, model, giving memory back, handing rungs over: all that isn't below
    compile     what the first step cost beyond a later one
    train       the schedule's own optimizer steps
    evaluate    the held-out loss
    branches    the steps that branches take of their own, and their held-out losses
    timing      steps taken for the speed alone, and a training that was lost to a NaN under FP8

Useful are train, evaluate and branches. From the job's start to its outcome the six add up to the time that passed.
Measuring the reference config before a job (`sweeper.runners.training.reference`) is on none of them: its seconds stand
apart, as `reference`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

PARTS = ("set_up", "compile", "train", "evaluate", "branches", "timing")


class Clock:
    """Runs from the moment it is made, on `set_up` at first."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = "set_up", time.perf_counter()

    def enter(self, part: str) -> None:
        """From now on, time is booked to `part`."""
        now = time.perf_counter()
        self._seconds[self._part] += now - self._since
        self._part, self._since = part, now

    def move(self, source: str, target: str, seconds: float | None = None) -> None:
        """Book seconds of `source` to `target` instead: all of them, or as many as there are of `seconds`."""
        self.enter(self._part)
        moved = min(self._seconds[source], self._seconds[source] if seconds is None else max(0.0, seconds))
        self._seconds[source] -= moved
        self._seconds[target] += moved

    def read(self) -> dict[str, float]:
        """Seconds by part, up to now."""
        self.enter(self._part)
        return dict(self._seconds)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count in what an earlier process has spent on the same job."""
        for part, value in seconds.items():
            self._seconds[part] += value
