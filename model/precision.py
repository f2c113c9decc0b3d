"""What a trial computes in: fp32, bf16 autocast, or FP8 matmuls inside bf16 autocast.

FP8 (torchao float8, dynamic tensorwise scaling): an operand X is stored as E4M3 (gradients as E5M2) of X·s with
s = max_representable ÷ max|X| computed anew at each use, and the product is scaled back (2209.05433 and torchao's
float8 README). Constraint: both dimensions of a matmul must be multiples of 16, or it stays in bf16. Trade-off: half
the operand bytes and twice the peak of bf16 on Hopper, against the cost of finding max|X|; at small widths that cost
wins, so FP8 is to be measured, never assumed. Without hardware support (CUDA capability ≥ 8.9) products are emulated:
operands are rounded to FP8, multiplied in fp32; the numerics are real, the speed is not.

Embedding, head and norms stay out of FP8. Parameters, gradients and optimizer state are fp32 throughout.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from model.shape import FP8_MULTIPLE
from model.transformer import Transformer

CUDA_CAPABILITY = (8, 9)


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """What became of the blocks' matmuls: `converted` of `total`; `kept_out` names the rest with its dims."""

    name: str
    converted: int
    total: int
    kept_out: tuple[str, ...]
    emulated: bool


def apply(model: Transformer, *, name: str, device: torch.device) -> PrecisionReport:
    """Convert the blocks' linear layers in place as `name` (fp32 | bf16 | fp8) asks; say what was converted."""
    linears = {path: module for path, module in model.blocks.named_modules() if isinstance(module, nn.Linear)}
    if name != "fp8":
        return PrecisionReport(name=name, converted=0, total=len(linears), kept_out=(), emulated=False)
    fitting = {path for path, linear in linears.items() if _fits(linear)}
    emulated = not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= CUDA_CAPABILITY)
    with _quiet():
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training

        convert_to_float8_training(
            model.blocks,
            config=Float8LinearConfig(emulate=emulated),
            module_filter_fn=lambda _module, path: path in fitting,
        )
    kept_out = tuple(
        f"{path}: {linear.in_features} × {linear.out_features} is no multiple of {FP8_MULTIPLE}"
        for path, linear in linears.items()
        if path not in fitting
    )
    return PrecisionReport(name=name, converted=len(fitting), total=len(linears), kept_out=kept_out, emulated=emulated)


def autocast(*, name: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context in which a forward pass runs: bf16 autocast unless `name` is fp32."""
    if name == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _fits(linear: nn.Linear) -> bool:
    return linear.in_features % FP8_MULTIPLE == 0 and linear.out_features % FP8_MULTIPLE == 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torchao's import-time notes about kernels that it doesn't need here away from users."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
