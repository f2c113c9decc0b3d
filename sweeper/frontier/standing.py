"""Which points no other point beats: by the means, and as surely as draws of what may be true have it.

A point is dominated where some other beats it in at least 95% of the joint draws of `sweeper.frontier.posterior`, be it
the same one in all of them or not, so that the chance of a wrong verdict doesn't add up over those that may beat it. A
difference within an objective's margin doesn't matter: to beat a point is to be better by more than the margin in one
objective, and not to be worse by more than it in any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sweeper.frontier.points import Point, Standing, steady
from sweeper.frontier.posterior import Draws
from sweeper.stats.additive_fit import CONFIDENCE, AdditiveFit
from sweeper.stats.pareto import nondominated, volume_of


def judge(
    points: Sequence[Point],
    fits: Mapping[str, AdditiveFit],
    objectives: Mapping[str, str],
    margins: Mapping[str, float],
    draws: Draws | None,
) -> tuple[Point, ...]:
    """The points with `on_frontier`, `standing`, `tied_with` and `tied_in` filled in.

    `draws` are of these points, None without an estimate of the noise. A point on the frontier is tied with those from
    which its loss can't be told (`fits`, of one per metric).
    """
    if not points:
        return ()
    values = _values(points, objectives)
    kept = {point.point_id for point in steady(points)}
    values[[point.point_id not in kept for point in points]] = np.nan
    on_frontier = nondominated(values, [direction == "max" for direction in objectives.values()])
    oriented = values * [1.0 if direction == "max" else -1.0 for direction in objectives.values()]
    limits = [_margin(name, margins) for name in objectives]
    beaten = None if draws is None else draws.beaten(limits)
    judged = []
    for i, point in enumerate(points):
        standing = _standing(point, bool(on_frontier[i]), None if beaten is None else beaten[i])
        tied_with, tied_in = [], []
        if on_frontier[i]:
            tied_with = [p.point_id for p in points if _is_tied_in_loss(point, p, fits["val_loss"], margins)]
        elif standing == "tied" and draws is not None:
            better = (oriented >= oriented[i]).all(axis=1) & (oriented > oriented[i]).any(axis=1)
            by_means = np.flatnonzero(better).tolist()
            tied_with = [points[j].point_id for j in by_means]
            tied_in = _open_in(draws, i, by_means, list(objectives), limits)
        fields = {**vars(point), "on_frontier": bool(on_frontier[i]), "standing": standing}
        judged.append(Point(**{**fields, "tied_with": tuple(tied_with), "tied_in": tuple(tied_in)}))
    return tuple(judged)


def _standing(point: Point, on_frontier: bool, beaten: float | None) -> Standing:
    """`beaten`: in what share of draws another point beats it, None where nothing is known of the noise."""
    if point.diverged:
        return "unstable"
    if beaten is not None and beaten >= CONFIDENCE:
        return "dominated"
    if on_frontier:
        return "frontier"
    return "unresolved" if beaten is None else "tied"


def _open_in(draws: Draws, own: int, others: Sequence[int], names: Sequence[str], limits: Sequence[float]) -> list[str]:
    """The objectives in which one of those that beat a point by the means isn't shown to: each chance below 95%.

    Where each objective is shown for itself but not all together, the one that is shown least.
    """
    found: set[str] = set()
    for other in others:
        shown = draws.shown_worse(own, other, limits)
        known = {name: chance for name, chance in zip(names, shown, strict=True) if chance is not None}
        found |= {name for name, chance in known.items() if chance < CONFIDENCE} or set(
            sorted(known, key=lambda name: known[name])[:1]
        )
    return [name for name in names if name in found]


def _margin(name: str, margins: Mapping[str, float]) -> float:
    """In the unit in which draws are: of a speed the logarithm of the ratio."""
    margin = margins.get(name, 0.0)
    return math.log1p(margin) if name == "tokens_per_s" else margin


def _is_tied_in_loss(point: Point, other: Point, losses: AdditiveFit, margins: Mapping[str, float]) -> bool:
    if point.config_id == other.config_id or other.diverged:
        return False
    difference = losses.difference(point.config_id, other.config_id)
    return difference.resolved is False or difference.within("val_loss", margins["val_loss"])


def _values(points: Sequence[Point], objectives: Mapping[str, str]) -> NDArray[np.float64]:
    return np.array([[point.objectives[name].mean for name in objectives] for point in points])


def hypervolume(points: Sequence[Point], objectives: Mapping[str, str]) -> tuple[float, dict[str, float]]:
    """The hypervolume in the objectives' own units, and its reference: the worst value of each."""
    if not points:
        return 0.0, {}
    values = _values(points, objectives)
    maximise = [direction == "max" for direction in objectives.values()]
    worst = np.where(maximise, values.min(axis=0), values.max(axis=0))
    return volume_of(values, worst, maximise), dict(zip(objectives, worst.tolist(), strict=True))
