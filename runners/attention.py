"""Which kernel scaled dot product attention runs on: cuDNN's on Hopper, flash attention on other CUDA devices."""

from __future__ import annotations

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.shape import Shape

HOPPER = 9
"""The major CUDA capability on which cuDNN's kernel is the fastest of those that torch brings."""


def preferred(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The order in which torch tries its kernels while a job runs; a CPU has but one.

    All stay allowed, since none takes every precision and head size.
    """
    if device.type != "cuda":
        return contextlib.nullcontext()
    order = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    if torch.cuda.get_device_capability(device)[0] == HOPPER:
        order.reverse()
    return sdpa_kernel([*order, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True)


def chosen(shape: Shape, *, seq_len: int, dtype: torch.dtype, device: torch.device) -> str:
    """The kernel that torch chooses for a shape's attention, such as `flash_attention`; asked within `preferred`."""
    q_BHTC = torch.empty(1, shape.n_heads, seq_len, shape.head_dim, dtype=dtype, device=device, requires_grad=True)
    k_BKTC = torch.empty(1, shape.n_kv_heads, seq_len, shape.head_dim, dtype=dtype, device=device, requires_grad=True)
    grouped = shape.n_heads != shape.n_kv_heads
    choice = torch._fused_sdp_choice(q_BHTC, k_BKTC, k_BKTC, is_causal=True, enable_gqa=grouped)
    return str(SDPBackend(choice).name).lower()
