"""What is measured on which type of device: shapes, token counts, micro-batches. The CPU's are toys for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.study.presets import PRESETS

CURRENT = PRESETS["current"]["model"]
"""The guide's main shape: 32 layers of width 768."""


PRECISIONS: Mapping[str, Mapping[str, str]] = {
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "fp8 torchao": {"precision": "fp8", "fp8_backend": "torchao", "fp8_filter": "auto"},
    "fp8 torchao, all": {"precision": "fp8", "fp8_backend": "torchao", "fp8_filter": "none"},
    "fp8 transformer_engine": {"precision": "fp8", "fp8_backend": "transformer_engine", "fp8_filter": "auto"},
    "fp8 transformer_engine, all": {"precision": "fp8", "fp8_backend": "transformer_engine", "fp8_filter": "none"},
}
"""Recipe fields by the names that rows carry; "all" converts what is aligned, the others what FP8 should speed up."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """`loss_cases` are (vocabulary, width, rows); shapes are `sweeper.model.shape` fields; token counts in tokens.

    `compiled`: whether correctness is checked on compiled code, in `compiled_precisions`. `speed_precisions`: those
    whose speeds are compared. `row_s`: least seconds for another measurement. `most_ahead`: shapes that are compiled
    side by side before correctness is checked.
    """

    compiled: bool
    precisions: tuple[str, ...]
    compiled_precisions: tuple[str, ...]
    speed_precisions: tuple[str, ...]
    row_s: float
    loss_cases: tuple[tuple[int, int, int], ...]
    gradient_shape: Mapping[str, Any]
    gradient_tokens: tuple[int, int]
    chain_states: int
    chain_shape: Mapping[str, Any]
    chain_recipe: Mapping[str, Any]
    chain_lr: float
    giant_shape: Mapping[str, Any]
    giant_micro_batch: int
    capped_micro_batch: int
    fp32_micro_batch: int
    many_shapes: int
    flagship: Mapping[str, Any]
    seq_len: int
    tokens_per_step: int
    micro_batches: tuple[int, ...]
    presets: Mapping[str, tuple[Mapping[str, Any], int, int]]
    table: tuple[Mapping[str, Any], ...]
    most_ahead: int
    auto_shapes: Mapping[str, Mapping[str, Any]]
    memory_grid: tuple[tuple[Mapping[str, Any], int], ...]
    peer_windows: int
    shard_tokens: int


_WIDE = {"head_dim": 128, "kv_groups": 4, "vocab_size": 32768, "tie_embeddings": True}

CUDA = Scale(
    compiled=True,
    precisions=("fp32", "bf16", "fp8 torchao, all", "fp8 transformer_engine, all"),
    compiled_precisions=("bf16", "fp8 torchao, all"),
    speed_precisions=("bf16", "fp8 torchao"),
    row_s=12,
    loss_cases=((32768, 768, 2048), (50257, 768, 1000)),
    gradient_shape={**CURRENT, "n_layers": 4},
    gradient_tokens=(2, 1024),
    chain_states=64,
    chain_shape={"n_layers": 2, "d_model": 256, "head_dim": 64, "n_kv_heads": 2, "ffn_hidden": 704,
                 "vocab_size": 64, "tie_embeddings": True},
    chain_recipe={"steps": 120, "seq_len": 256, "tokens_per_step": 8192, "eval_tokens": 65536},
    chain_lr=4e-3,
    giant_shape={"n_layers": 4, "d_model": 2**16, "head_dim": 2**10, "n_kv_heads": 64, "ffn_hidden": 2**18,
                 "vocab_size": 64, "tie_embeddings": True},
    giant_micro_batch=2048,
    capped_micro_batch=16,
    fp32_micro_batch=8,
    many_shapes=20,
    flagship=CURRENT,
    seq_len=1024,
    tokens_per_step=98304,
    micro_batches=(32, 8, 96, 16, 48),
    presets={name: (preset["model"], preset["trial"]["batch_size"], preset["trial"]["grad_accum_steps"])
             for name, preset in PRESETS.items()},
    table=tuple({**CURRENT, "n_layers": layers, "ffn_hidden": ffn_hidden}
                for layers, ffn_hidden in ((12, 2560), (16, 2304), (20, 2304), (24, 2048), (32, 2048), (40, 1792))),
    most_ahead=14,
    auto_shapes={
        "32 × 768": CURRENT,
        "wide-shallow": {**PRESETS["wide-shallow"]["model"], "ffn_hidden": 2720},
        "8 × 2048": {"n_layers": 8, "d_model": 2048, "ffn_hidden": 5504, **_WIDE},
    },
    memory_grid=tuple(
        ({"n_layers": layers, "d_model": width, "ffn_hidden": ffn_hidden, **_WIDE, "head_dim": 64}, batch_size)
        for layers in (6, 24) for width, ffn_hidden in ((512, 1376), (1024, 2736)) for batch_size in (4, 16)),
    peer_windows=9,
    shard_tokens=8_000_000,
)  # fmt: skip
"""For a card of the H100's class."""

_TOY = {"n_layers": 2, "d_model": 64, "head_dim": 16, "n_kv_heads": 2, "ffn_hidden": 176, "vocab_size": 512,
        "tie_embeddings": False}  # fmt: skip

CPU = Scale(
    compiled=False,
    precisions=("fp32", "bf16", "fp8 torchao, all", "fp8 transformer_engine"),
    compiled_precisions=(),
    speed_precisions=("bf16",),
    row_s=4,
    loss_cases=((512, 32, 256), (331, 32, 100)),
    gradient_shape=_TOY,
    gradient_tokens=(2, 64),
    chain_states=16,
    chain_shape={"n_layers": 1, "d_model": 32, "head_dim": 16, "n_kv_heads": 1, "ffn_hidden": 64, "vocab_size": 16,
                 "tie_embeddings": True},
    chain_recipe={"steps": 60, "seq_len": 64, "tokens_per_step": 512, "eval_tokens": 8192},
    chain_lr=1e-2,
    giant_shape={"n_layers": 1, "d_model": 2**21, "head_dim": 2**20, "n_kv_heads": 1, "ffn_hidden": 2**21,
                 "vocab_size": 16, "tie_embeddings": True},
    giant_micro_batch=0,
    capped_micro_batch=32,
    fp32_micro_batch=4,
    many_shapes=3,
    flagship=_TOY,
    seq_len=64,
    tokens_per_step=512,
    micro_batches=(4, 8),
    presets={"toy": (_TOY, 4, 2), "deeper": ({**_TOY, "n_layers": 4}, 2, 4)},
    table=(_TOY, {**_TOY, "n_layers": 3}),
    most_ahead=1,
    auto_shapes={"toy": _TOY},
    memory_grid=((_TOY, 4), (_TOY, 8)),
    peer_windows=3,
    shard_tokens=200_000,
)  # fmt: skip
"""For tests: seconds on two cores."""

SCALES = {"cuda": CUDA, "cpu": CPU}
