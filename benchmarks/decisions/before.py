"""What the version before (commit 84be6f6) said of the same tables, for `decisions.py`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import invwishart, nct

from sweeper.recommend.criteria import Lead
from sweeper.stats.additive_fit import CONFIDENCE, POWER, AdditiveFit, studentized_range_quantile, t_quantile

DRAWS = 300
"""Of both lengths' means; 1000 were drawn."""
MOST_SEEDS = 100


def resolved(one: AdditiveFit) -> NDArray[np.bool_]:
    """[configs, configs]: of a fit of one variance, per comparison."""
    values, errors = one.all_differences(one.treatments)
    return np.abs(values) > t_quantile(0.5 + CONFIDENCE / 2, one.degrees_of_freedom) * errors


def named_best(one: AdditiveFit) -> bool:
    """Whether the lowest mean is below all others at once, by Tukey and Kramer."""
    values, errors = one.all_differences(one.treatments)
    top = int(one.means.argmin())
    times = studentized_range_quantile(CONFIDENCE, len(one.means), one.degrees_of_freedom) / math.sqrt(2)
    others = [i for i in range(len(one.means)) if i != top]
    return bool((values[others, top] > times * errors[others, top]).all())


def tau_interval(early: AdditiveFit, late: AdditiveFit, source: np.random.Generator) -> tuple[float, float]:
    """95% of Kendall's τ over joint draws of both lengths' means (Gelman et al., 3rd edition, §3.6)."""
    residuals = np.stack([early.residuals, late.residuals], axis=1)
    covariances = invwishart.rvs(early.degrees_of_freedom, residuals.T @ residuals, size=DRAWS, random_state=source)
    noise = early.own[:, None] * source.normal(size=(DRAWS, len(early.means), 2))
    noise = noise @ np.linalg.cholesky(covariances).transpose(0, 2, 1)
    first, second = early.means + noise[:, :, 0], late.means + noise[:, :, 1]
    a, b = np.triu_indices(len(early.means), k=1)
    taus = 2 * ((first[:, a] < first[:, b]) == (second[:, a] < second[:, b])).mean(axis=1) - 1
    low, high = np.quantile(taus, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def seeds_to_tell(found: Lead, seeds: int) -> int | None:
    """With how many seeds a difference would be found 8 times in 10, if what was observed were true."""
    if found.standard_error is None or not found.value:
        return None
    for n in range(seeds + 1, MOST_SEEDS + 1):
        df = found.degrees_of_freedom + n - seeds
        times = t_quantile(0.5 + CONFIDENCE / 2, df) + t_quantile(POWER, df)
        if times * found.standard_error * math.sqrt(seeds / n) <= abs(found.value):
            return n
    return None


def power_of(difference: float, seeds: int, df: float) -> float:
    """The true chance that so many seeds show the choice to be better, noise of sd 1; `difference` is what is true."""
    noncentrality = difference / math.sqrt(2 / seeds)
    if abs(noncentrality) > 30:
        return float(noncentrality > 0)
    return float(nct.sf(t_quantile(0.5 + CONFIDENCE / 2, df), df, noncentrality))
