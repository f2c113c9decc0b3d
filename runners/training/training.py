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

from sweeper.model import compile as compilation
from sweeper.model import precision
from sweeper.model.transformer import Transformer, build
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
    model: Transformer = field(init=False)
    report: precision.PrecisionReport = field(init=False)
    schedule: Schedule = field(init=False)
    step_index: int = field(init=False, default=0)
    losses: list[Tensor] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        recipe, shape = self.job.config.recipe, self.job.config.shape
        self.model = build(
            shape,
            seq_len=recipe.seq_len,
            seed=self.job.seed,
            device=self.device,
            parametrization=parametrization_for(shape, recipe.optimizer.base),
        )
        self.report = precision.apply(
            self.model,
            name=self.job.precision,
            device=self.device,
            backend=recipe.fp8_backend or "torchao",
            layer_filter=recipe.fp8_filter or "auto",
        )
        self.optimizer = make_optimizer(self.model, recipe.optimizer)
        self.schedule = Schedule.of(
            self.job.steps or UNSCHEDULED_STEPS, warmup=recipe.optimizer.warmup, cooldown=recipe.optimizer.cooldown
        )
        if self.job.execution.compile:
            compilation.compile_blocks(self.model, whole=self.report.eager is None)
        compilation.set_loss(self.model, compiled=self.job.execution.compile)

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
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.job.config.recipe.optimizer.grad_clip)
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


def evaluate(training: Training, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    """Mean loss in nats over all targets of `batches`, and their number.

    Everything goes through the graphs that training compiled (gradients on, none taken), at the size of a micro-batch:
    graphs without gradients, or for a smaller last batch, would have to be compiled first, which costs more than they
    save, and what isn't compiled takes more memory than the training had. A smaller batch is filled up with itself.
    The device is waited for once, at the end.
    """
    total, count = torch.zeros((), dtype=torch.float64, device=training.device), 0
    for inputs_BT, targets_BT in batches:
        each = (_filled(one, training.job.execution.batch_size) for one in (inputs_BT, targets_BT))
        with training.autocast():
            loss = training.model.loss_value(*each, first=len(inputs_BT))
        total += loss.double() * targets_BT.numel()
        count += targets_BT.numel()
    return total.item() / count, count


def _filled(tokens_BT: Tensor, batch_size: int) -> Tensor:
    """(≤ batch_size, T) → (batch_size, T): the rows over and over."""
    rows = len(tokens_BT)
    return tokens_BT if rows == batch_size else tokens_BT.repeat(-(-batch_size // rows), 1)[:batch_size]


def thinned(losses: list[float], *, tokens_per_step: int) -> tuple[tuple[int, float], ...]:
    """At most CURVE_POINTS points (tokens so far, mean finite loss of the steps since the last point)."""
    stride = max(1, math.ceil(len(losses) / CURVE_POINTS))
    points = []
    for start in range(0, len(losses), stride):
        part = [loss for loss in losses[start : start + stride] if math.isfinite(loss)]
        if part:
            points.append(((start + stride) * tokens_per_step, statistics.fmean(part)))
    return tuple((min(tokens, len(losses) * tokens_per_step), loss) for tokens, loss in points)
