"""How fast a training's steps are: the windows that its speed comes from, and what compiling them took."""

from __future__ import annotations

import gc

from sweeper.runners.device.measuring import WARM_UP_STEPS
from sweeper.runners.training.context import JobContext
from sweeper.runners.training.speeds import MIN_WINDOWS, window_seconds
from sweeper.runners.training.training import Training

PROBE_WINDOWS = 5
PROBE_WINDOW_SECONDS = 0.5


class StepTimes:
    """Told of a training's steps as they are taken. `windows` are (steps, seconds) of those that count for its speed.

    The first step compiles, and some more warm up: after them windows are kept.
    """

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self.windows: list[tuple[int, float]] = []
        self._steps = 0
        self._first_s: float | None = None

    def keep(self, count: int, taken: float) -> None:
        """Keep the seconds of `count` steps as a window once warm; of the first step, what it cost beyond a later one
        apart.
        """
        self._steps += count
        if self._steps == 1:
            self._first_s = taken
            gc.freeze()  # so that later collections needn't look at the many objects that compiling has left
            self._context.surroundings.watch_load()
        else:
            self.book_first_step(taken / count)
        if self._steps > 1 + WARM_UP_STEPS:
            self._keep_window(count, taken)

    def book_first_step(self, step_seconds: float) -> None:
        """Once: book what the first step cost beyond `step_seconds` to compilation."""
        if self._first_s is not None:
            source = "train" if self._context.job.kind == "train" else "timing"
            self._context.clock.move(source, "compile", self._first_s - step_seconds)
            self._first_s = None

    def _keep_window(self, count: int, taken: float) -> None:
        """Keep steps and their seconds, unless others were using the device."""
        if self._context.surroundings.alone(taken):
            self.windows.append((count, taken))

    @property
    def suffice(self) -> bool:
        """Whether there are windows enough for a speed."""
        return len(self.windows) >= MIN_WINDOWS

    @property
    def last_rate(self) -> float | None:
        """The tokens/s of the last window, None before there is one."""
        if not self.windows:
            return None
        steps, seconds = self.windows[-1]
        return self._context.tokens(steps) / seconds

    def time_more(self, training: Training) -> None:
        """Take steps for the speed alone: the rest of the warm-up, then windows of half a second or more."""
        clock, surroundings = self._context.clock, self._context.surroundings
        clock.enter("timing")
        self.windows.clear()
        missing = max(1, 1 + WARM_UP_STEPS - self._steps)
        each = training.timed_steps(missing) / missing
        self.book_first_step(each)
        seconds = window_seconds(self._context.job, windows=PROBE_WINDOWS, shortest=PROBE_WINDOW_SECONDS)
        per_window = max(1, round(seconds / each))
        for _ in range(PROBE_WINDOWS):
            surroundings.begin_window()
            self._keep_window(per_window, training.timed_steps(per_window))
        training.losses.clear()
        clock.enter("set_up")
        surroundings.check_memory()
