"""Where a config lies on a study's axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sweeper.values.records import Config


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
