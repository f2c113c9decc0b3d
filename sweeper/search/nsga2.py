"""Optuna's genetic algorithm NSGA-II on the feasible configs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sweeper.search._optuna import OptunaStrategy

if TYPE_CHECKING:
    from optuna.samplers import NSGAIISampler

LEAST, MOST = 4, 50


class NSGA2(OptunaStrategy):
    """Crosses and mutates the non-dominated configs so far (Deb et al. 2002, doi 10.1109/4235.996017)."""

    keeps_generations = True

    def make_sampler(self, seed: int) -> NSGAIISampler:
        """A generation has √trials + 2 configs, so that there are about as many generations."""
        from optuna.samplers import NSGAIISampler

        population = max(LEAST, min(MOST, math.isqrt(self.room) + 2))
        return NSGAIISampler(seed=seed, population_size=population)
