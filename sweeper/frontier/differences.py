"""Differences in loss between configs, and the best point of each objective.

Two kinds of intervals, both 95%:

- of a pair (`ties`): per comparison, Student's t of the pooled fit, widened where the pair's own differences don't bear
  it out (`sweeper.stats.additive_fit`). So is the best against the runner-up, and against the others by the pooled fit
  alone (`Best`): that it was picked after looking needs no adjustment, as where another is truly as good a best is
  named in at most one study of twenty (Hung and Fithian, arXiv 1610.03944).
- of the best against the worst: for all pairs at once, by Tukey and Kramer: half of it is q(0.95; k, ν) ÷ √2 × the
  pair's standard error, q being the studentized range's quantile, k the number of configs and ν the degrees of freedom.
  Exact in balanced data, and where trials are missing wider than needed rather than narrower (Hayter, Annals of
  Statistics 12, 1984, for independent means).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sweeper.frontier.points import Point
from sweeper.stats.additive_fit import AdditiveFit


@dataclass(frozen=True, kw_only=True)
class LossDifference:
    """Mean loss of config `b` less that of config `a`, paired by seed, with its 95% interval.

    `within_margin`: the whole interval lies within ± the study's margin.
    """

    a: str
    b: str
    labels: tuple[str, str]
    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    within_margin: bool


@dataclass(frozen=True, kw_only=True)
class Best:
    """The point with the best mean in one objective.

    `surely`: it is shown to be better than every other that doesn't share its measurement, each by itself; None where
    there is no estimate of the noise, or nothing else to compare it with. Better by no more than the margin is not
    better. `tied_with` are the ids of the points
    that aren't shown to be worse, the better first.
    """

    point_id: str
    label: str
    surely: bool | None
    tied_with: tuple[str, ...]


def ties_and_gap(
    points: Sequence[Point], losses: AdditiveFit, margin: float
) -> tuple[tuple[LossDifference, ...], LossDifference | None]:
    """All pairs of configs that are tied, per comparison; and the worst against the best, for all pairs at once.

    Tied is whose interval holds zero, or lies wholly within ± `margin` nats.
    What is surely the best is tied with none. Of each pair the better comes first, so that every difference is at least
    zero. None of a single config.
    """
    ordered = sorted({p.treatment("val_loss"): p for p in points}.values(), key=lambda p: p.objectives["val_loss"].mean)
    if len(ordered) < 2:
        return (), None
    tied = _tied_pairs([p.config_id for p in ordered], losses, margin)
    if _best(ordered, losses, "val_loss", "min", margin).surely:
        tied[0] = False
    rows, columns = np.nonzero(tied)
    ties = [
        _difference(ordered[i], ordered[j], losses, margin)
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    best, worst = ordered[0], ordered[-1]
    picked = losses.simultaneous_difference(worst.config_id, best.config_id)
    gap = _difference(best, worst, losses, margin)
    within = picked.within("val_loss", margin)
    return tuple(ties), replace(gap, low=picked.low, high=picked.high, within_margin=within)


def _tied_pairs(config_ids: Sequence[str], losses: AdditiveFit, margin: float) -> NDArray[np.bool_]:
    """[configs, configs]: above the diagonal, whether the interval of the difference holds zero or is within margin."""
    if losses.variance is None:
        return np.zeros((len(config_ids),) * 2, dtype=bool)
    sizes, halves = np.abs(losses.all_differences(config_ids)[0]), losses.all_halves(config_ids)
    return np.triu((sizes <= halves) | (sizes + halves <= margin), k=1)


def _difference(a: Point, b: Point, losses: AdditiveFit, margin: float) -> LossDifference:
    d = losses.difference(b.config_id, a.config_id)
    return LossDifference(
        a=a.config_id,
        b=b.config_id,
        labels=(a.label, b.label),
        difference=d.value,
        standard_error=d.standard_error,
        low=d.low,
        high=d.high,
        within_margin=d.within("val_loss", margin),
    )


def best_of_each(
    points: Sequence[Point],
    fits: Mapping[str, AdditiveFit],
    objectives: Mapping[str, str],
    margins: Mapping[str, float],
) -> dict[str, Best]:
    """By objective that has noise, the best point and what is tied with it; empty without points."""
    if not points:
        return {}
    return {
        name: _best(points, fits[name], name, way, margins[name]) for name, way in objectives.items() if name in fits
    }


def _best(points: Sequence[Point], fit: AdditiveFit, name: str, direction: str, margin: float) -> Best:
    sign = 1.0 if direction == "min" else -1.0
    ordered = sorted(points, key=lambda p: sign * p.objectives[name].mean)
    best, own = ordered[0], ordered[0].treatment(name)
    others = [point for point in ordered if point.treatment(name) != own]
    if fit.variance is None or not others:
        return Best(point_id=best.point_id, label=best.label, surely=None, tied_with=())
    runner_up = others[0].treatment(name)
    differences = [
        (fit.difference if point.treatment(name) == runner_up else fit.pooled_difference)(point.treatment(name), own)
        for point in others
    ]
    compared = zip(others, differences, strict=True)
    tied = [point.point_id for point, d in compared if not d.resolved or d.within(name, margin)]
    return Best(point_id=best.point_id, label=best.label, surely=not tied, tied_with=tuple(tied))
