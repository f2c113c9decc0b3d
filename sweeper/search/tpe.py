"""Optuna's tree-structured Parzen estimator, multivariate and for several objectives, on the feasible configs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeper.search._optuna import LEAST_TOLD, OptunaStrategy

if TYPE_CHECKING:
    from optuna.samplers import TPESampler


class TPE(OptunaStrategy):
    """Proposes configs that are likelier among the good outcomes so far than among the others (2305.10110 §3)."""

    def make_sampler(self, seed: int) -> TPESampler:
        """Without random trials of its own: the start is ours."""
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=LEAST_TOLD)
