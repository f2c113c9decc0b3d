"""A study's `constraints` over the quantities of a point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sweeper.model.shape import Shape
from sweeper.planning.solver import Drop
from sweeper.study.expressions import QUANTITIES, Expression, ExpressionError, Number
from sweeper.values.errors import UsageError
from sweeper.values.records import Config

if TYPE_CHECKING:
    from sweeper.planning.vectorised import Column

KV_BYTES = 2
"""Of a key's or a value's channel in the cache, in bf16."""


_Computed = Callable[[Shape, int, int], Any]
"""From a shape, seq_len and tokens_per_step; of a Shape of columns, a column."""

_COMPUTED: Mapping[str, _Computed] = {
    "n_layers": lambda shape, *_: shape.n_layers,
    "d_model": lambda shape, *_: shape.d_model,
    "n_heads": lambda shape, *_: shape.n_heads,
    "n_kv_heads": lambda shape, *_: shape.n_kv_heads,
    "kv_groups": lambda shape, *_: shape.n_heads // shape.n_kv_heads,
    "head_dim": lambda shape, *_: shape.head_dim,
    "ffn_hidden": lambda shape, *_: shape.ffn_hidden,
    "ffn_ratio": lambda shape, *_: shape.ffn_hidden / shape.d_model,
    "vocab_size": lambda shape, *_: shape.vocab_size,
    "aspect_ratio": lambda shape, *_: shape.d_model / shape.n_layers,
    "params": lambda shape, *_: shape.params.total,
    "trunk_params": lambda shape, *_: shape.params.trunk,
    "train_flops_per_token": lambda shape, seq_len, _: shape.train_flops_per_token(seq_len),
    "kv_bytes_per_token": lambda shape, *_: 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * KV_BYTES,
    "seq_len": lambda _, seq_len, __: seq_len,
    "tokens_per_step": lambda _, __, tokens_per_step: tokens_per_step,
}


def quantities(
    shape: Shape, *, seq_len: int, tokens_per_step: int, names: Iterable[str] = QUANTITIES
) -> dict[str, Any]:
    """What `sweeper.study.expressions.QUANTITIES` are for a shape in a recipe, or those of them that are wanted."""
    return {name: _COMPUTED[name](shape, seq_len, tokens_per_step) for name in names}


class Constraints:
    """A study's conditions, ready to be asked of many configs."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._expressions = tuple(Expression(text) for text in texts)

    def first_broken(self, config: Config) -> Drop | None:
        """Why `config` is dropped: the first condition that it doesn't keep; None where it keeps all.

        Raises UsageError where a condition can't be computed for this config.
        """
        if not self._expressions:
            return None
        shape, recipe = config.ours
        known = quantities(shape, seq_len=recipe.seq_len, tokens_per_step=recipe.tokens_per_step)
        for expression in self._expressions:
            if not _holds(expression, known):
                return Drop(reason=expression.text, message=partial(_broken, expression, known))
        return None

    def kept(self, shape: Shape, *, seq_len: int, tokens_per_step: int) -> tuple[Column, list[tuple[str, Column]]]:
        """Where a Shape of columns keeps all conditions; and of each condition, where it is the first one broken.

        Raises UsageError as `first_broken` does.
        """
        import numpy as np

        from sweeper.planning.vectorised import NotExact, hold

        kept: Any = np.full_like(shape.d_model, True, dtype=np.bool_)
        broken = []
        for expression in self._expressions:
            known = quantities(shape, seq_len=seq_len, tokens_per_step=tokens_per_step, names=expression.names)
            try:
                holds: Any = np.broadcast_to(hold(expression, known), kept.shape)
            except NotExact:
                holds = kept.copy()
                for place in np.flatnonzero(kept).tolist():
                    holds[place] = _holds(expression, {name: _one_of(value, place) for name, value in known.items()})
            broken.append((expression.text, kept & ~holds))
            kept = kept & holds
        return kept, broken


def _holds(expression: Expression, known: Mapping[str, Number]) -> bool:
    try:
        return expression.holds(known)
    except ExpressionError as error:
        values = _values(expression, known)
        raise UsageError(f"constraints: {expression.text}: {error}, with {values}") from None


def _one_of(value: Any, place: int) -> Number:
    """An entry of a column as Python's own number; of all of them where it is one number."""
    if isinstance(value, int | float):
        return value
    entry = value[place]
    number: Number = entry.item() if hasattr(entry, "item") else entry
    return number


def _broken(expression: Expression, known: Mapping[str, Number]) -> str:
    return f"{expression.text} doesn't hold with {_values(expression, known)}"


def _values(expression: Expression, known: Mapping[str, Number]) -> str:
    """The quantities that the condition speaks of, as they are here."""
    return ", ".join(f"{name} {_shown(known[name])}" for name in sorted(expression.names))


def _shown(value: Number) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
