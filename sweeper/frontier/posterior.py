"""Joint draws of what the true means may be, given what was measured: how likely each point is on the frontier.

Of each fit's means the posterior under the reference prior p(β, σ²) ∝ σ⁻² (Gelman et al., Bayesian Data Analysis,
3rd edition, §14.2): σ² is the residual variance × ν ÷ χ²(ν), and given it the means are normal with covariance σ² ×
their cofactors, so that what seeds have in common stays common. Loss and log speed are drawn independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sweeper.frontier.points import Dominator, Point
from sweeper.stats.additive_fit import AdditiveFit

DRAWS = 4000
MOST_VALUES = 400_000
"""Draws × points: of more than a hundred points fewer draws are made."""
MOST_COMPARED = 200_000_000
"""Draws × pairs of points, for who beats whom."""
RIVALS, LEAST_CHANCE = 3, 0.05
"""Of a point so many that dominate it are named, each with at least this chance."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """What may be true of all points together.

    `values` has an array (draws, points) per objective, each the lower the better: losses in nats, minus the log of
    tokens/s. `on` (draws, points): which points no other point of the same draw beats.
    """

    values: tuple[NDArray[np.float64], ...] = field(repr=False)
    on: NDArray[np.bool_] = field(repr=False)

    @property
    def p_frontier(self) -> list[float]:
        """Of each point, in what share of draws no other is as good in all objectives and better in one."""
        return [float(share) for share in self.on.mean(axis=0)]

    def dominated_by(self, point_ids: Sequence[str]) -> list[tuple[Dominator, ...]]:
        """Of each point, which others most often beat it in a draw, and in what share of draws."""
        n = len(point_ids)
        some = [one[: max(1, MOST_COMPARED // n**2)] for one in self.values]
        found = []
        for own in range(n):
            as_good = np.all([one <= one[:, [own]] for one in some], axis=0)
            chances = (as_good & np.any([one < one[:, [own]] for one in some], axis=0)).mean(axis=0)
            first = np.argsort(-chances, kind="stable")[:RIVALS]
            likeliest = [other for other in first.tolist() if chances[other] >= LEAST_CHANCE]
            found.append(tuple([Dominator(point_id=point_ids[i], chance=float(chances[i])) for i in likeliest]))
        return found


def joint_draws(
    points: Sequence[Point], fits: Mapping[str, AdditiveFit], objectives: Mapping[str, str], *, seed: int = 0
) -> Draws | None:
    """Draws for all points; None without points, or where a fit has no estimate of its noise.

    `fits` has one per objective with noise, of log tokens/s for speed; the others are taken for exact.
    """
    if not points or any(fit.variance is None for name, fit in fits.items() if name in objectives):
        return None
    source = np.random.default_rng(seed)
    draws = max(1, min(DRAWS, MOST_VALUES // len(points)))
    drawn = []
    for name, direction in objectives.items():
        sign = 1.0 if direction == "min" else -1.0
        if name not in fits:
            drawn.append(np.tile([sign * point.objectives[name].mean for point in points], (draws, 1)))
            continue
        means = drawn_means(fits[name], source, draws=draws)
        place = {treatment: column for column, treatment in enumerate(fits[name].treatments)}
        columns = [place[point.treatment(name)] for point in points]
        drawn.append(means[:, columns] * sign)
    return Draws(values=tuple(drawn), on=_on_frontier(drawn))


def drawn_means(fit: AdditiveFit, source: np.random.Generator, *, draws: int = DRAWS) -> NDArray[np.float64]:
    """(draws, treatments): what the true means may be. The fit has an estimate of its noise."""
    assert fit.variance is not None
    variance = fit.variance * fit.degrees_of_freedom / source.chisquare(fit.degrees_of_freedom, size=(draws, 1))
    noise = source.standard_normal((draws, len(fit.own))) * fit.own
    noise += source.standard_normal((draws, fit.loadings.shape[1])) @ fit.loadings.T
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
