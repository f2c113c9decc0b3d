"""Optuna's Gaussian processes, one an objective, on the feasible configs. Needs torch in the driver's process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sweeper.records import Config
from sweeper.search._optuna import LEAST_TOLD, OptunaStrategy

if TYPE_CHECKING:
    from optuna.samplers import GPSampler


class GP(OptunaStrategy):
    """Proposes the config with the highest expected gain in hypervolume, by the logarithm of it (2310.20708)."""

    def __init__(
        self, configs: Sequence[Config], *, trials: int, seed: int, axes: Sequence[str], objectives: Mapping[str, str]
    ) -> None:
        super().__init__(configs, _sampler, trials=trials, seed=seed, axes=axes, objectives=objectives)


def _sampler(seed: int) -> GPSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=LEAST_TOLD, warn_independent_sampling=False)
