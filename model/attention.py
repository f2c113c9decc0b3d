"""Causal attention in the form that each type of device computes fastest; the result is that of one call.

torch's CPU kernel takes 512 keys at a time, hidden ones too, so that at up to 512 positions causality saves it nothing.
There queries go in chunks, each against the keys up to its end. To the compiler that is one operator: four calls with
their slices and masks in the graph would be as fast, but more kernels to compile.

On CUDA, flash attention and cuDNN take bf16 alone, and the memory-efficient kernel takes no grouped queries. So in fp32
keys and values are repeated for each query head: torch would fall back to products that keep all T × T scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

KEYS_AT_A_TIME = 512
"""What torch's CPU kernel computes together."""

CHUNKS = 4
FEWEST_POSITIONS = 256
"""Below these, `benchmarks/results/attention_chunks.json` shows no gain from chunks."""

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def causal_attention(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor) -> Tensor:
    """Scaled dot product attention (B, H, T, C) in which no position sees a later one; H a multiple of K."""
    T = q_BHTC.shape[2]
    in_fp32_on_cpu = q_BHTC.device.type == "cpu" and q_BHTC.dtype == torch.float32  # in bf16 chunks gain nothing
    if in_fp32_on_cpu and FEWEST_POSITIONS <= T <= KEYS_AT_A_TIME and T % CHUNKS == 0:
        mixed_BHTC: Tensor
        mixed_BHTC, _ = attention_in_chunks(q_BHTC, k_BKTC, v_BKTC, CHUNKS)
        return mixed_BHTC
    if q_BHTC.device.type == "cuda":
        k_BKTC, v_BKTC = fusible_on_cuda(q_BHTC, k_BKTC, v_BKTC)
    return in_one_call(q_BHTC, k_BKTC, v_BKTC)


def fusible_on_cuda(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values as a fused kernel of CUDA takes them: in fp32 one for each query head, (B, H, T, C)."""
    repeats = q_BHTC.shape[1] // k_BKTC.shape[1]
    if repeats == 1 or q_BHTC.dtype != torch.float32:
        return k_BKTC, v_BKTC
    return k_BKTC.repeat_interleave(repeats, dim=1), v_BKTC.repeat_interleave(repeats, dim=1)


def in_one_call(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor) -> Tensor:
    """Causal attention by torch's own choice of kernel."""
    grouped = q_BHTC.shape[1] != k_BKTC.shape[1]
    return F.scaled_dot_product_attention(q_BHTC, k_BKTC, v_BKTC, is_causal=True, enable_gqa=grouped)


@torch.library.custom_op("sweeper::attention_in_chunks", mutates_args=(), device_types="cpu")
def attention_in_chunks(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
    """The same on a CPU by chunks of queries, and the log-sum-exp of each row of scores (B, H, T).

    T is a multiple of `chunks`; (chunks + 1) ÷ (2 · chunks) of the work of one call.
    """
    mixed_BHTC, lse_BHT = _outputs(q_BHTC)
    for start, end, mask in _chunks(q_BHTC, chunks):
        mixed_BHTC[:, :, start:end], lse_BHT[:, :, start:end] = _FORWARD(
            q_BHTC[:, :, start:end], k_BKTC[:, :, :end], v_BKTC[:, :, :end], 0.0, mask is None, attn_mask=mask
        )
    return mixed_BHTC, lse_BHT


@torch.library.custom_op("sweeper::attention_in_chunks_backward", mutates_args=(), device_types="cpu")
def attention_in_chunks_backward(
    outer_BHTC: Tensor, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, mixed_BHTC: Tensor, lse_BHT: Tensor, chunks: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by q, k and v; those of keys and values are summed over chunks in fp32 at least."""
    q_grad = _by_positions(q_BHTC)
    k_grad, v_grad = (_by_positions(one, dtype=_wide(one)).zero_() for one in (k_BKTC, v_BKTC))
    for start, end, mask in _chunks(q_BHTC, chunks):
        own = (slice(None), slice(None), slice(start, end))
        q_grad[own], k_part, v_part = _BACKWARD(
            outer_BHTC[own], q_BHTC[own], k_BKTC[:, :, :end], v_BKTC[:, :, :end], mixed_BHTC[own], lse_BHT[own],
            0.0, mask is None, attn_mask=mask,
        )  # fmt: skip
        k_grad[:, :, :end] += k_part
        v_grad[:, :, :end] += v_part
    return q_grad, k_grad.to(k_BKTC.dtype), v_grad.to(v_BKTC.dtype)


def _chunks(q_BHTC: Tensor, chunks: int) -> Iterator[tuple[int, int, Tensor | None]]:
    """Start, end and what to add to the scores of each chunk; the first one, a square, is just causal."""
    T = q_BHTC.shape[2]
    later_TT = q_BHTC.new_full((T, T), float("-inf")).triu_(1)
    for start in range(0, T, T // chunks):
        end = start + T // chunks
        yield start, end, later_TT[start:end, :end] if start else None


def _outputs(q_BHTC: Tensor) -> tuple[Tensor, Tensor]:
    B, H, T, _ = q_BHTC.shape
    return _by_positions(q_BHTC), q_BHTC.new_empty(B, T, H, dtype=_wide(q_BHTC)).transpose(1, 2)


def _by_positions(like_BHTC: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """Room for as much, laid out as (B, T, H, C), in which heads are joined without a copy."""
    B, H, T, C = like_BHTC.shape
    return like_BHTC.new_empty(B, T, H, C, dtype=dtype or like_BHTC.dtype).transpose(1, 2)


def _wide(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)


@attention_in_chunks.register_fake
def _(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
    return _outputs(q_BHTC)


@attention_in_chunks_backward.register_fake
def _(
    outer_BHTC: Tensor, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, mixed_BHTC: Tensor, lse_BHT: Tensor, chunks: int
) -> tuple[Tensor, Tensor, Tensor]:
    return _by_positions(q_BHTC), _by_positions(k_BKTC), _by_positions(v_BKTC)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *qkv, ctx.chunks = inputs
    ctx.save_for_backward(*qkv, *output)


def _backward(ctx: Any, outer_BHTC: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *attention_in_chunks_backward(outer_BHTC, *ctx.saved_tensors, ctx.chunks), None


attention_in_chunks.register_autograd(_backward, setup_context=_remember)
