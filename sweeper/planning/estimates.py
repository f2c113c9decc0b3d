"""Predicted memory and time of a trial, and where the speed behind the prediction comes from.

Memory of one micro-batch, in bytes, with P parameters, a = 4 (fp32) or 2 (bf16, FP8) bytes of a matmul's result:

    state       = P · (4 + 4 + 8)                       fp32 weights, gradients, AdamW's two moments; Muon has
                                                        one, 4 bytes, for the matrices of the blocks
    copies      = 2 · matmul weights                    bf16 copies that autocast keeps; none in fp32, nor of
                                                        weights that are multiplied in FP8
    layer/token = 4·d + 8 + a·(3·d + heads·dh + 3·f) + 4·h
    heads       = 3·h + 3·kv                            in fp32 with grouped queries 4·h: see `sweeper.model.attention`
    head        = (a·(V + d) + 4·d + 4 per token) + a·V·d

A layer keeps for its backward pass its input, the residual stream, in fp32; the scales of its two norms in fp32, and
what they make; the attention's branch; gate and up, and what they make. Of the attention it keeps what its kernel takes
and makes: turned queries and keys, the output, the log-sum-exp in fp32 (flash attention keeps no T × T matrix,
2205.14135), and for the values the whole product of qkv, of which they are a view. What feeds a matmul in FP8 is made
again instead: the norm before qkv, that before gate and up (a·d each), and what goes down (a·f).

This is what the partition keeps by which Inductor divides a block's graph in two (torch/_functorch/partitioners.py),
exact in torch 2.13; `benchmarks/activation_memory.py` counts it. Not counted: the kernel's state of random numbers (16
bytes), rounding by the allocator, rows that Inductor widens where sizes aren't aligned, workspaces, and what
`fp8_backend: transformer_engine` keeps, for which bf16's figure stands. A CPU takes grouped queries in fp32 as well.

The head keeps the stream, the final norm's scale and output, and the logits; their gradient takes their place. The
weight's gradient by itself is there beside them. That is the full loss, which CUDA takes; the CPU's chunks hold less.

Time: (train FLOPs + forward FLOPs of the evaluation) ÷ achieved FLOP/s + set-up and compile seconds, with
a forward pass as a third of forward and backward (2001.08361 §2.1). Where minutes are given, the training takes these.
A branch takes the steps of its cooldown and an evaluation more.
Precision `auto` is predicted as bf16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from sweeper.model.shape import Shape, computes_in_fp8
from sweeper.values.records import Config, Fp8Backend, Fp8Filter, Precision, Recipe

if TYPE_CHECKING:
    from sweeper.ledger.typed import FinalLine, Line

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

    def seconds(self, config: Config, branch_at: Sequence[float] = ()) -> float | None:
        """Predicted wall seconds of one trial of `config`, one seed, evaluation and branches included.

        None where its FLOPs or its tokens aren't known.
        """
        per_token, recipe = config.flops_per_token, config.recipe
        if per_token is None or recipe is None:
            return None
        return float(self.seconds_of(per_token, self.tokens(per_token, recipe), recipe, branch_at))

    def seconds_of(self, per_token: Any, tokens: Any, recipe: Recipe, branch_at: Sequence[float] = ()) -> Any:
        """`seconds` by training FLOPs per token and training tokens; of arrays, one for each."""
        train_s = 60 * recipe.minutes if recipe.minutes else tokens * (per_token / self.achieved_flops_per_s)
        more = branch_tokens(tokens, recipe, branch_at) + (1 + len(branch_at)) * recipe.eval_tokens / 3
        return train_s + more * per_token / self.achieved_flops_per_s + self.overhead_s

    def tokens(self, per_token: int, recipe: Recipe) -> int:
        """Training tokens of one trial: exact, or predicted where the recipe gives minutes, then of whole steps."""
        if recipe.tokens is not None:
            return recipe.tokens
        return int(self.tokens_in_minutes(per_token, recipe))

    def tokens_in_minutes(self, per_token: Any, recipe: Recipe) -> Any:
        """Those of the whole steps that the recipe's minutes are predicted to have; of an array, one for each."""
        flops = 60 * (recipe.minutes or 0) * self.achieved_flops_per_s
        steps = flops / (per_token * float(recipe.tokens_per_step)) // 1
        return (steps + (steps < 1)) * recipe.tokens_per_step


def branch_tokens(tokens: Any, recipe: Recipe, branch_at: Sequence[float]) -> Any:
    """What branches take beside a training's own tokens, of which they read some again; of an array, one for each.

    The steps are those of `sweeper.values.schedule.Schedule.branch`.
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


def calibrate(records: Iterable[Line]) -> Calibration | None:
    """Medians over the `final` lines of status ok in a ledger, of the device seen last; None without any."""
    from sweeper.ledger.typed import FinalLine

    finals = [r for r in records if isinstance(r, FinalLine) and r.status == "ok" and r.seconds.get("train", 0) > 0]
    finals = [r for r in finals if r.config.flops_per_token is not None]
    if not finals:
        return None
    finals = [r for r in finals if r.device == finals[-1].device]
    speed = median(_train_flops(r) / r.seconds["train"] for r in finals)
    overhead = median(sum(r.seconds.get(name, 0) for name in ("set_up", "compile", "timing")) for r in finals)
    trials = "1 trial" if len(finals) == 1 else f"{len(finals)} trials"
    return Calibration(
        achieved_flops_per_s=speed,
        overhead_s=overhead,
        source=f"measured: {trials} of this folder on {finals[-1].device}, "
        f"{_flops_per_s(speed)} and {overhead:.1f} s to start",
        beside_bytes=GPU_BESIDE_BYTES if finals[-1].environment.get("driver") else 0,
    )


def _train_flops(final: FinalLine) -> float:
    return float(final.tokens * (final.config.flops_per_token or 0))


def _flops_per_s(value: float) -> str:
    return f"{value / 1e12:.3g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"


def memory_of(config: Config, batch_size: int) -> int:
    """`memory_bytes` of a config at a micro-batch; of precision `auto` that of bf16."""
    shape, recipe = config.ours
    return memory_bytes(
        shape,
        precision="bf16" if recipe.precision == "auto" else recipe.precision,
        batch_size=batch_size,
        seq_len=recipe.seq_len,
        optimizer=recipe.optimizer.name,
        fp8_backend=recipe.fp8_backend,
        fp8_filter=recipe.fp8_filter,
    )


def memory_bytes(
    shape: Shape,
    *,
    precision: Precision,
    batch_size: int,
    seq_len: int,
    optimizer: Literal["adamw", "muon"] = "adamw",
    fp8_backend: Fp8Backend | None = None,
    fp8_filter: Fp8Filter | None = None,
) -> int:
    """Predicted peak of what a trial allocates on its device, in bytes: see the formula above."""
    params, width, tokens = shape.params, 4 if precision == "fp32" else 2, batch_size * seq_len
    hidden = params.trunk - (2 * shape.n_layers + 1) * shape.d_model
    state = 16 * params.total - (4 * hidden if optimizer == "muon" else 0)
    in_fp8 = fp8_matmuls(shape, precision=precision, seq_len=seq_len, backend=fp8_backend, layer_filter=fp8_filter)
    uncopied = shape.n_layers * sum(k * n * in_fp8[name] for name, (k, n) in shape.matmuls().items())
    copies = 0 if precision == "fp32" else 2 * (hidden - uncopied + params.embedding)
    layers = shape.n_layers * layer_bytes_per_token(shape, width=width, in_fp8=in_fp8) * tokens
    return state + copies + layers + head_bytes(shape, width=width, tokens=tokens)


def fp8_matmuls(
    shape: Shape, *, precision: Precision, seq_len: int, backend: Fp8Backend | None, layer_filter: Fp8Filter | None
) -> dict[str, Any]:
    """Which of `shape.matmuls()` torchao multiplies in FP8; none but under precision fp8."""
    if precision != "fp8" or backend == "transformer_engine":
        return dict.fromkeys(shape.matmuls(), False)
    return {
        name: computes_in_fp8(k, n, seq_len=seq_len, layer_filter=layer_filter or "auto")
        for name, (k, n) in shape.matmuls().items()
    }


def layer_bytes_per_token(shape: Shape, *, width: int, in_fp8: Mapping[str, Any]) -> int:
    """What a compiled layer keeps of a token for its backward pass. `width`: bytes of a number that a matmul makes."""
    d, h, kv, f = shape.d_model, shape.n_heads, shape.n_kv_heads, shape.ffn_hidden
    heads = 3 * h + 3 * kv if width == 2 else 4 * h + 2 * h * (h == kv)
    made_again: int = d * in_fp8["qkv"] + d * in_fp8["gate and up"] + f * in_fp8["down"]
    return 4 * d + 8 + width * (3 * d + heads * shape.head_dim + 3 * f - made_again) + 4 * h


def head_bytes(shape: Shape, *, width: int, tokens: int) -> int:
    """What the head and its loss hold at their peak for a micro-batch of so many tokens, its weights apart.

    `width`: bytes of a logit as the matmul makes it.
    """
    d, vocab_size = shape.d_model, shape.vocab_size
    return (width * (vocab_size + d) + 4 * d + 4) * tokens + width * vocab_size * d
