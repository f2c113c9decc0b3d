"""One training of a job in one precision: from its first step, or a checkpoint's, to its held-out loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sweeper.runners.device.measuring import WARM_UP_STEPS
from sweeper.runners.training import branches
from sweeper.runners.training.context import JobContext
from sweeper.runners.training.evaluation import held_out_loss, is_worse_than_uniform
from sweeper.runners.training.step_times import StepTimes
from sweeper.runners.training.training import build_training
from sweeper.values.errors import CantWrite
from sweeper.values.events import Event, Rung
from sweeper.values.records import Status
from sweeper.values.schedule import Branch

if TYPE_CHECKING:
    from sweeper.runners.training.checkpoint import Checkpoints

RUNGS = 10


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a job ended, with its held-out loss where it has one."""

    status: Status
    val_loss: float | None = None
    val_bpb: float | None = None


class Attempt:
    """A training, and what came of it: `curve`, the mean loss of each step, `branches` and `times`, which outlive it.

    A second attempt is another object: nothing of the first is in it.
    """

    def __init__(self, context: JobContext, checkpoints: Checkpoints | None) -> None:
        self._context, self._checkpoints = context, checkpoints
        fingerprint = context.dataset.fingerprint
        self._saved = checkpoints.last(context.job, data_fingerprint=fingerprint) if checkpoints else None
        self._began_at = self._saved.header.step if self._saved else 0
        self._batches = context.batches_after(self._began_at)
        self.training = build_training(job=context.job, device=context.device, batches=self._batches)
        context.surroundings.environment["precision"] = asdict(self.training.report)
        self.times = StepTimes(context)
        self.curve: list[float] = []
        self.branches: list[Branch] = []

    def resume(self) -> None:
        """Take up the training where an earlier process has left it, its losses, branches and clocks with it."""
        context, saved = self._context, self._saved
        if saved is None:
            return
        self.curve, self.branches = saved.load_into(self.training), saved.branches
        context.clock.add(saved.header.seconds)
        self.branches += branches.missed(context, self.training.schedule, step=self._began_at, taken=self.branches)
        resumed = {"step": self._began_at, "seconds": dict(saved.header.seconds)}
        context.surroundings.environment["resumed"] = resumed

    def train(self) -> Generator[Event, None, Ending | None]:
        """Take the schedule's steps, evaluate, and where they were too few to be timed, take more; None after a NaN."""
        surroundings, times = self._context.surroundings, self.times
        for count in self._segments():
            surroundings.begin_window()
            taken = self._take_steps(count)
            losses = self.training.collect_losses()
            self.curve += losses
            times.keep(count, taken)
            if not all(map(math.isfinite, losses)):
                return None
            surroundings.check_memory()
            self._leave_checkpoint()
            yield Rung(
                job=self._context.job,
                tokens=self._context.tokens(self.training.step_index),
                loss=statistics.fmean(losses),
                tokens_per_s=times.last_rate,
                device=surroundings.environment["device"],
            )
        return self._evaluated()

    def _evaluated(self) -> Ending | None:
        """The trained model's loss, and more steps where those before don't make a speed; None after a NaN."""
        held_out = held_out_loss(self._context, self.training, part="evaluate")
        if not math.isfinite(held_out.loss):
            return None
        if not self.times.suffice:
            self.times.time_more(self.training)
        if not self.times.suffice:
            self._context.note("other processes used the device, so that the trial's speed isn't known")
        diverged = is_worse_than_uniform(held_out.loss, vocab_size=self._context.vocab_size)
        return Ending(status="diverged" if diverged else "ok", val_loss=held_out.loss, val_bpb=held_out.bpb)

    def _segments(self) -> list[int]:
        """Steps between two looks at the clock: the first step, the warm-up, then equal windows."""
        steps = self.training.schedule.steps - self._began_at
        start = [count for count in (min(1, steps), min(WARM_UP_STEPS, steps - 1)) if count > 0]
        rest = steps - sum(start)
        windows = min(RUNGS, rest)
        segments = start + [rest // windows + (i < rest % windows) for i in range(windows)]
        return self._checkpoints.cut(segments, start=self._began_at) if self._checkpoints else segments

    def _take_steps(self, count: int) -> float:
        """Take `count` of the schedule's steps, and the branches that leave on the way; the seconds of the steps."""
        context, training = self._context, self.training
        taken, end = 0.0, training.step_index + count
        forks = branches.planned_branches(context.job, training.schedule)
        while (at := training.step_index) < end:
            stop = min((one.stable_until for _, one in forks if at < one.stable_until < end), default=end)
            context.clock.enter("train")
            taken += training.timed_steps(stop - at)
            context.clock.enter("set_up")
            is_warm = stop - self._began_at > 1 + WARM_UP_STEPS
            for fraction, schedule in forks:
                if schedule.stable_until == stop:
                    self.branches.append(branches.take(context, training, fraction, schedule, is_warm=is_warm))
        return taken

    def _leave_checkpoint(self) -> None:
        """Write what the training can go on from, where that is due.

        That it couldn't be written ends no training, but that of the last, the trained model: CantWrite or OSError.
        """
        step, steps, clock = self.training.step_index, self.training.schedule.steps, self._context.clock
        if self._checkpoints is None or not self._checkpoints.due(step, steps=steps):
            return
        clock.enter("timing")
        try:
            self._checkpoints.save(
                self.training,
                losses=self.curve,
                branches=self.branches,
                seconds=clock.read(),
                data_fingerprint=self._context.dataset.fingerprint,
            )
        except (CantWrite, OSError) as error:
            if step == steps:
                raise
            self._context.note(f"the checkpoint at step {step} couldn't be written: {error}")
        clock.enter("set_up")

    def close(self) -> None:
        """Let go of the training, also where an exception on its way still refers to this attempt."""
        self._batches.close()
        del self.training
