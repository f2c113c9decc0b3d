"""What a card of the H200's class should reach, by arithmetic done before any was measured. Stdlib only.

Seconds per token, one part after another, as no kernel waits for nothing while another runs:

    matmuls     6 · matmul weights ÷ R                    three products of 2 FLOPs a weight; converted ones at R8
    attention   7 · L · h · dh · T ÷ A                    two products forward, five backward (2307.08691 §4.1), of
                                                          each the causal half
    elementwise 3 · L · [28·d + 4·(h + kv)·dh + 6·f] ÷ B  bytes: norms and additions on an fp32 residual, rotation,
                                                          silu(gate)·up; backward moves twice what forward does
    loss        8 · V ÷ B                                 bf16 logits read twice; read, and their gradient written
    FP8         8 · L · Σ (K + N) ÷ B                     of converted matmuls: the largest value found, operand cast,
                                                          for inputs and for gradients
    weights     16 · matmul weights ÷ B ÷ tokens of a micro-batch     casts to bf16, gradients added up in fp32
    optimizer   40 · parameters ÷ B ÷ tokens of a step    AdamW reads and writes 28 bytes, clipping reads twice, zeroing

The rates are assumptions, not measurements: shares of the H200's datasheet that such kernels reach at these sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.model.shape import Shape, derive

DATASHEET = {"bf16_tflops": 989.4, "fp8_tflops": 1978.9, "copy_tb_per_s": 4.8}
"""NVIDIA H200 datasheet (https://www.nvidia.com/en-us/data-center/h200/), without sparsity."""
MATMUL_FLOPS_PER_S = 600e12
"""R: three fifths of the datasheet, as inner dimensions of 768 end a tile's work early."""
FP8_FLOPS_PER_S = 1000e12
"""R8: half of the datasheet, for the same reason and with scales to apply."""
ATTENTION_FLOPS_PER_S = 250e12
"""A: a quarter of the datasheet, at heads of 64 and T = 1024."""
BYTES_PER_S = 3.5e12
"""B: 73% of the datasheet."""
CEILINGS = {"bf16_tflops": 0.8, "fp8_tflops": 0.7, "copy_tb_per_s": 0.9}
"""Shares of the datasheet that the largest products and copies should reach."""
CARD = "NVIDIA H200"


def seconds_per_token(
    shape: Shape, *, seq_len: int, batch_size: int, tokens_per_step: int, converted: str = ""
) -> dict[str, float]:
    """The parts above. `converted`: the blocks' matmuls in FP8, "" (none), auto (torchao's filter) or none (all)."""
    d, f, layers = shape.d_model, shape.ffn_hidden, shape.n_layers
    q, kv = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    blocks = ((d, q + 2 * kv), (q, d), (d, 2 * f), (f, d))
    in_fp8 = [(k, n) for k, n in blocks if converted and (converted == "none" or k > 4096 or n > 1024)]
    low = layers * sum(k * n for k, n in in_fp8)
    weights = layers * sum(k * n for k, n in blocks) + shape.vocab_size * d
    return {
        "matmuls": 6 * (weights - low) / MATMUL_FLOPS_PER_S + 6 * low / FP8_FLOPS_PER_S,
        "attention": 7 * layers * q * seq_len / ATTENTION_FLOPS_PER_S,
        "elementwise": 3 * layers * (28 * d + 4 * (q + kv) + 6 * f) / BYTES_PER_S,
        "loss": 8 * shape.vocab_size / BYTES_PER_S,
        "fp8": 8 * layers * sum(k + n for k, n in in_fp8) / BYTES_PER_S,
        "weights": 16 * weights / BYTES_PER_S / (batch_size * seq_len),
        "optimizer": 40 * shape.params.total / BYTES_PER_S / tokens_per_step,
    }


def tokens_per_s(shape: Mapping[str, Any], precision: str, **sizes: int) -> float | None:
    """Expected of a row's shape and precision (a name of `scale.PRECISIONS`); None for what isn't predicted."""
    converted = {"bf16": "", "fp8 torchao": "auto", "fp8 torchao, all": "none"}.get(precision)
    if converted is None:
        return None
    return 1 / sum(seconds_per_token(derive(shape), converted=converted, **sizes).values())


def beside(measured: float | None, expected: float | None) -> dict[str, Any]:
    """What a row says of a figure that was expected: {} where it has none."""
    if expected is None:
        return {}
    ratio = round(measured / expected, 3) if measured else None
    return {"expected": round(expected, 3) if expected < 100 else round(expected), "measured_to_expected": ratio}
