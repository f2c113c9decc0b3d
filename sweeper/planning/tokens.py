"""From how long a trial should be to whole optimizer steps, and from its fields to a recipe, before any id is made.

Learning rate and weight decay are given for some number of tokens per step. With κ = tokens per step ÷ this reference

    lr           · √κ       the square-root rule for Adam (2205.10287), with betas and eps kept
    weight_decay · √κ       so that lr · weight_decay ÷ tokens per step, and with it how many tokens the weights
                            average over, stays the same (2405.13698)

The reference is the base's tokens_per_step, else the first value of a tokens_per_step axis; without either nothing is
rescaled, and nothing under `batch_scaling: none`. For Muon the rule is the same by analogy, without a derivation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from math import sqrt
from typing import Any

from sweeper.model.shape import Shape, neighbours
from sweeper.planning.solver import Drop
from sweeper.study.schema import DEFAULT_BATCH_SIZE, MUON_MOMENTUM, Trial
from sweeper.study.trial_checks import MUON_WITH_COMPLETEP
from sweeper.values.records import Base, Optimizer, Recipe

BATCH_RULE = "tokens_per_step % (batch_size * seq_len)"
TOO_SHORT = "tokens < tokens_per_step"
SCHEDULE_RULE = "optimizer.warmup + optimizer.cooldown"
SCALED_MUON = "completep with muon"

_STUDY_ONLY = ("parametrization", "batch_scaling")
"""Fields of a study's optimizer that are no part of a recipe: what they come to is."""


@dataclass(frozen=True)
class TrialSettings:
    """A trial's settings at one point of the lattice, checked: a micro-batch × `seq_len` divides a step.

    `fields` are those of `sweeper.study.schema.Trial`; `batch_sizes` in sequences, ascending: one, or the rungs of
    a ladder; `reference_tokens` is the step that lr and weight_decay are given for, None where they aren't rescaled.
    """

    fields: Mapping[str, Any]
    batch_sizes: tuple[int, ...]
    tokens_per_step: int
    reference_tokens: int | None

    def recipe(self, shape: Shape) -> Recipe:
        """The recipe with its steps resolved for `shape`; `minutes` stay, for a probe to resolve."""
        if self.steps_differ:
            return self._recipe(steps=whole_steps(*self.share(shape)))
        return self.common_recipe

    @property
    def steps_differ(self) -> bool:
        """Whether the steps depend on the shape."""
        return self.fields["tokens"] is None and self.fields["minutes"] is None

    @cached_property
    def common_recipe(self) -> Recipe:
        """The recipe of all shapes; where their steps differ, without any."""
        if self.fields["tokens"] is None:
            return self._recipe(minutes=self.fields["minutes"])
        return self._recipe(steps=whole_steps(self.fields["tokens"], self.tokens_per_step))

    def share(self, shape: Shape) -> tuple[int, int]:
        """What a training gets and what one step of it takes, in the same unit, where steps depend on the shape."""
        if self.fields["flops"] is not None:
            per_step = shape.train_flops_per_token(self.fields["seq_len"]) * self.tokens_per_step
            return int(self.fields["flops"]), per_step
        per_param = self._tokens_per_param
        return per_param.numerator * shape.params.total, per_param.denominator * self.tokens_per_step

    @cached_property
    def _tokens_per_param(self) -> Fraction:
        return Fraction(str(self.fields["tokens_per_param"]))

    @cached_property
    def _optimizer(self) -> Optimizer:
        fields = {key: value for key, value in self.fields["optimizer"].items() if key not in _STUDY_ONLY}
        base = fields["base"] if self.fields["optimizer"]["parametrization"] == "completep" else None
        momentum = MUON_MOMENTUM if fields["momentum"] is None else fields["momentum"]
        factor = self._rescaling
        return Optimizer(
            **{
                **fields,
                "betas": tuple(fields["betas"]),
                "lr": rescaled(fields["lr"], factor),
                "weight_decay": rescaled(fields["weight_decay"], factor),
                "base": None if base is None else _base(base),
                "momentum": momentum if fields["name"] == "muon" else None,
            }
        )

    @property
    def _rescaling(self) -> float:
        """√κ, 1 where nothing is rescaled."""
        if self.reference_tokens is None or self.fields["optimizer"]["batch_scaling"] == "none":
            return 1.0
        return sqrt(self.tokens_per_step / self.reference_tokens)

    def _recipe(self, *, steps: int | None = None, minutes: float | None = None) -> Recipe:
        fields = self.fields
        fp8 = fields["precision"] in ("fp8", "auto")
        return Recipe(
            data=fields["data"],
            steps=steps,
            minutes=minutes,
            seq_len=fields["seq_len"],
            tokens_per_step=self.tokens_per_step,
            precision=fields["precision"],
            fp8_backend=(fields["fp8_backend"] or "torchao") if fp8 else None,
            fp8_filter=(fields["fp8_filter"] or "auto") if fp8 else None,
            optimizer=self._optimizer,
            eval_tokens=fields["eval_tokens"],
        )


def _base(fields: Mapping[str, Any]) -> Base:
    d_model = fields["d_model"]
    return Base(n_layers=fields["n_layers"], d_model=d_model, ffn_hidden=fields["ffn_hidden"] or d_model * 8 // 3)


def rescaled(value: float, factor: float) -> float:
    """`value` × `factor`, to six digits where that changes it: a number that can be written down again."""
    return value if factor == 1 else float(f"{value * factor:.6g}")


def reference_tokens(trial: Trial, axes: Mapping[str, Any]) -> int | None:
    """The tokens per step that lr and weight_decay are given for, None where no step is told from another."""
    base = trial.optimizer.base
    if base is not None and base.tokens_per_step is not None:
        return base.tokens_per_step
    return axes["tokens_per_step"][0] if "tokens_per_step" in axes else None


def whole_steps(wanted: int, step: int) -> int:
    """`wanted` ÷ `step` to the nearest whole number, a half upwards, at least 1. Of arrays, one number for each."""
    steps = (2 * wanted + step) // (2 * step)
    return steps + (steps < 1)


def longer(recipe: Recipe, tokens: int | float) -> Recipe:
    """The recipe at `tokens` tokens, where an int, or so many times its own tokens or minutes, where a float."""
    if isinstance(tokens, int):
        return replace(recipe, steps=whole_steps(tokens, recipe.tokens_per_step), minutes=None)
    if recipe.steps is None:
        return replace(recipe, minutes=(recipe.minutes or 0) * tokens)
    return replace(recipe, steps=round(recipe.steps * tokens))


def with_axes(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` of a trial with axis values laid over them; `optimizer.lr` reaches inside."""
    merged = dict(fields)
    for name, value in values.items():
        outer, _, inner = name.partition(".")
        merged[outer] = {**merged[outer], inner: value} if inner else value
    return merged


def settle(fields: Mapping[str, Any], *, reference: int | None = None) -> TrialSettings | Drop:
    """Check the token arithmetic, the schedule and the optimizer of a trial's fields.

    Tokens per step are `tokens_per_step`, else batch_size × grad_accum_steps × seq_len, else one
    micro-batch's. `reference`: see `reference_tokens`.
    """
    given = fields["batch_size"] or DEFAULT_BATCH_SIZE
    batch_sizes = tuple(sorted(given["fastest"])) if isinstance(given, Mapping) else (given,)
    seq_len = fields["seq_len"]
    tokens_per_step = fields["tokens_per_step"] or batch_sizes[0] * seq_len * (fields["grad_accum_steps"] or 1)
    for batch_size in batch_sizes:
        if tokens_per_step % (batch_size * seq_len):
            message = partial(_indivisible, tokens_per_step, batch_size, seq_len)
            return Drop(reason=BATCH_RULE, message=message)
    tokens = fields["tokens"]
    if tokens is not None and tokens < tokens_per_step:
        return _drop(
            TOO_SHORT,
            f"tokens {tokens:,} are fewer than one step's {tokens_per_step:,}: "
            f"give at least {tokens_per_step:,} tokens, or a smaller step",
        )
    optimizer = fields["optimizer"]
    warmup, cooldown = optimizer["warmup"], optimizer["cooldown"]
    if warmup + cooldown > 1:
        return _drop(
            SCHEDULE_RULE,
            f"warmup {warmup:g} and cooldown {cooldown:g} are more than the whole schedule: their sum is at most 1",
        )
    if optimizer["name"] == "muon" and optimizer["parametrization"] == "completep":
        return _drop(SCALED_MUON, MUON_WITH_COMPLETEP)
    return TrialSettings(fields, batch_sizes, tokens_per_step, reference)


def _drop(reason: str, message: str) -> Drop:
    return Drop(reason=reason, message=lambda: message)


def _indivisible(tokens_per_step: int, batch_size: int, seq_len: int) -> str:
    below, above = neighbours(tokens_per_step, batch_size * seq_len)
    near = f"{below} or {above}" if below else f"{above}"
    message = (
        f"tokens_per_step {tokens_per_step} is not a multiple of batch_size {batch_size} × seq_len {seq_len} "
        f"= {batch_size * seq_len}: nearest are tokens_per_step {near}"
    )
    if tokens_per_step % seq_len:
        return message
    sequences = tokens_per_step // seq_len
    fitting = [size for size in range(1, min(sequences, 2 * batch_size) + 1) if sequences % size == 0]
    return f"{message}, or batch_size {min(fitting, key=lambda size: (abs(size - batch_size), size))}"
