"""Causal attention on a CPU: one call, against chunks of queries that leave out the keys behind them.

    python benchmarks/kernels/attention_chunks.py [--windows N] [--out FILE]

Forward and backward, compiled; all take turns, ratios are paired. `model/attention.py` takes its limits from what this
finds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import RESULTS, provenance

from sweeper.model.attention import attention_in_chunks
from sweeper.model.compile import forget_compiled
from sweeper.runners.device.measuring import device_kind

CASES = (
    (8, 4, 1, 128, 32, "fp32"),
    (8, 3, 1, 256, 32, "fp32"),
    (8, 6, 2, 256, 64, "fp32"),
    (8, 6, 2, 256, 64, "bf16"),
    (4, 4, 4, 384, 64, "fp32"),
    (8, 2, 1, 512, 64, "fp32"),
    (2, 12, 4, 512, 64, "fp32"),
    (2, 12, 4, 512, 64, "bf16"),
    (2, 12, 4, 1024, 64, "fp32"),
)
"""Sequences, query heads, KV heads, positions, head size, precision."""
FIELDS = ("sequences", "heads", "kv_heads", "positions", "head_dim", "precision")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHUNKS = (1, 2, 4, 8)
PASSES = 3
Case = tuple[int, int, int, int, int, str]
Pass = Callable[[], None]


def make_pass(case: Case, chunks: int) -> Pass:
    """One forward and backward pass in so many chunks, compiled."""
    B, H, K, T, C, precision = case
    dtype = DTYPES[precision]
    q = torch.randn(B, H, T, C, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(B, K, T, C, dtype=dtype, requires_grad=True) for _ in range(2))
    outer = torch.randn(B, H, T, C, dtype=dtype)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if chunks > 1:
            return attention_in_chunks(q, k, v, chunks)[0]
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != K)

    compiled = torch.compile(attend, fullgraph=True, dynamic=False)

    def one_pass() -> None:
        torch.autograd.grad(compiled(q, k, v), (q, k, v), outer)

    one_pass()
    return one_pass


def seconds(one_pass: Pass) -> float:
    """Of a pass, over a few."""
    start = time.perf_counter()
    for _ in range(PASSES):
        one_pass()
    return (time.perf_counter() - start) / PASSES


def measure(case: Case, windows: int) -> dict[str, Any]:
    """Milliseconds of each number of chunks, and its speed against one call."""
    taken: dict[int, list[float]] = {chunks: [] for chunks in CHUNKS}
    forget_compiled()
    passes = {chunks: make_pass(case, chunks) for chunks in CHUNKS}
    for window in range(windows):
        for chunks in CHUNKS if window % 2 else reversed(CHUNKS):
            taken[chunks].append(seconds(passes[chunks]))
    return {
        str(chunks): {
            "ms": round(1000 * statistics.median(taken[chunks]), 3),
            "speed_to_one_call": round(
                statistics.median(one / own for one, own in zip(taken[1], taken[chunks], strict=True)), 3
            ),
        }
        for chunks in CHUNKS
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS / "attention_chunks.json")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**provenance("torch"), "device": device_kind(torch.device("cpu")), "cases": []}
    for case in CASES:
        found = measure(case, arguments.windows)
        result["cases"].append(dict(zip(FIELDS, case, strict=True)) | found)
        print(case, found, flush=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
