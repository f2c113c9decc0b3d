"""From how long a trial should be to whole optimizer steps, before any id is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from model.shape import Shape, neighbours
from sweeper.planning.solver import Drop
from sweeper.records import Optimizer, Recipe
from sweeper.study.schema import DEFAULT_BATCH_SIZE

BATCH_RULE = "tokens_per_step % (batch_size * seq_len)"
TOO_SHORT = "tokens < tokens_per_step"
SCHEDULE_RULE = "optimizer.warmup + optimizer.cooldown"


@dataclass(frozen=True)
class TrialSettings:
    """A trial's settings at one point of the lattice, checked: `batch_size` × `seq_len` divides a step.

    `fields` are those of `sweeper.study.schema.Trial`; `batch_size` in sequences.
    """

    fields: Mapping[str, Any]
    batch_size: int
    tokens_per_step: int

    def recipe(self, shape: Shape) -> Recipe:
        """The recipe with its steps resolved for `shape`."""
        return self._fixed_recipe if self.fields["tokens"] is not None else self._recipe(self._steps(shape))

    @cached_property
    def _fixed_recipe(self) -> Recipe:
        return self._recipe(rounded(self.fields["tokens"], self.tokens_per_step))

    def _steps(self, shape: Shape) -> int:
        if self.fields["flops"] is not None:
            per_step = shape.train_flops_per_token(self.fields["seq_len"]) * self.tokens_per_step
            return rounded(int(self.fields["flops"]), per_step)
        wanted = self._tokens_per_param * shape.params.total
        return rounded(wanted.numerator, wanted.denominator * self.tokens_per_step)

    @cached_property
    def _tokens_per_param(self) -> Fraction:
        return Fraction(str(self.fields["tokens_per_param"]))

    @cached_property
    def _optimizer(self) -> Optimizer:
        fields = {key: value for key, value in self.fields["optimizer"].items() if key != "parametrization"}
        return Optimizer(**{**fields, "betas": tuple(fields["betas"])})

    def _recipe(self, steps: int) -> Recipe:
        fields = self.fields
        return Recipe(
            data=fields["data"],
            steps=steps,
            seq_len=fields["seq_len"],
            tokens_per_step=self.tokens_per_step,
            precision=fields["precision"],
            optimizer=self._optimizer,
            eval_tokens=fields["eval_tokens"],
        )


def rounded(wanted: int, step: int) -> int:
    """`wanted` ÷ `step` to the nearest whole number, a half upwards, at least 1."""
    return max(1, (2 * wanted + step) // (2 * step))


def with_axes(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` of a trial with axis values laid over them; `optimizer.lr` reaches inside."""
    merged = dict(fields)
    for name, value in values.items():
        outer, _, inner = name.partition(".")
        merged[outer] = {**merged[outer], inner: value} if inner else value
    return merged


def settle(fields: Mapping[str, Any]) -> TrialSettings | Drop:
    """Check the token arithmetic and the schedule of a trial's fields.

    Tokens per step are `tokens_per_step`, else batch_size × grad_accum_steps × seq_len, else one
    micro-batch's.
    """
    batch_size = fields["batch_size"] or DEFAULT_BATCH_SIZE
    micro_batch = batch_size * fields["seq_len"]
    tokens_per_step = fields["tokens_per_step"] or micro_batch * (fields["grad_accum_steps"] or 1)
    if tokens_per_step % micro_batch:
        return Drop(
            reason=BATCH_RULE,
            message=lambda: _indivisible(tokens_per_step, batch_size, fields["seq_len"]),
        )
    tokens = fields["tokens"]
    if tokens is not None and tokens < tokens_per_step:
        return Drop(
            reason=TOO_SHORT,
            message=lambda: (
                f"tokens {tokens:,} are fewer than one step's {tokens_per_step:,}: "
                f"give at least {tokens_per_step:,} tokens, or a smaller step"
            ),
        )
    warmup, cooldown = fields["optimizer"]["warmup"], fields["optimizer"]["cooldown"]
    if warmup + cooldown > 1:
        return Drop(
            reason=SCHEDULE_RULE,
            message=lambda: (
                f"warmup {warmup:g} and cooldown {cooldown:g} are more than the whole schedule: their sum is at most 1"
            ),
        )
    return TrialSettings(fields, batch_size, tokens_per_step)


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
