"""Cross-entropy of a linear head, without a full fp32 copy of the logits.

With x (N, D), weight W (V, D) and targets t (N): loss = mean_n [logsumexp_v(x_n · W_v) − x_n · W_t(n)], in fp32, nats.
Its gradients are p − onehot(t), with p the softmax, ÷ N, times W and times x.

    full      one graph from x to the loss: the logits are kept once, in the precision of the matmul, and become fp32
              on the fly. Where the matmul is fp32 already, they are full fp32 logits.
    chunked   chunks of rows; the gradients are taken in the forward pass, while a chunk's logits are there, so that
              none are kept and none are computed again (the idea of 2410.10989, without its kernels)

Which one a type of device uses stands in LOSS_ON, from `benchmarks/loss_variants.py`. torch's own chunked operator,
F.linear_cross_entropy (2.13), is measured there too; it was slower, and under autocast its loss is rounded to bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

CHUNK_LOGITS = {"cpu": 2**21, "cuda": 2**28}
"""Logits of a chunk. On a CPU 8 MiB in fp32, so that they stay in its cache. On CUDA, where kernels of some hundred
rows leave most of a device idle, half a GiB in bf16: 8,192 rows of a vocabulary of 32,768."""

ALIGNED = 64
"""A row of a chunk's logits takes a multiple of this, or matmuls with an odd vocabulary lose a tenth or more."""

FEWEST_ROWS = 512
"""Rows of a chunk where the vocabulary is large: fewer would spend the time on adding up the weight's gradient."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x (N, D), weight (V, D), targets (N) int64 → mean cross-entropy in nats, a scalar in fp32."""


def full_loss(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """The loss from all logits at once: the definition."""
    return F.cross_entropy(F.linear(x_ND, weight_VD).float(), targets_N)


class ChunkedLoss:
    """The loss by chunks of rows. Differentiable once; without gradients to take, only the loss is computed."""

    def __init__(self, *, compiled: bool) -> None:
        self.gradients = _compiled(gradients_in_place) if compiled else gradients_in_place

    def __call__(self, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        """The loss."""
        loss: Tensor = _Chunked.apply(x_ND, weight_VD, targets_N, _matmul_dtype(x_ND), self)  # type: ignore[no-untyped-call]
        return loss


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True, dynamic=False)


def _matmul_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype, parts: ChunkedLoss
    ) -> Tensor:
        x, weight = x_ND.to(dtype), weight_VD.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            if not any(ctx.needs_input_grad):
                return _loss(x, weight, targets_N, parts)
            loss, x_grad, weight_grad = _loss_and_gradients(x, weight, targets_N, parts)
        ctx.save_for_backward(x_grad.to(x_ND.dtype), weight_grad.to(weight_VD.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x_grad, weight_grad = ctx.saved_tensors
        return x_grad.mul_(outer[0]), weight_grad.mul_(outer[0]), None, None, None


def _chunks(x: Tensor, weight: Tensor) -> tuple[range, int]:
    """Where chunks start, and how many rows a whole one has: a power of two."""
    rows = max(FEWEST_ROWS, 1 << (CHUNK_LOGITS[x.device.type] // weight.shape[0]).bit_length() >> 1)
    return range(0, len(x), rows), min(rows, len(x))


def _room(x: Tensor, rows: int, vocab_size: int) -> Tensor:
    """Room for a chunk's logits (rows, V), each row aligned."""
    return x.new_empty(rows, vocab_size + -vocab_size % ALIGNED)[:, :vocab_size]


def _loss(x: Tensor, weight: Tensor, targets: Tensor, parts: ChunkedLoss) -> Tensor:
    """The loss alone, by the kernel that training has compiled: what that leaves in the logits isn't used."""
    starts, rows = _chunks(x, weight)
    logits = _room(x, rows, len(weight))
    loss = torch.zeros((), device=x.device)
    for start in starts:
        chunk = x[start : start + rows]
        part = torch.mm(chunk, weight.t(), out=logits[: len(chunk)])
        loss += parts.gradients(part, targets[start : start + rows], 1 / len(x))
    return loss


def _loss_and_gradients(
    x: Tensor, weight: Tensor, targets: Tensor, parts: ChunkedLoss
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, its gradient by x in the dtype of x, by the weight in fp32 (sums over chunks need the digits)."""
    starts, rows = _chunks(x, weight)
    logits = _room(x, rows, len(weight))
    loss = torch.zeros((), device=x.device)
    x_grad = torch.empty_like(x)
    weight_grad = torch.zeros(weight.shape, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    for start in starts:
        chunk = x[start : start + rows]
        part = torch.mm(chunk, weight.t(), out=logits[: len(chunk)])
        loss += parts.gradients(part, targets[start : start + rows], 1 / len(x))
        torch.mm(part, weight, out=x_grad[start : start + rows])
        if x.dtype == weight_grad.dtype:
            weight_grad.addmm_(part.t(), chunk)
        else:
            weight_grad += part.t() @ chunk
    return loss, x_grad, weight_grad


def gradients_in_place(logits_NV: Tensor, targets_N: Tensor, scale: float) -> Tensor:
    """The rows' cross-entropies × scale, summed; the logits are overwritten with the gradient of that."""
    wide = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    top = wide.amax(-1, keepdim=True)
    exponentials = torch.exp(wide - top)
    total = exponentials.sum(-1, keepdim=True)
    loss = (total.log() + top - wide.gather(-1, targets_N[:, None])).sum() * scale
    columns = torch.arange(logits_NV.shape[1], device=logits_NV.device)
    hit = columns == targets_N[:, None]
    logits_NV.copy_((exponentials / total - hit.to(wide.dtype)) * scale)
    return loss


def value_of(loss: Loss, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """What `loss` is, for who doesn't differentiate it, without compiling anything that training hasn't.

    By chunks no gradient is taken then; the full loss takes none before its backward pass anyway.
    """
    if isinstance(loss, ChunkedLoss):
        x_ND, weight_VD = x_ND.detach(), weight_VD.detach()
    return loss(x_ND, weight_VD, targets_N).detach()


LOSS_ON = {"cpu": "chunked", "cuda": "full"}
"""The variant of each type of device; `benchmarks/loss_variants.py` compares them."""


def loss_on(device_type: str, *, compiled: bool) -> Loss:
    """The variant that a type of device (cpu | cuda) uses."""
    return make_loss(LOSS_ON[device_type], compiled=compiled)


def make_loss(name: str, *, compiled: bool) -> Loss:
    """The variant `name` (full | chunked). Raises ValueError for any other."""
    if name == "chunked":
        return ChunkedLoss(compiled=compiled)
    if name == "full":
        return _compiled(full_loss) if compiled else full_loss
    raise ValueError(f"there is no loss {name!r}, only full and chunked")
