"""How likely each point is on the frontier: joint draws of what the true means may be, given what was measured.

Of each fit's means the posterior under the reference prior p(β, σ²) ∝ σ⁻² (Gelman et al., Bayesian Data Analysis,
3rd edition, §14.2): σ² is the residual variance × ν ÷ χ²(ν), and given it the means are normal with covariance σ² ×
their cofactors, so that what seeds have in common stays common. Loss and log speed are drawn independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sweeper.noise import AdditiveFit
from sweeper.points import Point

DRAWS = 4000


def frontier_probabilities(
    points: Sequence[Point], fits: Mapping[str, AdditiveFit], objectives: Mapping[str, str], *, seed: int = 0
) -> list[float | None]:
    """Of each point, in what share of draws no other is as good in all objectives and better in one.

    None for all where a fit has no estimate of its noise. `fits` has one per objective with noise, of log tokens/s for
    speed; the others are taken for exact.
    """
    if any(fit.variance is None for name, fit in fits.items() if name in objectives):
        return [None] * len(points)
    source = np.random.default_rng(seed)
    drawn = []
    for name, direction in objectives.items():
        sign = 1.0 if direction == "min" else -1.0
        if name not in fits:
            drawn.append(np.tile([sign * point.objectives[name].mean for point in points], (DRAWS, 1)))
            continue
        means = drawn_means(fits[name], source)
        place = {treatment: column for column, treatment in enumerate(fits[name].treatments)}
        ids = [point.config_id if name == "val_loss" else point.probe_id for point in points]
        drawn.append(means[:, [place[one] for one in ids]] * sign)
    return [float(share) for share in _on_frontier(drawn).mean(axis=0)]


def drawn_means(fit: AdditiveFit, source: np.random.Generator, *, draws: int = DRAWS) -> NDArray[np.float64]:
    """(draws, treatments): what the true means may be. The fit has an estimate of its noise."""
    assert fit.variance is not None
    variance = fit.variance * fit.degrees_of_freedom / source.chisquare(fit.degrees_of_freedom, size=(draws, 1))
    values, vectors = np.linalg.eigh((fit.cofactors + fit.cofactors.T) / 2)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    noise = source.standard_normal((draws, len(values))) @ root.T
    means: NDArray[np.float64] = fit.means + np.sqrt(variance) * noise
    return means


def _on_frontier(drawn: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """(draws, points): which points of each draw no other beats; every objective is the lower the better.

    Infinities compare as numbers; a point with a NaN is on no frontier and beats nothing.
    """
    if len(drawn) == 2:
        return _of_two(*drawn)
    beaten: NDArray[np.bool_] = np.any([np.isnan(one) for one in drawn], axis=0)
    for other in range(drawn[0].shape[1]):
        as_good = np.all([one[:, [other]] <= one for one in drawn], axis=0)
        better = np.any([one[:, [other]] < one for one in drawn], axis=0)
        beaten |= as_good & better
    return ~beaten


def _of_two(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.bool_]:
    """By a walk from the best in the first on: on the frontier is what is better in the second than all before.

    Equal in both (points that share all measurements) are on it together. Points with a NaN go behind all others.
    """
    unknown = np.isnan(first) | np.isnan(second)
    first, second = np.where(unknown, np.inf, first), np.where(unknown, np.inf, second)
    by_second = np.argsort(second, axis=1, kind="stable")
    order = np.take_along_axis(
        by_second, np.argsort(np.take_along_axis(first, by_second, axis=1), axis=1, kind="stable"), axis=1
    )
    one, two = (np.take_along_axis(values, order, axis=1) for values in (first, second))
    best = np.minimum.accumulate(two, axis=1)
    before = np.concatenate([np.full((len(two), 1), np.inf), best[:, :-1]], axis=1)
    is_same = np.zeros(two.shape, dtype=bool)
    is_same[:, 1:] = (one[:, 1:] == one[:, :-1]) & (two[:, 1:] == two[:, :-1])
    on = two < before
    on[:, 0] = True  # also where all are infinitely bad
    for column in range(1, two.shape[1]):
        on[:, column] |= is_same[:, column] & on[:, column - 1]
    found = np.empty_like(on)
    np.put_along_axis(found, order, on, axis=1)
    found[unknown] = False
    return found
