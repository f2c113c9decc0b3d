"""One training in memory: model, optimizer, batches, and the step that moves them."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sweeper.model import precision
from sweeper.model.compile import compile_blocks
from sweeper.model.loss import loss_on
from sweeper.model.transformer import Transformer, build_model
from sweeper.runners.device.measuring import collector_off, synchronise
from sweeper.runners.training.optimizer import make_optimizer, parametrization_for
from sweeper.values.records import Job
from sweeper.values.schedule import Schedule

CURVE_POINTS = 256
UNSCHEDULED_STEPS = 1000
"""The schedule of a speed job whose recipe gives minutes: its learning rates don't matter."""


@dataclass(kw_only=True)
class Training:
    """A job's model and optimizer on `device`, fed by `batches` of (inputs, targets), each (B, T) int64.

    `losses` keeps each step's mean loss on the device until it is collected, so that a step never waits.
    """

    job: Job
    device: torch.device
    batches: Iterator[tuple[Tensor, Tensor]]
    model: Transformer
    report: precision.PrecisionReport
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    step_index: int = 0
    losses: list[Tensor] = field(default_factory=list)

    def step(self) -> None:
        """One optimizer step over tokens_per_step tokens, at the schedule's learning rate."""
        factor = self.schedule.factor(min(self.step_index, self.schedule.steps - 1))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        micro_batches = self.job.grad_accum_steps
        total = torch.zeros((), device=self.device)
        for _ in range(micro_batches):
            inputs_BT, targets_BT = next(self.batches)
            with self.autocast():
                loss = self.model.loss(inputs_BT, targets_BT)
            (loss / micro_batches).backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.job.config.ours[1].optimizer.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(total / micro_batches)
        self.step_index += 1

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context of this job's forward passes."""
        return precision.autocast(name=self.report.name, device=self.device, backend=self.report.backend or "torchao")

    def timed_steps(self, count: int) -> float:
        """Take `count` steps; the seconds that they took, from idle device to idle device."""
        synchronise(self.device)
        with collector_off():
            start = time.perf_counter()
            for _ in range(count):
                self.step()
            synchronise(self.device)
            return time.perf_counter() - start

    def collect_losses(self) -> list[float]:
        """The mean losses of the steps since the last call, in nats per token."""
        values = torch.stack(self.losses).tolist() if self.losses else []
        self.losses.clear()
        return values


def build_training(*, job: Job, device: torch.device, batches: Iterator[tuple[Tensor, Tensor]]) -> Training:
    """A job's training before its first step, built in this order: each line needs those before it.

    Precision exchanges modules, whose parameters the optimizer takes, and compiling sees the modules as they are then.
    """
    (shape, recipe), compiled = job.config.ours, job.execution.compile
    model = build_model(
        shape,
        seq_len=recipe.seq_len,
        seed=job.seed,
        device=device,
        parametrization=parametrization_for(shape, recipe.optimizer.base),
        cross_entropy=loss_on(device.type, compiled=compiled),
    )
    report = precision.apply(
        model,
        name=job.precision,
        device=device,
        backend=recipe.fp8_backend or "torchao",
        layer_filter=recipe.fp8_filter or "auto",
    )
    optimizer = make_optimizer(model, recipe.optimizer)
    if compiled:
        compile_blocks(model, whole=report.eager is None)
    schedule = Schedule.of(
        job.steps or UNSCHEDULED_STEPS, warmup=recipe.optimizer.warmup, cooldown=recipe.optimizer.cooldown
    )
    return Training(
        job=job,
        device=device,
        batches=batches,
        model=model,
        report=report,
        optimizer=optimizer,
        schedule=schedule,
    )


def thinned(losses: list[float], *, tokens_per_step: int) -> tuple[tuple[int, float], ...]:
    """At most CURVE_POINTS points (tokens so far, mean finite loss of the steps since the last point)."""
    stride = max(1, math.ceil(len(losses) / CURVE_POINTS))
    points = []
    for start in range(0, len(losses), stride):
        part = [loss for loss in losses[start : start + stride] if math.isfinite(loss)]
        if part:
            points.append(((start + stride) * tokens_per_step, statistics.fmean(part)))
    return tuple((min(tokens, len(losses) * tokens_per_step), loss) for tokens, loss in points)
