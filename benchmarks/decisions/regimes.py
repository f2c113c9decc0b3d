"""The regimes and seeds of `decisions.py`: written down before the methods that they judge.

A table of values is [studies, configs, seeds]; a trial's sd is 1 unless a regime says otherwise, and every seed shifts
all configs of its study by a standard normal value. Losses: the lower the better.

| what | regimes | must hold |
| --- | --- | --- |
| best | one config leads five equal ones by 3 sd, 3 seeds | said to be the best in ≥ 66% |
| best | all equal; two tied, the others 5 sd behind; one of the tied 4 times noisier | a best is named in ≤ 5.5% |
| classes | 4 rates × 2 depths, the two configs of the highest rate 4 times noisier | false differences ≤ 7% a class |
| classes | 3 rates × 6 depths, the highest rate 2.5 times noisier | as above |
| noisy | two of the eight, of no common rate or depth, 4 times noisier; or one | ≤ 12% there; each named in ≥ 80% |
| equal | 4 rates × 2 depths, all alike | false differences ≤ 5.5%, a config named in ≤ 5% |
| speeds | log speeds of 6 depths × 2 rates, sd falling by depth from 8% to 0.1% | intervals hold ≥ 93% |
| outlier | 6 to 24 configs, 2 to 5 seeds, ≥ 18 trials, one trial 8 sd off | named in ≥ 95%, falsely in ≤ 2% |
| branch | losses at two lengths, noise correlated by 0.6, orders alike or not | the cost's interval holds ≥ 95% |
| stake | six configs, true losses of sd 0, 0.5, 1 and 2 | the choice costs no more than said in ≥ 95% |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 18
"""Of the recorded run; while a method is made others are used."""
STUDIES = 4000

BEST_SIZES = ((2, 3), (3, 3), (6, 2), (6, 3), (6, 5), (12, 3), (24, 3))
"""Configs × seeds for what is said to be the best."""
LEAD = 3.0
BEHIND = 5.0
NOISIER = 4.0
CLASS_SEEDS = (2, 3, 5)
RATES, DEPTHS = (1e-3, 2e-3, 4e-3, 8e-3), (4, 8)
NOISY_PAIR, NOISY_ONE = (1, 6), 1
"""Places among the eight configs, rate by rate: (1e-3, L8) and (8e-3, L4), and the first of them."""
OUTLIER = 8.0
LEAST_TRIALS = 18
BRANCH_SIZES = ((6, 3), (12, 3))
BRANCH_SPREADS = (1.0, 3.0)
CORRELATION = 0.6
STAKE_SPREADS = (0.0, 0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class Design:
    """Configs by what is recorded of them, and the sd of a trial of each."""

    name: str
    covariates: tuple[dict[str, float], ...]
    sd: NDArray[np.float64]

    @property
    def classes(self) -> dict[str, NDArray[np.intp]]:
        """Places of the configs of each sd, the quiet first."""
        return {f"sd {sd:g}": np.flatnonzero(self.sd == sd) for sd in np.unique(self.sd)}


def _grid(rates: tuple[float, ...], depths: tuple[int, ...]) -> tuple[dict[str, float], ...]:
    return tuple([{"lr": rate, "n_layers": float(depth)} for rate in rates for depth in depths])


def designs() -> list[Design]:
    """Those of the variance classes."""
    eight, eighteen = _grid(RATES, DEPTHS), _grid(RATES[:3], (2, 4, 6, 8, 12, 16))
    highest = np.array([NOISIER if one["lr"] == max(RATES) else 1.0 for one in eight])
    kaplan = np.array([2.5 if one["lr"] == RATES[2] else 1.0 for one in eighteen])
    two, one = np.ones(8), np.ones(8)
    two[list(NOISY_PAIR)] = NOISIER
    one[NOISY_ONE] = NOISIER
    return [
        Design(name="equal", covariates=eight, sd=np.ones(8)),
        Design(name="covariate", covariates=eight, sd=highest),
        Design(name="covariate, three rates", covariates=eighteen, sd=kaplan),
        Design(name="two noisy, no covariate", covariates=eight, sd=two),
        Design(name="one noisy, no covariate", covariates=eight, sd=one),
    ]


def speed_design() -> Design:
    """Log speeds: sd falls from 8% at the shallowest to 0.1% at the deepest, evenly in its log."""
    depths = (1, 2, 3, 4, 5, 6)
    by_depth = dict(zip(depths, np.geomspace(0.08, 0.001, len(depths)), strict=True))
    grid = _grid(RATES[:2], depths)
    return Design(name="speeds", covariates=grid, sd=np.array([by_depth[int(one["n_layers"])] for one in grid]))


def table(
    source: np.random.Generator, studies: int, sd: NDArray[np.float64], seeds: int, truth: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """[studies, configs, seeds]: what trials of these sd measure of `truth` [configs] or [studies, configs]."""
    shape = (studies, len(sd), seeds)
    means = np.broadcast_to(np.asarray(truth, dtype=float), shape[:2])[:, :, None]
    values: NDArray[np.float64] = (
        means + source.normal(size=shape) * sd[:, None] + source.normal(size=(studies, 1, seeds))
    )
    return values


def outlier_size(source: np.random.Generator) -> tuple[int, int]:
    """Configs and seeds of a study, as `calibration.py` draws them, with LEAST_TRIALS at least."""
    while True:
        configs, seeds = int(source.integers(6, 25)), int(source.integers(2, 6))
        if configs * seeds >= LEAST_TRIALS:
            return configs, seeds
