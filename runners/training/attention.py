"""Which kernel scaled dot product attention runs on, where torch has several: the choice is torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sweeper.model.attention import causal_attention
from sweeper.model.shape import Shape

_FUSED = "scaled_dot_product_"


def chosen_kernel(shape: Shape, *, seq_len: int, dtype: torch.dtype, device: torch.device) -> str:
    """The kernel of a shape's attention, such as `flash_attention`; `math` where it is several of torch's operators.

    One sequence goes through the model's attention, whose operators are looked at.
    """
    q_BHTC = torch.empty(1, shape.n_heads, seq_len, shape.head_dim, dtype=dtype, device=device, requires_grad=True)
    k_BKTC = torch.empty(1, shape.n_kv_heads, seq_len, shape.head_dim, dtype=dtype, device=device, requires_grad=True)
    with _Operators() as seen:
        causal_attention(q_BHTC, k_BKTC, k_BKTC)
    return next((kernel for name in seen.names if (kernel := _kernel(name))), "math")


def _kernel(operator: str) -> str | None:
    """`_scaled_dot_product_flash_attention_for_cpu` → `flash_attention`; None of what isn't attention by itself."""
    if _FUSED in operator:
        return operator.split(_FUSED)[1].removesuffix("_for_cpu")
    return operator if operator.startswith("attention_") else None


class _Operators(TorchDispatchMode):
    """Keeps the names of the operators that run within it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Tensor, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
