"""Predicted memory and time of a trial, and where the speed behind the prediction comes from.

Memory of one micro-batch, in bytes, with P parameters, a = 4 (fp32) or 2 (autocast) bytes per activation:

    state       = P · (4 + 4 + 8)                       fp32 weights, gradients, AdamW's two moments; Muon has
                                                        one, 4 bytes, for the matrices of the blocks
    copies      = 2 · matmul weights                    bf16 copies that autocast keeps; none in fp32
    layer/token = 8·d + a · (2·d + (2·h + 2·kv)·dh + 4·f) + 4·h
    head        = 2 · a · V per token                   logits and their gradient; the loss's chunks on a CPU hold less

A layer keeps for its backward pass two fp32 residuals and their two norms, queries, keys, values and the
attention's output with its fp32 log-sum-exp (flash attention keeps no T × T matrix: 2205.14135), gate,
up, silu(gate) and the product. The counting is that of 2205.05198 §4.1, for SwiGLU and grouped queries,
without dropout; what compiled blocks keep was counted on a CPU: within 3% of it in bf16, 7% in fp32.

Time: (train FLOPs + forward FLOPs of the evaluation) ÷ achieved FLOP/s + set-up and compile seconds, with
a forward pass as a third of forward and backward (2001.08361 §2.1). Where minutes are given, the training takes these.
A branch takes the steps of its cooldown and an evaluation more.
Precision `auto` is predicted as bf16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from model.shape import Shape
from sweeper.records import Config, Precision, Recipe

CPU_CORE_FLOPS_PER_S = 45e9
"""Achieved in fp32 training per core, at the sizes of a CPU proxy."""
CPU_OVERHEAD_S = 6.0
GPU_FLOPS_PER_S = 300e12
"""Achieved in bf16 training on a data-centre GPU of the H100's class."""
GPU_OVERHEAD_S = 60.0
GPU_BESIDE_BYTES = 640 * 2**20
"""CUDA context, kernels and libraries on a data-centre GPU. Planning takes this also where it was measured: which
configs are feasible may not change while a study runs."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What predicted seconds rest on.

    `overhead_s`: set-up, compile and steps taken for the timing alone, of one trial; `source`: a sentence.
    `beside_bytes`: what lies on the device beside what a trial allocates, assumed for a GPU, 0 for a CPU.
    """

    achieved_flops_per_s: float
    overhead_s: float
    source: str
    beside_bytes: int = 0

    def seconds(self, config: Config, branch_at: Sequence[float] = ()) -> float:
        """Predicted wall seconds of one trial of `config`, one seed, evaluation and branches included."""
        per_token = config.shape.train_flops_per_token(config.recipe.seq_len)
        return float(self.seconds_of(per_token, self.tokens(config), config.recipe, branch_at))

    def seconds_of(self, per_token: Any, tokens: Any, recipe: Recipe, branch_at: Sequence[float] = ()) -> Any:
        """`seconds` by training FLOPs per token and training tokens; of arrays, one for each."""
        train_s = 60 * recipe.minutes if recipe.minutes else tokens * (per_token / self.achieved_flops_per_s)
        more = branch_tokens(tokens, recipe, branch_at) + (1 + len(branch_at)) * recipe.eval_tokens / 3
        return train_s + more * per_token / self.achieved_flops_per_s + self.overhead_s

    def tokens(self, config: Config) -> int:
        """Training tokens of one trial: exact, or predicted where the recipe gives minutes, then of whole steps."""
        recipe = config.recipe
        if recipe.tokens is not None:
            return recipe.tokens
        return int(self.tokens_in_minutes(config.shape.train_flops_per_token(recipe.seq_len), recipe))

    def tokens_in_minutes(self, per_token: Any, recipe: Recipe) -> Any:
        """Those of the whole steps that the recipe's minutes are predicted to have; of an array, one for each."""
        flops = 60 * (recipe.minutes or 0) * self.achieved_flops_per_s
        steps = flops / (per_token * float(recipe.tokens_per_step)) // 1
        return (steps + (steps < 1)) * recipe.tokens_per_step


def branch_tokens(tokens: Any, recipe: Recipe, branch_at: Sequence[float]) -> Any:
    """What branches take beside a training's own tokens, of which they read some again; of an array, one for each.

    The steps are those of `sweeper.schedule.Schedule.branch`.
    """
    if not branch_at:
        return 0 * tokens
    import numpy as np

    steps = np.asarray(tokens) // recipe.tokens_per_step
    own = [np.rint(recipe.optimizer.cooldown * np.maximum(1, np.rint(fraction * steps))) for fraction in branch_at]
    return np.sum(own, axis=0).astype(np.int64) * recipe.tokens_per_step


def assumed(*, gpus: int, cpus: int) -> Calibration:
    """What is assumed of a device that hasn't trained yet; `cpus` are the cores of one job."""
    if gpus:
        return Calibration(
            achieved_flops_per_s=GPU_FLOPS_PER_S,
            overhead_s=GPU_OVERHEAD_S,
            source=f"assumed: {GPU_FLOPS_PER_S / 1e12:g} TFLOP/s of a GPU, {GPU_OVERHEAD_S:g} s to start",
            beside_bytes=GPU_BESIDE_BYTES,
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
    overhead = median(sum(r["seconds"].get(name, 0) for name in ("set_up", "compile", "timing")) for r in finals)
    trials = "1 trial" if len(finals) == 1 else f"{len(finals)} trials"
    return Calibration(
        achieved_flops_per_s=speed,
        overhead_s=overhead,
        source=f"measured: {trials} of this folder on {finals[-1]['device']}, "
        f"{_flops_per_s(speed)} and {overhead:.1f} s to start",
        beside_bytes=GPU_BESIDE_BYTES if finals[-1].get("environment", {}).get("driver") else 0,
    )


def _train_flops(record: Mapping[str, Any]) -> float:
    config = Config.from_dict({"shape": record["shape"], "recipe": record["recipe"]})
    return float(record["tokens"] * config.shape.train_flops_per_token(config.recipe.seq_len))


def _flops_per_s(value: float) -> str:
    return f"{value / 1e12:.3g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"


def memory_of(config: Config, batch_size: int) -> int:
    """`memory_bytes` of a config at a micro-batch; of precision `auto` that of bf16."""
    recipe = config.recipe
    return memory_bytes(
        config.shape,
        precision="bf16" if recipe.precision == "auto" else recipe.precision,
        batch_size=batch_size,
        seq_len=recipe.seq_len,
        optimizer=recipe.optimizer.name,
    )


def memory_bytes(
    shape: Shape,
    *,
    precision: Precision,
    batch_size: int,
    seq_len: int,
    optimizer: Literal["adamw", "muon"] = "adamw",
) -> int:
    """Predicted peak of what a trial allocates on its device, in bytes: see the formula above."""
    params, width, tokens = shape.params, 4 if precision == "fp32" else 2, batch_size * seq_len
    heads = shape.head_dim * (2 * shape.n_heads + 2 * shape.n_kv_heads)
    layer = 8 * shape.d_model + width * (2 * shape.d_model + heads + 4 * shape.ffn_hidden) + 4 * shape.n_heads
    norms = (2 * shape.n_layers + 1) * shape.d_model
    hidden = params.trunk - norms
    state = 16 * params.total - (4 * hidden if optimizer == "muon" else 0)
    copies = 0 if precision == "fp32" else 2 * (hidden + params.embedding)
    return state + copies + shape.n_layers * layer * tokens + head_bytes(shape, width=width, tokens=tokens)


def head_bytes(shape: Shape, *, width: int, tokens: int) -> int:
    """What the head and its loss hold at their peak for a micro-batch of so many tokens, its weights apart.

    `width`: bytes of a logit as the matmul makes it.
    """
    return 2 * width * shape.vocab_size * tokens
