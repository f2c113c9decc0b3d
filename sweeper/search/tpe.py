"""Optuna's tree-structured Parzen estimator, multivariate and for several objectives, on the feasible configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sweeper.records import Config
from sweeper.search._optuna import LEAST_TOLD, OptunaStrategy

if TYPE_CHECKING:
    from optuna.samplers import TPESampler


class TPE(OptunaStrategy):
    """Proposes configs that are likelier among the good outcomes so far than among the others (2305.10110 §3)."""

    def __init__(
        self, configs: Sequence[Config], *, trials: int, seed: int, axes: Sequence[str], objectives: Mapping[str, str]
    ) -> None:
        super().__init__(configs, _sampler, trials=trials, seed=seed, axes=axes, objectives=objectives)


def _sampler(seed: int) -> TPESampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=LEAST_TOLD)
