"""Configs as points in a box spanned by the study's axes, for strategies that measure how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.records import Config

if TYPE_CHECKING:
    from numpy import ndarray

DIGITS = 9
"""What is kept of a feature, so that no machine's logarithm decides between two that are as far."""


def features(configs: Sequence[Config], axes: Sequence[str]) -> ndarray:
    """(configs, features) in [0, 1], float64: one column for each of `axes`, or one for each word of an axis of words.

    Numbers are on a logarithmic scale where all are above zero, as widths, depths and learning rates compare by
    ratios. A word's columns hold √½, so that two words are as far apart as the ends of a number's range. An axis that
    has one value has no column.
    """
    import numpy as np

    columns = []
    for axis in axes:
        values = [value_on(axis, config) for config in configs]
        if len(set(values)) < 2:
            continue
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            column = np.array([math.log(value) for value in values] if min(values) > 0 else values, dtype=np.float64)
            columns.append((column - column.min()) / (column.max() - column.min()))
        else:
            columns += [np.array([value == word for value in values]) * math.sqrt(0.5) for word in _words(values)]
    if not columns:
        return np.zeros((len(configs), 1))
    return np.stack(columns, axis=1).round(DIGITS)


def _words(values: Sequence[Any]) -> list[Any]:
    return sorted(set(values), key=str)


def value_on(axis: str, config: Config) -> Any:
    """Where `config` lies on an axis of a study; what the axis comes to, where the recipe has only that."""
    if axis in _DERIVED:
        return _DERIVED[axis](config)
    if axis.startswith("optimizer."):
        return getattr(config.recipe.optimizer, axis.removeprefix("optimizer."))
    return getattr(config.shape, axis) if hasattr(config.shape, axis) else getattr(config.recipe, axis)


_DERIVED: Mapping[str, Callable[[Config], Any]] = {
    "kv_groups": lambda config: config.shape.n_heads // config.shape.n_kv_heads,
    "ffn_ratio": lambda config: config.shape.ffn_hidden / config.shape.d_model,
    "flops": lambda config: config.recipe.steps,
    "tokens_per_param": lambda config: config.recipe.steps,
    "grad_accum_steps": lambda config: config.recipe.tokens_per_step,
    "batch_size": lambda config: 0,  # no part of a config
    "optimizer.parametrization": lambda config: "standard" if config.recipe.optimizer.base is None else "completep",
}
