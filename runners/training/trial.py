"""A job from start to outcome: train one config with one seed, or measure one config's speed.

Knows neither Ray nor MLflow. Where its time goes, `sweeper.runners.training.clock` says.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from sweeper.runners.device import measuring
from sweeper.runners.device.device_state import DeviceInUse
from sweeper.runners.training import between_jobs, reference
from sweeper.runners.training.attempt import Attempt, Ending
from sweeper.runners.training.clock import Clock
from sweeper.runners.training.context import JobContext, set_up
from sweeper.runners.training.surroundings import Surroundings
from sweeper.runners.training.training import thinned
from sweeper.values.events import Event, Final, Speed
from sweeper.values.records import Job

if TYPE_CHECKING:
    from sweeper.runners.training.checkpoint import Checkpoints


def run_job(job: Job, *, checkpoints: Checkpoints | None = None) -> Iterator[Event]:
    """The events of a job: rungs, then one Final (train) or one Speed (speed). A device out of memory is an outcome.

    A study's trials are short and leave no `checkpoints`. After a loss under FP8 that isn't finite, the rungs begin
    anew: the job is trained again in bf16. Raises DeviceInUse where others use the device and the job doesn't allow it,
    NoHostMemory where the host has none for its batches. Where the reference config is due, it is measured first.
    """
    before = reference.look(job, run_job)
    attempts = _Attempts(job, checkpoints)
    ending = None
    try:
        ending = (yield from attempts.train()) if job.kind == "train" else attempts.probe()
    except (RuntimeError, MemoryError) as error:
        if not measuring.is_out_of_memory(error, attempts.device):
            raise
        attempts.surroundings.note_boundary(error)
        ending = Ending(status="out_of_memory")
    finally:
        attempts.release(ended=ending is not None)
    yield before.told_by(attempts.outcome(ending))


class _Attempts:
    """A job's attempts, one after the other: what the last one leaves goes into the record."""

    def __init__(self, job: Job, checkpoints: Checkpoints | None) -> None:
        self.clock = Clock()
        self.job, self.checkpoints = job, checkpoints
        self.device = measuring.pick_device(job.device)
        self.surroundings = Surroundings(job, self.device)
        self.attempt: Attempt | None = None

    def train(self) -> Generator[Event, None, Ending]:
        """Train and evaluate; where FP8 gives a loss that isn't finite, once more in bf16."""
        context = set_up(self.job, self.device, self.clock, self.surroundings)
        ending = yield from self.begin(context).train()
        if ending is None and self.job.precision == "fp8":
            self.lose_fp8()
            ending = yield from self.begin(context.in_precision("bf16")).train()
        return ending or Ending(status="diverged")

    def probe(self) -> Ending:
        """Measure speed without a schedule to complete."""
        attempt = self.begin(set_up(self.job, self.device, self.clock, self.surroundings))
        self.clock.enter("timing")
        attempt.times.keep(1, attempt.training.timed_steps(1))
        self.surroundings.check_memory()
        attempt.times.time_more(attempt.training)
        if not attempt.times.suffice:
            raise DeviceInUse("other processes came to use the device while it was timed")
        return Ending(status="ok")

    def begin(self, context: JobContext) -> Attempt:
        """A fresh training of the job, or one that goes on from its checkpoint."""
        self.job = context.job
        self.attempt = Attempt(context, self.checkpoints)
        self.attempt.resume()
        return self.attempt

    def lose_fp8(self) -> None:
        """Give the memory back of an FP8 training that came to a NaN, and begin the count of its peak anew.

        Its steps weren't useful, so their seconds are booked to timing.
        """
        assert self.attempt is not None
        curve = self.attempt.curve
        lost = next((step for step, loss in enumerate(curve, start=1) if not math.isfinite(loss)), len(curve))
        self.surroundings.notes.append(f"FP8 gave NaN at step {lost}; trained again in bf16")
        self.end_attempt()
        self.attempt = None
        for part in ("train", "evaluate", "branches"):
            self.clock.move(part, "timing")
        between_jobs.give_back(self.device)
        self.surroundings.start_new_peak()
        self.surroundings.environment.pop("resumed", None)

    def end_attempt(self) -> None:
        """Let go of what the attempt holds: its training, its batches."""
        if self.attempt is not None:
            self.attempt.times.book_first_step(0.0)
            self.attempt.close()

    def release(self, *, ended: bool) -> None:
        """Let go of the model, its optimizer and the batches, so that the next job starts clean.

        A job that `ended` by itself has an outcome to record.
        """
        self.clock.enter("set_up")
        self.end_attempt()
        self.surroundings.close(ended=ended)

    def outcome(self, ending: Ending) -> Final | Speed:
        """The job's last event."""
        curve = self.attempt.curve if self.attempt else []
        common: dict[str, Any] = {
            "job": self.job,
            "status": ending.status,
            "speed": self.surroundings.summarise(self.attempt.times.windows if self.attempt else ()),
            "peak_memory_bytes": self.surroundings.peak_memory_bytes,
            "beside_memory_bytes": self.surroundings.beside_memory_bytes,
            "seconds": measuring.to_milliseconds(self.clock.read()),
            "environment": self.surroundings.environment,
        }
        if self.job.kind == "speed":
            self.surroundings.environment["notes"] = list(self.surroundings.notes)
            return Speed(**common)
        per_step = self.job.config.ours[1].tokens_per_step
        return Final(
            **common,
            val_loss=ending.val_loss,
            val_bpb=ending.val_bpb,
            curve=thinned(curve, tokens_per_step=per_step),
            tokens=len(curve) * per_step,
            notes=tuple(self.surroundings.notes),
            branches=tuple(self.attempt.branches if self.attempt else ()),
        )
