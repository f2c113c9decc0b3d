"""Optuna's genetic algorithm NSGA-II on the feasible configs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sweeper.records import Config
from sweeper.search._optuna import OptunaStrategy

if TYPE_CHECKING:
    from optuna.samplers import NSGAIISampler

LEAST, MOST = 4, 50


class NSGA2(OptunaStrategy):
    """Crosses and mutates the non-dominated configs so far (Deb et al. 2002, doi 10.1109/4235.996017).

    A generation has √trials + 2 configs, so that there are about as many generations.
    """

    def __init__(
        self, configs: Sequence[Config], *, trials: int, seed: int, axes: Sequence[str], objectives: Mapping[str, str]
    ) -> None:
        population = max(LEAST, min(MOST, math.isqrt(min(trials, len(configs))) + 2))
        super().__init__(
            configs,
            partial(_sampler, population),
            trials=trials,
            seed=seed,
            axes=axes,
            objectives=objectives,
            keeps_generations=True,
        )


def _sampler(population: int, seed: int) -> NSGAIISampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=population)
