"""Each shape at its best value of the axes that aren't in question: a study's `nuisance`, such as the learning rate.

The lowest of several measured losses reads too low, as it was picked for being low. So a shape's loss at a seed is
that of the value which is best at its *other* seeds: what is averaged wasn't used to choose (cross-validation of the
choice: Stone, J. R. Stat. Soc. B 36, 1974; Varma and Simon, BMC Bioinformatics 7:91, 2006). It errs to the other side,
by little: each choice is made with a seed less than there are. That the choice itself is uncertain is in the noise.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeper.model.shape import Shape
from sweeper.planning.axes import value_on
from sweeper.stats.additive_fit import AdditiveFit, Observation, fit
from sweeper.values.records import Config


@dataclass(frozen=True, kw_only=True)
class Level:
    """One value of the nuisance axes at a shape: the mean loss of its `n` trials, adjusted for seeds that it lacks."""

    config_id: str
    values: Mapping[str, Any]
    val_loss: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A shape's levels, in the study's order, and the config that is best by the means.

    `optimism`: how far below the cross-validated loss that config's own mean lies, in nats; None where one seed allows
    no cross-validation, and the loss reads too low by an amount that isn't known.
    """

    config_id: str
    levels: tuple[Level, ...]
    optimism: float | None


@dataclass(frozen=True, kw_only=True)
class AtBest:
    """What is ranked in place of all configs: `losses` have one treatment a shape, its best config's id."""

    losses: tuple[Observation, ...]
    tuned: tuple[Tuned, ...]

    @property
    def outdone(self) -> frozenset[str]:
        """Ids of the measured configs that another value of the nuisance axes is better than."""
        measured = {level.config_id for one in self.tuned for level in one.levels}
        return frozenset(measured - {one.config_id for one in self.tuned})


def at_best(
    losses: Sequence[Observation], means: AdditiveFit, configs: Sequence[Config], nuisance: Sequence[str]
) -> AtBest:
    """The losses of each shape at its best. `losses` are of configs (treatments are their ids) at seeds (blocks).

    `means` is their fit; `configs` are the planned ones, measured or not.
    """
    if not nuisance:
        return AtBest(losses=tuple(losses), tuned=())
    groups: dict[Config, list[Config]] = {}
    for config in configs:
        if config.config_id in means:
            groups.setdefault(_without(config, nuisance), []).append(config)
    found, tuned = [], []
    for group in groups.values():
        own = [o for o in losses if o.treatment in {config.config_id for config in group}]
        best = min(group, key=lambda config: means.mean(config.config_id).value).config_id
        crossed = _cross_validated(own, best) if len(group) > 1 else own
        found += crossed or [o for o in own if o.treatment == best]
        if len(group) > 1:
            tuned.append(_tuned(group, best, own, crossed, means, nuisance))
    return AtBest(losses=tuple(found), tuned=tuple(tuned))


def _without(config: Config, nuisance: Sequence[str]) -> Config:
    """What configs have in common that differ in nuisance axes alone."""
    names = [axis.removeprefix("optimizer.") for axis in nuisance]
    fields: dict[str, Any] = dict.fromkeys("base" if name == "parametrization" else name for name in names)
    foreign = config.shape
    if not isinstance(foreign, Shape):
        axes = tuple([(name, value) for name, value in foreign.axes if name not in nuisance])
        config = replace(config, shape=replace(foreign, axes=axes))
    if config.optimizer is None:
        return config
    return config.with_recipe(optimizer=replace(config.optimizer, **fields))


def _cross_validated(own: Sequence[Observation], best: str) -> list[Observation]:
    """The shape's loss at each seed, of the level that is best at the others; empty where there's but one seed."""
    found = []
    for seed in dict.fromkeys(o.block for o in own):
        here = {o.treatment: o for o in own if o.block == seed}
        others = [o for o in own if o.block != seed and o.treatment in here]
        if others:
            by_others = fit(others)
            chosen = min(by_others.treatments, key=lambda treatment: by_others.mean(treatment).value)
            found.append(replace(here[chosen], treatment=best))
    return found


def _tuned(
    group: Sequence[Config],
    best: str,
    own: Sequence[Observation],
    crossed: Sequence[Observation],
    means: AdditiveFit,
    nuisance: Sequence[str],
) -> Tuned:
    plain = {o.block: o.value for o in own if o.treatment == best}
    pairs = [(o.value, plain[o.block]) for o in crossed if o.block in plain]
    return Tuned(
        config_id=best,
        levels=tuple(
            Level(
                config_id=config.config_id,
                values={axis: value_on(axis, config) for axis in nuisance},
                val_loss=means.mean(config.config_id).value,
                n=sum(o.treatment == config.config_id for o in own),
            )
            for config in group
        ),
        optimism=sum(a - b for a, b in pairs) / len(pairs) if pairs else None,
    )


def unsteady_levels(
    configs: Sequence[Config], diverged: Mapping[str, int], measured: Container[str], nuisance: Sequence[str]
) -> frozenset[str]:
    """Ids of configs that diverged for some seed, where at another value of the `nuisance` axes no trial did.

    `diverged` counts trials by config id; `measured` has the ids of those with a loss.
    """
    unsteady = {config.config_id for config in configs if diverged.get(config.config_id)}
    if not nuisance or not unsteady:
        return frozenset()
    steady = {
        _without(config, nuisance)
        for config in configs
        if config.config_id in measured and config.config_id not in unsteady
    }
    return frozenset(
        [
            config.config_id
            for config in configs
            if config.config_id in unsteady and _without(config, nuisance) in steady
        ]
    )
