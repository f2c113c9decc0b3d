"""The held-out loss of a training, through the graphs that it has compiled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sweeper.runners.data.dataset import held_out_batches, held_out_bytes_per_token
from sweeper.runners.training.context import JobContext
from sweeper.runners.training.training import Training


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A held-out loss in nats per token, and in bits per byte where bytes are known."""

    loss: float
    bpb: float | None


def held_out_loss(context: JobContext, training: Training, *, part: str) -> HeldOut:
    """Evaluate a training as it is now; the time is booked to `part` of the job's clock."""
    context.clock.enter(part)
    recipe = context.recipe
    batches = held_out_batches(
        context.dataset,
        eval_tokens=recipe.eval_tokens,
        batch_size=context.job.execution.batch_size,
        seq_len=recipe.seq_len,
        device=context.device,
    )
    loss, count = evaluate(training, batches)
    context.surroundings.environment["eval_tokens"] = count
    per_token = held_out_bytes_per_token(context.dataset, eval_tokens=recipe.eval_tokens, seq_len=recipe.seq_len)
    context.clock.enter("set_up")
    context.surroundings.check_memory()
    return HeldOut(loss=loss, bpb=loss / math.log(2) / per_token if per_token else None)


def is_worse_than_uniform(loss: float, *, vocab_size: int) -> bool:
    """Whether guessing every token with equal probability has a lower loss."""
    return loss > math.log(vocab_size)


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
