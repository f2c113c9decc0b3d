"""A study's `constraints` over the quantities of a point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from sweeper.errors import UsageError
from sweeper.planning.solver import Drop
from sweeper.records import Config
from sweeper.study.expressions import Expression, ExpressionError, Number

KV_BYTES = 2
"""Of a key's or a value's channel in the cache, in bf16."""


def quantities(config: Config) -> dict[str, Number]:
    """What `sweeper.study.expressions.QUANTITIES` are for `config`."""
    shape, recipe = config.shape, config.recipe
    params = shape.params
    return {
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads,
        "kv_groups": shape.n_heads // shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "ffn_hidden": shape.ffn_hidden,
        "ffn_ratio": shape.ffn_hidden / shape.d_model,
        "vocab_size": shape.vocab_size,
        "aspect_ratio": shape.d_model / shape.n_layers,
        "params": params.total,
        "trunk_params": params.trunk,
        "train_flops_per_token": shape.train_flops_per_token(recipe.seq_len),
        "kv_bytes_per_token": 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * KV_BYTES,
        "seq_len": recipe.seq_len,
        "tokens_per_step": recipe.tokens_per_step,
    }


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
        known = quantities(config)
        for expression in self._expressions:
            try:
                holds = expression.holds(known)
            except ExpressionError as error:
                values = _values(expression, known)
                raise UsageError(f"constraints: {expression.text}: {error}, with {values}") from None
            if not holds:
                return Drop(reason=expression.text, message=partial(_broken, expression, known))
        return None


def _broken(expression: Expression, known: Mapping[str, Number]) -> str:
    return f"{expression.text} doesn't hold with {_values(expression, known)}"


def _values(expression: Expression, known: Mapping[str, Number]) -> str:
    """The quantities that the condition speaks of, as they are here."""
    return ", ".join(f"{name} {_shown(known[name])}" for name in sorted(expression.names))


def _shown(value: Number) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
