"""The optimizers, as a recipe and a model's parametrization ask for them."""

from __future__ import annotations

import torch

from sweeper.model.parametrization import Parametrization, completep, standard
from sweeper.model.shape import Shape
from sweeper.model.transformer import Transformer
from sweeper.runners.training.muon import Muon
from sweeper.values.records import Base, Optimizer


def parametrization_for(shape: Shape, base: Base | None) -> Parametrization:
    """CompleteP from `base`; standard where there is none."""
    if base is None:
        return standard(shape)
    return completep(shape, n_layers=base.n_layers, d_model=base.d_model, ffn_hidden=base.ffn_hidden)


def make_optimizer(model: Transformer, settings: Optimizer) -> torch.optim.Optimizer:
    """Fused AdamW (1711.05101), or Muon for the blocks' matrices and AdamW for the rest at the same learning rate.

    Each group's `peak_lr` is what the schedule's factor multiplies. Groups follow the model's parametrization and
    are as few as it allows, since each is a kernel of its own. Raises ValueError for Muon with CompleteP's base: its
    update follows the shape already.
    """
    if settings.name == "adamw":
        groups = _adamw_groups(model, settings, list(model.named_parameters()))
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)
    if settings.base is not None:
        raise ValueError("completep's rules are AdamW's; muon has no base")
    matrices = {name: p for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2}
    rest = [(name, p) for name, p in model.named_parameters() if name not in matrices]
    muon = {
        "params": list(matrices.values()),
        "rows": [_logical_rows(model.shape, name, len(p)) for name, p in matrices.items()],
        "lr": settings.lr,
        "peak_lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "momentum": settings.momentum,
    }
    return Muon([muon, *_adamw_groups(model, settings, rest)])


def _adamw_groups(
    model: Transformer, settings: Optimizer, named: list[tuple[str, torch.nn.Parameter]]
) -> list[dict[str, object]]:
    groups: dict[tuple[float, float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in named:
        rule = model.parametrization.rule(name)
        values = (settings.lr * rule.lr, settings.weight_decay * rule.weight_decay, settings.eps * rule.eps)
        groups.setdefault(values, []).append(parameter)
    return [
        {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay, "eps": eps, "betas": settings.betas}
        for (lr, decay, eps), parameters in groups.items()
    ]


def _logical_rows(shape: Shape, name: str, rows: int) -> tuple[int, ...]:
    """How the rows of a block's matrix split into what the model's mathematics has as matrices of their own."""
    if name.endswith("attention.qkv.weight"):
        keys = shape.n_kv_heads * shape.head_dim
        return (shape.n_heads * shape.head_dim, keys, keys)
    return (rows // 2, rows // 2) if name.endswith("ffn.gate_up.weight") else (rows,)
