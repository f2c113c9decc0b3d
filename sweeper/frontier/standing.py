"""Which points no other point beats, by the means and beyond noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sweeper.frontier.points import Point, Standing
from sweeper.stats.additive_fit import AdditiveFit
from sweeper.stats.pareto import nondominated, volume_of

Comparison = Literal["same", "worse", "negligible", "open", "unknown"]
"""How a point compares in one objective with one that beats it by the means: see `_comparison`."""


def judge(
    points: Sequence[Point],
    fits: Mapping[str, AdditiveFit],
    objectives: Mapping[str, str],
    margins: Mapping[str, float],
) -> tuple[Point, ...]:
    """The points with `on_frontier`, `standing`, `tied_with` and `tied_in` filled in.

    `fits` has one fit per metric, of log tokens/s for speed. A point on the frontier is tied with those
    from which its loss can't be told.
    """
    if not points:
        return ()
    values = _values(points, objectives)
    on_frontier = nondominated(values, [direction == "max" for direction in objectives.values()])
    oriented = values * [1.0 if direction == "max" else -1.0 for direction in objectives.values()]
    judged = []
    for i, point in enumerate(points):
        better = (oriented >= oriented[i]).all(axis=1) & (oriented > oriented[i]).any(axis=1)
        dominators = [points[int(j)] for j in np.flatnonzero(better)]
        standing, tied_with, tied_in = _standing(point, dominators, fits, objectives, margins)
        if on_frontier[i]:
            tied_with = [p.point_id for p in points if _is_tied_in_loss(point, p, fits["val_loss"], margins)]
        fields = {**vars(point), "on_frontier": bool(on_frontier[i]), "standing": standing}
        judged.append(Point(**{**fields, "tied_with": tuple(tied_with), "tied_in": tuple(tied_in)}))
    return tuple(judged)


def _is_tied_in_loss(point: Point, other: Point, losses: AdditiveFit, margins: Mapping[str, float]) -> bool:
    if point.config_id == other.config_id:
        return False
    difference = losses.difference(point.config_id, other.config_id)
    return difference.resolved is False or difference.within("val_loss", margins["val_loss"])


def _standing(
    point: Point,
    dominators: Sequence[Point],
    fits: Mapping[str, AdditiveFit],
    objectives: Mapping[str, str],
    margins: Mapping[str, float],
) -> tuple[Standing, list[str], list[str]]:
    """Whether any of the points that beat `point` by the means beats it for sure; those tied with it, and in what.

    A dominator beats it for sure when it is shown to be better in one objective, and in every other one
    too, or the same measurement (such as the loss of one training at two micro-batches), or without an
    advantage for `point` that matters: the best case for `point`, the 95% interval's end in its favour, is
    below the objective's of `margins`. "tied" claims only that no measured point is shown to beat this one,
    not that they are equal. If the point truly is as good as a dominator in loss, or faster by the margin,
    calling it beaten by that dominator has a chance of at most 2.5%, as all objectives have to be resolved
    wrongly or rightly together (an intersection–union test); over several dominators the chances add up at
    worst. No interval is widened for the number of comparisons.
    """
    tied_with: list[str] = []
    tied_in: set[str] = set()
    verdicts: set[Standing] = set()
    for other in dominators:
        compared = {name: _comparison(point, other, name, fits, margins.get(name, 0.0)) for name in objectives}
        found = set(compared.values())
        if "open" in found or not found & {"worse", "unknown"}:
            verdicts.add("tied")
            tied_with.append(other.point_id)
            tied_in |= {name for name, how in compared.items() if how == ("open" if "open" in found else "negligible")}
        else:
            verdicts.add("unresolved" if "unknown" in found else "dominated")
    worst_first: tuple[Standing, ...] = ("dominated", "unresolved", "tied")
    standing: Standing = next((verdict for verdict in worst_first if verdict in verdicts), "frontier")
    return standing, tied_with, [name for name in objectives if standing == "tied" and name in tied_in]


def _comparison(point: Point, other: Point, metric: str, fits: Mapping[str, AdditiveFit], margin: float) -> Comparison:
    """`point` against one that is as good or better by the mean.

    "same" measurement for both; "worse" beyond noise, and not surely within the margin; "negligible": resolved, but
    the whole interval is within the margin, or not resolved, but the best case for `point` is below it; "open": it
    may be better; "unknown" without a noise estimate.
    """
    if metric not in fits:
        return _compared_exactly(point, other, metric)
    own, others = (p.treatment(metric) for p in (point, other))
    if own == others:
        return "same"
    difference = fits[metric].difference(own, others)
    if difference.low is None or difference.high is None:
        return "unknown"
    if difference.resolved:
        return "negligible" if difference.within(metric, margin) else "worse"
    best_case = -difference.low if metric == "val_loss" else math.expm1(difference.high)
    return "negligible" if best_case < margin else "open"


def _compared_exactly(point: Point, other: Point, metric: str) -> Comparison:
    """In an objective without noise, in which `other` is as good or better."""
    value, others = point.objectives[metric].mean, other.objectives[metric].mean
    return "same" if value == others else "worse"


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
