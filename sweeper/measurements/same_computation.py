"""Configs of different ids that are one computation: their trials are one measurement, made twice.

CompleteP at its own base shape multiplies everything by one (`sweeper.model.parametrization`): it is the standard
parametrization there.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from sweeper.model.shape import Shape
from sweeper.stats.additive_fit import AdditiveFit, Observation, fit
from sweeper.values.records import Base, Config


def computation(config: Config) -> Config:
    """The config as what is computed: without a base that changes nothing."""
    shape, recipe = config.shape, config.recipe
    if not isinstance(shape, Shape) or recipe is None:
        return config
    optimizer = recipe.optimizer
    if optimizer.base != Base(n_layers=shape.n_layers, d_model=shape.d_model, ffn_hidden=shape.ffn_hidden):
        return config
    return replace(config, recipe=replace(recipe, optimizer=replace(optimizer, base=None)))


def copies(configs: Sequence[Config], measured: Container[str]) -> dict[str, str]:
    """By config id, of those `measured` that are one computation with an earlier one, the id of that."""
    first: dict[Config, str] = {}
    found = {}
    for config in configs:
        if config.config_id in measured:
            own = first.setdefault(computation(config), config.config_id)
            if own != config.config_id:
                found[config.config_id] = own
    return found


def fit_once(observations: Sequence[Observation], copy_of: Mapping[str, str]) -> AdditiveFit:
    """The fit in which a computation counts once a block; it answers by the copies' ids too."""
    once: dict[tuple[str, str], Observation] = {}
    for one in observations:
        treatment = copy_of.get(one.treatment, one.treatment)
        once.setdefault((treatment, one.block), replace(one, treatment=treatment))
    return replace(fit(list(once.values())), copy_of=dict(copy_of))
