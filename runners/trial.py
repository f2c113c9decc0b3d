"""A job from start to outcome: train one config with one seed, or measure one config's speed.

Knows neither Ray nor MLflow. Time is kept in four parts: set_up (data, model), compile (what the first step cost
beyond a later one), train (optimizer steps), evaluate.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import Any

import torch

from model.compile import forget_compiled, graph_breaks
from runners import measuring
from runners.data.dataset import (
    Batch,
    Dataset,
    epochs,
    held_out_batches,
    held_out_bytes_per_token,
    open_data,
    train_batches,
)
from runners.training import Training, evaluate
from sweeper.records import Event, Final, Job, Rung, Speed, SpeedSummary, Status

RUNGS = 10
CURVE_POINTS = 256
PROBE_WINDOWS = 5
PROBE_WINDOW_SECONDS = 0.5
LOADED_CORES = 0.5


def run_job(job: Job) -> Iterator[Event]:
    """The events of a job: rungs, then one Final (train) or one Speed (speed). Out of memory is an outcome."""
    device = measuring.pick_device(job.device)
    forget_compiled()
    gc.collect()
    measuring.reset_peak_memory(device)
    run = _Run(job, device)
    try:
        yield from run.train() if job.kind == "train" else run.probe()
    except (RuntimeError, MemoryError) as error:
        if not measuring.is_out_of_memory(error):
            raise
        yield run.outcome("out_of_memory")
    finally:
        run.release()


class _Run:
    """The state of one job while it runs: clocks, curve, notes."""

    def __init__(self, job: Job, device: torch.device) -> None:
        self.job, self.device = job, device
        self.recipe = job.config.recipe
        self.training: Training | None = None
        self.seconds = dict.fromkeys(("set_up", "compile", "train", "evaluate"), 0.0)
        self.curve: list[float] = []
        self.notes: list[str] = []
        self.windows: list[tuple[int, float]] = []
        self.first_step: float | None = None
        self.batches: Generator[Batch] | None = None
        self.environment: dict[str, Any] = measuring.environment(device)

    def set_up(self) -> Dataset:
        """Open the data, build the model; say what will matter to who reads the result."""
        start = time.perf_counter()
        others = measuring.other_cpu_load() if self.device.type == "cpu" else 0.0
        if others > LOADED_CORES:
            self.notes.append(f"other processes kept {others:.1f} CPU cores busy when the trial started")
        dataset = open_data(self.recipe.data, self.job.data_path, self.job.config.shape.vocab_size)
        passes = epochs(dataset, self.recipe.tokens, self.recipe.seq_len)
        if passes > 1:
            self.notes.append(f"the trial passed over its data {passes:.2f} times")
        self.batches = train_batches(
            dataset,
            seed=self.job.seed,
            batch_size=self.job.execution.batch_size,
            seq_len=self.recipe.seq_len,
            device=self.device,
        )
        self.training = Training(job=self.job, device=self.device, batches=self.batches)
        self.environment |= {
            "data_fingerprint": dataset.fingerprint,
            "data": dataset.description,
            "epochs": round(passes, 4),
            "precision": asdict(self.training.report),
        }
        self.seconds["set_up"] = time.perf_counter() - start
        return dataset

    def train(self) -> Iterator[Event]:
        """Train, evaluate, and where the schedule was too short to be timed, take more steps for the speed."""
        dataset = self.set_up()
        for count in self.segments():
            taken = self.training.timed_steps(count)
            losses = self.training.collect_losses()
            self.curve += losses
            self.keep_time(count, taken)
            if not all(map(math.isfinite, losses)):
                yield self.outcome("diverged")
                return
            rate = self.windows[-1][0] * self.recipe.tokens_per_step / self.windows[-1][1] if self.windows else None
            yield Rung(
                job=self.job,
                tokens=self.training.step_index * self.recipe.tokens_per_step,
                loss=statistics.fmean(losses),
                tokens_per_s=rate,
            )
        val_loss, val_bpb = self.evaluate(dataset)
        if len(self.windows) < measuring.MIN_WINDOWS:
            self.time_more_steps()
        worse_than_uniform = not val_loss <= math.log(self.job.config.shape.vocab_size)
        yield self.outcome("diverged" if worse_than_uniform else "ok", val_loss=val_loss, val_bpb=val_bpb)

    def segments(self) -> list[int]:
        """Steps between two looks at the clock: the first step, the warm-up, then equal windows."""
        steps = self.recipe.steps
        start = [count for count in (min(1, steps), min(measuring.WARM_UP_STEPS, steps - 1)) if count > 0]
        rest = steps - sum(start)
        windows = min(RUNGS, rest)
        return start + [rest // windows + (i < rest % windows) for i in range(windows)]

    def keep_time(self, count: int, taken: float) -> None:
        """Book a segment's seconds; what the first step cost beyond a later one is compilation."""
        self.seconds["train"] += taken
        done = self.training.step_index
        if done == 1:
            self.first_step = taken
        elif self.first_step is not None:
            self.book_compilation(taken / count)
        if done > 1 + measuring.WARM_UP_STEPS:
            self.windows.append((count, taken))

    def book_compilation(self, step_seconds: float) -> None:
        """Once: move what the first step cost beyond `step_seconds` from training to compilation."""
        self.seconds["compile"] = max(0.0, self.first_step - step_seconds)
        self.seconds["train"] -= self.seconds["compile"]
        self.first_step = None

    def evaluate(self, dataset: Dataset) -> tuple[float, float | None]:
        """Held-out loss in nats per token, and in bits per byte where bytes are known."""
        start = time.perf_counter()
        batches = held_out_batches(
            dataset,
            eval_tokens=self.recipe.eval_tokens,
            batch_size=self.job.execution.batch_size,
            seq_len=self.recipe.seq_len,
            device=self.device,
        )
        loss, count = evaluate(self.training, batches)
        self.seconds["evaluate"] = time.perf_counter() - start
        self.environment["eval_tokens"] = count
        per_token = held_out_bytes_per_token(dataset, eval_tokens=self.recipe.eval_tokens, seq_len=self.recipe.seq_len)
        return loss, loss / math.log(2) / per_token if per_token else None

    def probe(self) -> Iterator[Event]:
        """Measure speed without a schedule to complete."""
        self.set_up()
        self.keep_time(1, self.training.timed_steps(1))
        self.time_more_steps()
        yield self.outcome("ok")

    def time_more_steps(self) -> None:
        """Steps taken for the speed alone: the rest of the warm-up, then windows of about half a second."""
        self.windows.clear()
        missing = max(1, 1 + measuring.WARM_UP_STEPS - self.training.step_index)
        each = self.training.timed_steps(missing) / missing
        if self.first_step is not None:
            self.book_compilation(each)
        per_window = max(1, round(PROBE_WINDOW_SECONDS / each))
        for _ in range(PROBE_WINDOWS):
            self.windows.append((per_window, self.training.timed_steps(per_window)))
        self.training.losses.clear()

    def outcome(self, status: Status, *, val_loss: float | None = None, val_bpb: float | None = None) -> Event:
        """The job's last event."""
        speed: SpeedSummary | None = measuring.summarise(self.windows, tokens_per_step=self.recipe.tokens_per_step)
        common = {
            "job": self.job,
            "status": status,
            "speed": speed,
            "peak_memory_bytes": measuring.peak_memory_bytes(self.device),
            "seconds": measuring.rounded(self.seconds),
            "environment": {**self.environment, "graph_breaks": graph_breaks()},
        }
        if self.job.kind == "speed":
            return Speed(**common)
        finite = val_loss is not None and math.isfinite(val_loss)
        return Final(
            **common,
            val_loss=val_loss if finite else None,
            val_bpb=val_bpb if finite else None,
            curve=thinned(self.curve, tokens_per_step=self.recipe.tokens_per_step),
            tokens=len(self.curve) * self.recipe.tokens_per_step,
            notes=tuple(self.notes),
        )

    def release(self) -> None:
        """Let go of the model, its optimizer and the batches, so that the next job starts clean."""
        if self.batches is not None:
            self.batches.close()
        self.training = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def thinned(losses: list[float], *, tokens_per_step: int) -> tuple[tuple[int, float], ...]:
    """At most 256 points (tokens so far, mean finite loss of the steps since the last point)."""
    stride = max(1, math.ceil(len(losses) / CURVE_POINTS))
    points = []
    for start in range(0, len(losses), stride):
        part = [loss for loss in losses[start : start + stride] if math.isfinite(loss)]
        if part:
            points.append(((start + stride) * tokens_per_step, statistics.fmean(part)))
    return tuple((min(tokens, len(losses) * tokens_per_step), loss) for tokens, loss in points)
