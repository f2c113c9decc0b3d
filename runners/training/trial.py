"""A job from start to outcome: train one config with one seed, or measure one config's speed.

Knows neither Ray nor MLflow. Where its time goes, `sweeper.runners.training.clock` says.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sweeper.runners.data.dataset import (
    Batch,
    Dataset,
    epochs,
    held_out_batches,
    held_out_bytes_per_token,
    train_batches,
)
from sweeper.runners.device import measuring
from sweeper.runners.device.device_state import DeviceInUse
from sweeper.runners.device.host_memory import NoHostMemory
from sweeper.runners.training import between_jobs, branches, reference
from sweeper.runners.training.clock import Clock
from sweeper.runners.training.speeds import MIN_WINDOWS, window_seconds
from sweeper.runners.training.surroundings import Surroundings
from sweeper.runners.training.training import Training, evaluate, thinned
from sweeper.values.errors import CantWrite, DataError
from sweeper.values.events import Event, Final, Rung, Speed
from sweeper.values.records import Job, Status
from sweeper.values.schedule import Branch, Schedule

if TYPE_CHECKING:
    from sweeper.runners.training.checkpoint import Checkpoints, Saved

RUNGS = 10
PROBE_WINDOWS = 5
PROBE_WINDOW_SECONDS = 0.5


def run_job(job: Job, *, checkpoints: Checkpoints | None = None) -> Iterator[Event]:
    """The events of a job: rungs, then one Final (train) or one Speed (speed). A device out of memory is an outcome.

    A study's trials are short and leave no `checkpoints`. After a loss under FP8 that isn't finite, the rungs begin
    anew: the job is trained again in bf16. Raises DeviceInUse where others use the device and the job doesn't allow it,
    NoHostMemory where the host has none for its batches. Where the reference config is due, it is measured first.
    """
    before = reference.look(job, run_job)
    run = _Run(job, checkpoints)
    ending = None
    try:
        ending = (yield from run.train()) if job.kind == "train" else run.probe()
    except (RuntimeError, MemoryError) as error:
        if not measuring.is_out_of_memory(error, run.device):
            raise
        run.surroundings.note_boundary(error)
        ending = _Ending(status="out_of_memory")
    finally:
        run.release(ended=ending is not None)
    yield before.told_by(run.outcome(ending))


@dataclass(frozen=True, kw_only=True)
class _Ending:
    """How a job ended, with its held-out loss where it has one."""

    status: Status
    val_loss: float | None = None
    val_bpb: float | None = None


class _Run:
    """The state of one job while it runs: clocks, curve, notes."""

    def __init__(self, job: Job, checkpoints: Checkpoints | None) -> None:
        self.clock = Clock()
        self.job, self.checkpoints = job, checkpoints
        self.recipe = job.config.recipe
        self.device = measuring.pick_device(job.device)
        self.surroundings = Surroundings(job, self.device)
        self.notes, self.environment = self.surroundings.notes, self.surroundings.environment
        self.training: Training | None = None
        self.batches: Generator[Batch] | None = None
        self.curve: list[float] = []
        self.branches: list[Branch] = []
        self.windows: list[tuple[int, float]] = []
        self.began_at = 0
        self.first_step: float | None = None

    def set_up(self) -> Dataset:
        """Open the data, build the model; say what will matter to who reads the result."""
        self.surroundings.enter()
        dataset = self.open_data()
        passes = epochs(dataset, (self.job.steps or 0) * self.recipe.tokens_per_step, self.recipe.seq_len)
        if passes > 1:
            self.notes.append(f"the trial passed over its data {passes:.2f} times")
        self.environment |= {
            "data_fingerprint": dataset.fingerprint,
            "data": dataset.description,
            "epochs": round(passes, 4),
        }
        self.build(dataset)
        return dataset

    def open_data(self) -> Dataset:
        """The job's data; DataError where it isn't what the driver has, which may be on another machine."""
        name, path, wanted = self.recipe.data, self.job.data_path, self.job.data_fingerprint
        if path is not None and wanted is not None and not os.path.exists(path):
            raise DataError(f"data: {path} isn't on the machine of this job: it has to be at that path on every node")
        dataset = between_jobs.data_of(name, path, self.job.config.shape.vocab_size)
        if wanted not in (None, dataset.fingerprint):
            raise DataError(
                f"{name}: the data where this job runs has fingerprint {dataset.fingerprint} "
                f"({dataset.description}), the driver's has {wanted}: "
                + ("bring the same files to every node" if path else "install the same Python and packages everywhere")
            )
        return dataset

    def build(self, dataset: Dataset) -> None:
        """A fresh training, or one that goes on from its checkpoint."""
        saved = self.checkpoints.last(self.job, data_fingerprint=dataset.fingerprint) if self.checkpoints else None
        self.batches = self.batches_after(saved.header.step if saved else 0, dataset)
        self.training = Training(job=self.job, device=self.device, batches=self.batches)
        self.environment["precision"] = asdict(self.training.report)
        if saved is not None:
            self.go_on(saved)

    def batches_after(self, step: int, dataset: Dataset) -> Generator[Batch]:
        """The micro-batches of the steps that follow the first `step`."""
        return train_batches(
            dataset,
            seed=self.job.seed,
            batch_size=self.job.execution.batch_size,
            seq_len=self.recipe.seq_len,
            device=self.device,
            skip=step * self.recipe.tokens_per_step // self.recipe.seq_len,
        )

    def go_on(self, saved: Saved) -> None:
        """Take up a training where an earlier process has left it, its losses, branches and clocks with it."""
        self.curve, self.branches = saved.load_into(self.training), saved.branches
        self.began_at = self.training.step_index
        self.clock.add(saved.header.seconds)
        have = {branch.fraction for branch in self.branches}
        for fraction, schedule in branches.planned(self.job, self.training.schedule):
            if schedule.stable_until <= self.began_at and fraction not in have:
                self.notes.append(f"{_named(fraction)} wasn't taken: the training was past it already")
                self.branches.append(Branch(fraction=fraction, tokens=schedule.steps * self.recipe.tokens_per_step))
        self.environment["resumed"] = {"step": self.began_at, "seconds": dict(saved.header.seconds)}

    def leave_checkpoint(self) -> None:
        """Write what the training can go on from, where that is due.

        That it couldn't be written ends no training, but that of the last, the trained model: CantWrite or OSError.
        """
        step = self.training.step_index
        if self.checkpoints is None or not self.checkpoints.due(step, steps=self.job.steps):
            return
        self.clock.enter("timing")
        fingerprint, seconds = self.environment["data_fingerprint"], self.clock.read()
        try:
            self.checkpoints.save(
                self.training,
                losses=self.curve,
                branches=self.branches,
                seconds=seconds,
                data_fingerprint=fingerprint,
            )
        except (CantWrite, OSError) as error:
            if step == self.job.steps:
                raise
            self.notes.append(f"the checkpoint at step {step} couldn't be written: {error}")
        self.clock.enter("set_up")

    def train(self) -> Generator[Event, None, _Ending]:
        """Train and evaluate; where FP8 gives a loss that isn't finite, once more in bf16."""
        dataset = self.set_up()
        ending = yield from self.attempt(dataset)
        if ending is None and self.job.precision == "fp8":
            self.start_again_in_bf16(dataset)
            ending = yield from self.attempt(dataset)
        return ending or _Ending(status="diverged")

    def attempt(self, dataset: Dataset) -> Generator[Event, None, _Ending | None]:
        """Take the schedule's steps, evaluate, and where they were too few to be timed, take more; None after a NaN."""
        for count in self.segments():
            self.surroundings.begin_window()
            taken = self.take_steps(count, dataset)
            losses = self.training.collect_losses()
            self.curve += losses
            self.keep_time(count, taken)
            if not all(map(math.isfinite, losses)):
                return None
            self.surroundings.check_memory()
            self.leave_checkpoint()
            rate = self.windows[-1][0] * self.recipe.tokens_per_step / self.windows[-1][1] if self.windows else None
            yield Rung(
                job=self.job,
                tokens=self.training.step_index * self.recipe.tokens_per_step,
                loss=statistics.fmean(losses),
                tokens_per_s=rate,
                device=self.environment["device"],
            )
        val_loss, val_bpb = self.evaluate(dataset, part="evaluate")
        if not math.isfinite(val_loss):
            return None
        if len(self.windows) < MIN_WINDOWS:
            self.time_more_steps()
        if len(self.windows) < MIN_WINDOWS:
            self.notes.append("other processes used the device, so that the trial's speed isn't known")
        status: Status = "diverged" if self.is_worse_than_uniform(val_loss) else "ok"
        return _Ending(status=status, val_loss=val_loss, val_bpb=val_bpb)

    def is_worse_than_uniform(self, loss: float) -> bool:
        """Whether guessing every token with equal probability has a lower loss."""
        return loss > math.log(self.job.config.shape.vocab_size)

    def take_steps(self, count: int, dataset: Dataset) -> float:
        """Take `count` of the schedule's steps, and the branches that leave on the way; the seconds of the steps."""
        taken, end = 0.0, self.training.step_index + count
        forks = branches.planned(self.job, self.training.schedule)
        while (at := self.training.step_index) < end:
            stop = min((one.stable_until for _, one in forks if at < one.stable_until < end), default=end)
            self.clock.enter("train")
            taken += self.training.timed_steps(stop - at)
            self.clock.enter("set_up")
            for fraction, schedule in forks:
                if schedule.stable_until == stop:
                    self.branches.append(self.branch(fraction, schedule, dataset))
        return taken

    def branch(self, fraction: float, schedule: Schedule, dataset: Dataset) -> Branch:
        """Cool down from here, evaluate, and come back."""
        step, before_s = self.training.step_index, self.clock.read()["train"]
        batches = self.batches_after(self.training.step_index, dataset)
        loss = bpb = seconds = None
        try:
            with self.surroundings.uncounted(), branches.away(self.training, schedule, batches):
                self.clock.enter("branches")
                taken = self.training.timed_steps(schedule.falling)
                seconds = before_s + taken
                if step - self.began_at <= 1 + measuring.WARM_UP_STEPS:  # what compiling took isn't told apart yet
                    seconds = schedule.steps * taken / schedule.falling if schedule.falling else None
                losses = self.training.collect_losses()
                loss, bpb = self.evaluate(dataset, part="branches")
            if not all(map(math.isfinite, [*losses, loss])) or self.is_worse_than_uniform(loss):
                self.notes.append(f"{_named(fraction)} diverged")
                loss = bpb = None
        except NoHostMemory as error:
            self.notes.append(f"{_named(fraction)} wasn't taken: {error}")
        finally:
            batches.close()
        tokens = schedule.steps * self.recipe.tokens_per_step
        return Branch(fraction=fraction, tokens=tokens, val_loss=loss, val_bpb=bpb, train_seconds=seconds)

    def start_again_in_bf16(self, dataset: Dataset) -> None:
        """Give the FP8 training's memory back, and begin anew, also the count of its peak.

        Its steps weren't useful, so their seconds are booked to timing.
        """
        lost = next((step for step, loss in enumerate(self.curve, start=1) if not math.isfinite(loss)), len(self.curve))
        self.notes.append(f"FP8 gave NaN at step {lost}; trained again in bf16")
        self.book_first_step(0.0)
        for part in ("train", "evaluate", "branches"):
            self.clock.move(part, "timing")
        self.drop_training()
        between_jobs.give_back(self.device)
        self.surroundings.start_new_peak()
        self.curve, self.branches, self.windows, self.began_at = [], [], [], 0
        self.environment.pop("resumed", None)
        self.job = replace(self.job, resolved=replace(self.job.resolved, precision="bf16"))
        self.build(dataset)

    def segments(self) -> list[int]:
        """Steps between two looks at the clock: the first step, the warm-up, then equal windows."""
        steps = self.job.steps - self.began_at
        start = [count for count in (min(1, steps), min(measuring.WARM_UP_STEPS, steps - 1)) if count > 0]
        rest = steps - sum(start)
        windows = min(RUNGS, rest)
        segments = start + [rest // windows + (i < rest % windows) for i in range(windows)]
        return self.checkpoints.cut(segments, start=self.began_at) if self.checkpoints else segments

    def keep_time(self, count: int, taken: float) -> None:
        """Keep a segment's seconds as a window once warm; of the first step, what it cost beyond a later one apart."""
        done = self.training.step_index - self.began_at
        if done == 1:
            self.first_step = taken
            gc.freeze()  # so that later collections needn't look at the many objects that compiling has left
            self.surroundings.watch_load()
        else:
            self.book_first_step(taken / count)
        if done > 1 + measuring.WARM_UP_STEPS:
            self.keep_window(count, taken)

    def book_first_step(self, step_seconds: float) -> None:
        """Once: book what the first step cost beyond `step_seconds` to compilation."""
        if self.first_step is not None:
            source = "train" if self.job.kind == "train" else "timing"
            self.clock.move(source, "compile", self.first_step - step_seconds)
            self.first_step = None

    def keep_window(self, count: int, taken: float) -> None:
        """Keep steps and their seconds, unless others were using the device."""
        if self.surroundings.alone(taken):
            self.windows.append((count, taken))

    def evaluate(self, dataset: Dataset, *, part: str) -> tuple[float, float | None]:
        """Held-out loss in nats per token, and in bits per byte where bytes are known; its time is booked to `part`."""
        self.clock.enter(part)
        batches = held_out_batches(
            dataset,
            eval_tokens=self.recipe.eval_tokens,
            batch_size=self.job.execution.batch_size,
            seq_len=self.recipe.seq_len,
            device=self.device,
        )
        loss, count = evaluate(self.training, batches)
        self.environment["eval_tokens"] = count
        per_token = held_out_bytes_per_token(dataset, eval_tokens=self.recipe.eval_tokens, seq_len=self.recipe.seq_len)
        self.clock.enter("set_up")
        self.surroundings.check_memory()
        return loss, loss / math.log(2) / per_token if per_token else None

    def probe(self) -> _Ending:
        """Measure speed without a schedule to complete."""
        self.set_up()
        self.clock.enter("timing")
        self.keep_time(1, self.training.timed_steps(1))
        self.surroundings.check_memory()
        self.time_more_steps()
        if len(self.windows) < MIN_WINDOWS:
            raise DeviceInUse("other processes came to use the device while it was timed")
        return _Ending(status="ok")

    def time_more_steps(self) -> None:
        """Steps taken for the speed alone: the rest of the warm-up, then windows of half a second or more."""
        self.clock.enter("timing")
        self.windows.clear()
        missing = max(1, 1 + measuring.WARM_UP_STEPS - (self.training.step_index - self.began_at))
        each = self.training.timed_steps(missing) / missing
        self.book_first_step(each)
        seconds = window_seconds(self.job, windows=PROBE_WINDOWS, shortest=PROBE_WINDOW_SECONDS)
        per_window = max(1, round(seconds / each))
        for _ in range(PROBE_WINDOWS):
            self.surroundings.begin_window()
            self.keep_window(per_window, self.training.timed_steps(per_window))
        self.training.losses.clear()
        self.clock.enter("set_up")
        self.surroundings.check_memory()

    def outcome(self, ending: _Ending) -> Final | Speed:
        """The job's last event."""
        common: dict[str, Any] = {
            "job": self.job,
            "status": ending.status,
            "speed": self.surroundings.summarise(self.windows),
            "peak_memory_bytes": self.surroundings.peak_memory_bytes,
            "beside_memory_bytes": self.surroundings.beside_memory_bytes,
            "seconds": measuring.rounded(self.clock.read()),
            "environment": self.environment,
        }
        if self.job.kind == "speed":
            self.environment["notes"] = list(self.notes)
            return Speed(**common)
        return Final(
            **common,
            val_loss=ending.val_loss,
            val_bpb=ending.val_bpb,
            curve=thinned(self.curve, tokens_per_step=self.recipe.tokens_per_step),
            tokens=len(self.curve) * self.recipe.tokens_per_step,
            notes=tuple(self.notes),
            branches=tuple(self.branches),
        )

    def release(self, *, ended: bool) -> None:
        """Let go of the model, its optimizer and the batches, so that the next job starts clean.

        A job that `ended` by itself has an outcome to record.
        """
        self.clock.enter("set_up")
        self.book_first_step(0.0)
        self.drop_training()
        self.surroundings.close(ended=ended)

    def drop_training(self) -> None:
        """Let go of what a training holds."""
        if self.batches is not None:
            self.batches.close()
        self.training = self.batches = None


def _named(fraction: float) -> str:
    return f"the branch at {100 * fraction:.3g}% of the tokens"
