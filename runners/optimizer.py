"""AdamW and its warm-up–stable–decay schedule."""

from __future__ import annotations

import torch
from torch import nn

from sweeper.records import Optimizer


def make_adamw(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """Decoupled AdamW (1711.05101), fused; weight decay on matrices, none on norms."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def lr_factor(step: int, *, steps: int, warmup: float, cooldown: float) -> float:
    """The learning rate of step `step` (from 0) of `steps`, as a fraction of the peak (2405.18392, linear).

    Rises over the first `warmup` · steps, then stays, then falls over the last `cooldown` · steps along a line
    that reaches 0 with the step after the last; both ends always fit, however few the steps.
    """
    rising = max(1, round(warmup * steps))
    falling = round(cooldown * steps)
    return min(1.0, (step + 1) / rising, (steps - step) / (falling + 1))
