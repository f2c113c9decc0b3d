"""Predicted memory and time of a trial, and where the speed behind the prediction comes from.

Memory of one micro-batch, in bytes, with P parameters, a = 4 (fp32) or 2 (autocast) bytes per activation:

    state       = P · (4 + 4 + 8)                       fp32 weights, gradients, AdamW's two moments
    copies      = 2 · matmul weights                    bf16 copies that autocast keeps; none in fp32
    layer/token = 8·d + a · (2·d + (2·h + 2·kv)·dh + 4·f) + 4·h
    head/token  = V · (a + 4 + 4)                       logits, their fp32 log-probabilities, the gradient

A layer keeps for its backward pass two fp32 residuals and their two norms, queries, keys, values and the
attention's output with its fp32 log-sum-exp (flash attention keeps no T × T matrix: 2205.14135), gate,
up, silu(gate) and the product. The counting is that of 2205.05198 §4.1, for SwiGLU and grouped queries,
without dropout; what compiled blocks keep was counted on a CPU: within 3% of it in bf16, 7% in fp32.

Time: (train FLOPs + forward FLOPs of the evaluation) ÷ achieved FLOP/s + set-up and compile seconds, with
a forward pass as a third of forward and backward (2001.08361 §2.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from model.shape import Shape
from sweeper.records import Config

CPU_CORE_FLOPS_PER_S = 45e9
"""Achieved in fp32 training per core, at the sizes of a CPU proxy."""
CPU_OVERHEAD_S = 6.0
GPU_FLOPS_PER_S = 300e12
"""Achieved in bf16 training on a data-centre GPU of the H100's class."""
GPU_OVERHEAD_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What predicted seconds rest on. `overhead_s`: set-up and compile of one trial; `source`: a sentence."""

    achieved_flops_per_s: float
    overhead_s: float
    source: str

    def seconds(self, config: Config) -> float:
        """Predicted wall seconds of one trial of `config`, one seed, evaluation included."""
        recipe = config.recipe
        per_token = config.shape.train_flops_per_token(recipe.seq_len)
        flops = per_token * (recipe.tokens + recipe.eval_tokens / 3)
        return flops / self.achieved_flops_per_s + self.overhead_s


def assumed(*, gpus: int, cpus: int) -> Calibration:
    """What is assumed of a device that hasn't trained yet; `cpus` are the cores of one job."""
    if gpus:
        return Calibration(
            achieved_flops_per_s=GPU_FLOPS_PER_S,
            overhead_s=GPU_OVERHEAD_S,
            source=f"assumed: {GPU_FLOPS_PER_S / 1e12:g} TFLOP/s of a GPU, {GPU_OVERHEAD_S:g} s to start",
        )
    cores = "1 core" if cpus == 1 else f"{cpus} cores"
    return Calibration(
        achieved_flops_per_s=cpus * CPU_CORE_FLOPS_PER_S,
        overhead_s=CPU_OVERHEAD_S,
        source=f"assumed: {cores} of {CPU_CORE_FLOPS_PER_S / 1e9:g} GFLOP/s, {CPU_OVERHEAD_S:g} s to start",
    )


def calibrate(records: Iterable[Mapping[str, Any]]) -> Calibration | None:
    """Medians over the `final` lines of status ok in a ledger, of the device seen last; None without any."""
    finals = [r for r in records if r.get("type") == "final" and r.get("status") == "ok"]
    finals = [r for r in finals if r["seconds"].get("train", 0) > 0]
    if not finals:
        return None
    finals = [r for r in finals if r["device"] == finals[-1]["device"]]
    speed = median(_train_flops(r) / r["seconds"]["train"] for r in finals)
    overhead = median(r["seconds"].get("set_up", 0) + r["seconds"].get("compile", 0) for r in finals)
    trials = "1 trial" if len(finals) == 1 else f"{len(finals)} trials"
    return Calibration(
        achieved_flops_per_s=speed,
        overhead_s=overhead,
        source=f"measured: {trials} of this folder on {finals[-1]['device']}, "
        f"{_flops_per_s(speed)} and {overhead:.1f} s to start",
    )


def _train_flops(record: Mapping[str, Any]) -> float:
    config = Config.from_dict({"shape": record["shape"], "recipe": record["recipe"]})
    return float(record["tokens"] * config.shape.train_flops_per_token(config.recipe.seq_len))


def _flops_per_s(value: float) -> str:
    return f"{value / 1e12:.3g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"


def memory_bytes(shape: Shape, *, precision: Literal["fp32", "bf16", "fp8"], batch_size: int, seq_len: int) -> int:
    """Predicted peak of what a trial allocates on its device, in bytes: see the formula above."""
    params = shape.params
    width = 4 if precision == "fp32" else 2
    heads = shape.head_dim * (2 * shape.n_heads + 2 * shape.n_kv_heads)
    layer = 8 * shape.d_model + width * (2 * shape.d_model + heads + 4 * shape.ffn_hidden) + 4 * shape.n_heads
    per_token = shape.n_layers * layer + shape.vocab_size * (width + 8)
    norms = (2 * shape.n_layers + 1) * shape.d_model
    matmul_weights = params.trunk - norms + params.embedding
    copies = 0 if precision == "fp32" else 2 * matmul_weights
    return 16 * params.total + copies + per_token * batch_size * seq_len
