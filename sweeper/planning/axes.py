"""Where a config lies on a study's axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sweeper.model.shape import Shape
from sweeper.values.records import Config


def value_on(axis: str, config: Config) -> Any:
    """Where `config` lies on an axis of a study; what the axis comes to, where the recipe has only that."""
    if axis in (own := config.shape.fields()):
        return own[axis]
    if axis in _DERIVED:
        return _DERIVED[axis](config)
    if axis in _OF_SHAPES:
        return _OF_SHAPES[axis](config.ours[0])
    if axis.startswith("optimizer."):
        return getattr(config.optimizer, axis.removeprefix("optimizer."))
    return getattr(config.recipe, axis)


def _parametrization(config: Config) -> str:
    return "completep" if config.optimizer and config.optimizer.base else "standard"


_DERIVED: Mapping[str, Callable[[Config], Any]] = {
    "flops": lambda config: config.steps,
    "tokens_per_param": lambda config: config.steps,
    "grad_accum_steps": lambda config: config.tokens_of(1),
    "batch_size": lambda config: 0,  # no part of a config
    "optimizer.parametrization": lambda config: _parametrization(config),
}
_OF_SHAPES: Mapping[str, Callable[[Shape], Any]] = {
    "kv_groups": lambda shape: shape.n_heads // shape.n_kv_heads,
    "ffn_ratio": lambda shape: shape.ffn_hidden / shape.d_model,
}
