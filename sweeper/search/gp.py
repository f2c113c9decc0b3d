"""Optuna's Gaussian processes, one an objective, on the feasible configs. Needs torch in the driver's process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeper.search._optuna import LEAST_TOLD, OptunaStrategy

if TYPE_CHECKING:
    from sweeper.search._gp_sampler import CandidatesGPSampler


class GP(OptunaStrategy):
    """Proposes the config with the highest expected gain in hypervolume, by the logarithm of it (2310.20708)."""

    def make_sampler(self, seed: int) -> CandidatesGPSampler:
        """Without random trials of its own: the start is ours."""
        from sweeper.search._gp_sampler import CandidatesGPSampler

        return CandidatesGPSampler(seed=seed, n_startup_trials=LEAST_TOLD, warn_independent_sampling=False)
