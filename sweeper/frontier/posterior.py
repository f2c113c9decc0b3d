"""Joint draws of what the true means may be, given what was measured: how likely each point is on the frontier.

Losses lie about a trend in log speed (`sweeper.stats.hierarchical_means`): with a flat prior for each, some draw of a
neighbour nearly always beats a point, and chances would be up to ten times too low. Of log speeds, and of fewer than
four losses, the posterior under the reference prior p(β, σ²) ∝ σ⁻² (Gelman et al., Bayesian Data Analysis, 3rd edition,
§14.2): σ² is the residual variance × ν ÷ χ²(ν), and given it the means are normal with covariance σ² × their cofactors,
so that what seeds have in common stays common. Loss and log speed are drawn independently. Where a trial diverged, some
configs are unstable in a draw (`sweeper.stats.divergence`): on no frontier, and beating none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sweeper.frontier.points import Dominator, Point
from sweeper.stats.additive_fit import AdditiveFit
from sweeper.stats.divergence import drawn_stable
from sweeper.stats.hierarchical_means import LEAST_MEANS, Means, drawn_about_trend

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
    tokens/s, and NaN where a point is unstable. `on` (draws, points): which points no other point of the same draw
    beats.
    """

    values: tuple[NDArray[np.float64], ...] = field(repr=False)
    on: NDArray[np.bool_] = field(repr=False)

    @property
    def p_frontier(self) -> list[float]:
        """Of each point, in what share of draws no other is as good in all objectives and better in one."""
        return [float(share) for share in self.on.mean(axis=0)]

    def beaten(self, margins: Sequence[float]) -> list[float]:
        """Of each point, in what share of draws another beats it: worse by more than the margin in one objective, it

        has in none an advantage above the margin. Margins are in the units of `values`.
        """
        some = self._some()
        shares = []
        for own in range(self.on.shape[1]):
            pairs = list(zip(some, margins, strict=True))
            no_worse = np.all([one <= one[:, [own]] + margin for one, margin in pairs], axis=0)
            better = np.any([one < one[:, [own]] - margin for one, margin in pairs], axis=0)
            shares.append(float((no_worse & better).any(axis=1).mean()))
        return shares

    def shown_worse(self, own: int, other: int, margins: Sequence[float]) -> list[float | None]:
        """By objective, in what share of draws point `own` is worse than `other` by more than the margin.

        None where their measurement is the same.
        """
        pairs = [(one[:, own], one[:, other], margin) for one, margin in zip(self.values, margins, strict=True)]
        return [None if (a == b).all() else float((b < a - margin).mean()) for a, b, margin in pairs]

    def _some(self) -> list[NDArray[np.float64]]:
        return [one[: max(1, MOST_COMPARED // one.shape[1] ** 2)] for one in self.values]

    def dominated_by(self, point_ids: Sequence[str]) -> list[tuple[Dominator, ...]]:
        """Of each point, which others most often beat it in a draw, and in what share of draws."""
        some, found = self._some(), []
        for own in range(len(point_ids)):
            as_good = np.all([one <= one[:, [own]] for one in some], axis=0)
            chances = (as_good & np.any([one < one[:, [own]] for one in some], axis=0)).mean(axis=0)
            first = np.argsort(-chances, kind="stable")[:RIVALS]
            likeliest = [other for other in first.tolist() if chances[other] >= LEAST_CHANCE]
            found.append(tuple([Dominator(point_id=point_ids[i], chance=float(chances[i])) for i in likeliest]))
        return found


def joint_draws(
    points: Sequence[Point],
    fits: Mapping[str, AdditiveFit],
    objectives: Mapping[str, str],
    *,
    trials_diverged: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    seed: int = 0,
) -> Draws | None:
    """Draws for all points; None without points, or where a fit has no estimate of its noise.

    `fits` has one per objective with noise, of log tokens/s for speed; the others are taken for exact.
    `trials_diverged` has, by config id, how many trials diverged, and of how many: also of configs without a point.
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
        treatments = list(dict.fromkeys(point.treatment(name) for point in points))
        if name == "val_loss" and len(treatments) >= LEAST_MEANS and fits[name].variance:
            means = _drawn_losses(points, treatments, fits, source, draws)
        else:
            means = drawn_means(fits[name], source, draws=draws)
            treatments = list(fits[name].treatments)
        place = {treatment: column for column, treatment in enumerate(treatments)}
        columns = [place[point.treatment(name)] for point in points]
        drawn.append(means[:, columns] * sign)
    stable = _stable(points, trials_diverged, source, draws)
    drawn = [np.where(stable, values, np.nan) for values in drawn]
    return Draws(values=tuple(drawn), on=on_frontier(drawn))


def _stable(
    points: Sequence[Point], trials_diverged: Mapping[str, tuple[int, int]], source: np.random.Generator, draws: int
) -> NDArray[np.bool_]:
    ids = list(dict.fromkeys([point.config_id for point in points] + list(trials_diverged)))
    counts = np.array([trials_diverged.get(config_id, (0, 0)) for config_id in ids], dtype=np.int64)
    stable = drawn_stable(counts[:, 0], counts[:, 1], source, draws=draws)
    return stable[:, [ids.index(point.config_id) for point in points]]


def _drawn_losses(
    points: Sequence[Point],
    config_ids: Sequence[str],
    fits: Mapping[str, AdditiveFit],
    source: np.random.Generator,
    draws: int,
) -> NDArray[np.float64]:
    """(draws, configs): losses about a trend in log speed, of several points of a config the mean of theirs."""
    losses, speeds = fits["val_loss"], fits["tokens_per_s"]
    log_speeds: dict[str, list[float]] = {}
    for point in points:
        log_speeds.setdefault(point.treatment("val_loss"), []).append(speeds.mean(point.probe_id).value)
    at = [losses.treatments.index(config_id) for config_id in config_ids]
    squares, degrees = _residual_squares(losses)
    measured = Means(
        means=losses.means[at],
        own=losses.own[at],
        loadings=losses.loadings[at],
        squares=squares[at],
        degrees=degrees[at],
    )
    x = np.array([np.mean(log_speeds[config_id]) for config_id in config_ids])
    return drawn_about_trend(measured, x, source, draws=draws)


def _residual_squares(fit: AdditiveFit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per treatment the residuals' sum of squares, ÷ what its variance is of the fit's, and the degrees of freedom:

    those of the fit, shared out by how many values more than one a treatment has.
    """
    place = {treatment: i for i, treatment in enumerate(fit.treatments)}
    of = np.array([place[o.treatment] for o in fit.observations], dtype=np.intp)
    counts = np.bincount(of, minlength=len(place))
    squares = np.bincount(of, weights=fit.residuals**2, minlength=len(place)) / (fit.own**2 * counts)
    return squares, fit.degrees_of_freedom * (counts - 1) / (counts - 1).sum()


def drawn_means(fit: AdditiveFit, source: np.random.Generator, *, draws: int = DRAWS) -> NDArray[np.float64]:
    """(draws, treatments): what the true means may be under the reference prior. There is an estimate of the noise."""
    assert fit.variance is not None
    variance = fit.variance * fit.degrees_of_freedom / source.chisquare(fit.degrees_of_freedom, size=(draws, 1))
    noise = source.standard_normal((draws, len(fit.own))) * fit.own
    noise += source.standard_normal((draws, fit.loadings.shape[1])) @ fit.loadings.T
    means: NDArray[np.float64] = fit.means + np.sqrt(variance) * noise
    return means


def on_frontier(drawn: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
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
