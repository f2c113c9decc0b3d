"""Causal attention in the form that each type of device computes fastest; the result is that of one call."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

KEYS_AT_A_TIME = 512
"""Keys that torch's CPU kernel computes together, hidden ones too: up to so many positions it skips nothing."""

CHUNKS = 4
FEWEST_POSITIONS = 256
"""Below these, `benchmarks/results/attention_chunks.json` shows no gain from chunks."""


def causal_attention(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor) -> Tensor:
    """Scaled dot product attention (B, H, T, C) in which no position sees a later one; H a multiple of K."""
    T = q_BHTC.shape[2]
    in_chunks = q_BHTC.device.type == "cpu" and FEWEST_POSITIONS <= T <= KEYS_AT_A_TIME and T % CHUNKS == 0
    return attention_in_chunks(q_BHTC, k_BKTC, v_BKTC, chunks=CHUNKS if in_chunks else 1)


def attention_in_chunks(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, chunks: int) -> Tensor:
    """The same by chunks of queries, each against the keys up to its end: (chunks + 1) ÷ (2 · chunks) of the work.

    T is a multiple of `chunks`. One chunk is one call of torch's.
    """
    T, grouped = q_BHTC.shape[2], q_BHTC.shape[1] != k_BKTC.shape[1]
    position_T = torch.arange(T, device=q_BHTC.device)
    mixed = []
    for start in range(0, T, T // chunks):
        end = start + T // chunks
        chunk = F.scaled_dot_product_attention(
            q_BHTC[:, :, start:end],
            k_BKTC[:, :, :end],
            v_BKTC[:, :, :end],
            attn_mask=position_T[start:end, None] >= position_T[None, :end] if start else None,
            is_causal=not start,
            enable_gqa=grouped,
        )
        mixed.append(chunk)
    return torch.cat(mixed, dim=2) if chunks > 1 else mixed[0]
