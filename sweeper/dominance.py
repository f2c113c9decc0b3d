"""Which points no other point beats, by the means and beyond noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sweeper.noise import AdditiveFit
from sweeper.points import Point, Standing


def nondominated(values: NDArray[np.float64], maximise: Sequence[bool]) -> NDArray[np.bool_]:
    """Which rows of `values` [points, objectives] no other row beats: as good in all and better in one.

    Rows that are equal in all objectives stand or fall together.
    """
    import moocore

    kept: NDArray[np.bool_] = moocore.is_nondominated(values, maximise=list(maximise), keep_weakly=True)
    return kept


def judge(points: Sequence[Point], fits: Mapping[str, AdditiveFit], objectives: Mapping[str, str]) -> tuple[Point, ...]:
    """The points with `on_frontier`, `standing` and `tied_with` filled in.

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
        standing, tied_with = _standing(point, dominators, fits, objectives)
        if on_frontier[i]:
            tied_with = [other.point_id for other in points if _resolved(point, other, "val_loss", fits) is False]
        fields = {**vars(point), "on_frontier": bool(on_frontier[i]), "standing": standing}
        judged.append(Point(**{**fields, "tied_with": tuple(tied_with)}))
    return tuple(judged)


def _standing(
    point: Point, dominators: Sequence[Point], fits: Mapping[str, AdditiveFit], objectives: Mapping[str, str]
) -> tuple[Standing, list[str]]:
    """Whether `point` is beaten for sure by any of the points that beat it by the means.

    A dominator beats it for sure when the 95% interval of their difference leaves out zero in every
    objective (in one that is the same measurement for both, such as the loss of one training at two
    micro-batches, there is nothing to be unsure of). "tied" claims only that no measured point is shown
    to beat this one, not that they are equal. If the point truly is as good as a dominator in some
    objective, calling it beaten by that dominator has a chance of at most 2.5%, as all objectives have to
    be resolved wrongly or rightly together (an intersection–union test); over several dominators the
    chances add up at worst. No interval is widened for the number of comparisons.
    """
    tied_with: list[str] = []
    verdicts: set[Standing] = set()
    for other in dominators:
        resolved = [_resolved(point, other, name, fits) for name in objectives]
        if False in resolved:
            tied_with.append(other.point_id)
            verdicts.add("tied")
        else:
            verdicts.add("unresolved" if any(r is None for r in resolved) else "dominated")
    worst_first: tuple[Standing, ...] = ("dominated", "unresolved", "tied")
    return next((verdict for verdict in worst_first if verdict in verdicts), "frontier"), tied_with


def _resolved(a: Point, b: Point, metric: str, fits: Mapping[str, AdditiveFit]) -> bool | None:
    """Whether the points' difference is beyond noise; True for one and the same measurement."""
    id_a, id_b = (p.config_id if metric == "val_loss" else p.probe_id for p in (a, b))
    return True if id_a == id_b else fits[metric].difference(id_a, id_b).resolved


def _values(points: Sequence[Point], objectives: Mapping[str, str]) -> NDArray[np.float64]:
    return np.array([[point.objectives[name].mean for name in objectives] for point in points])


def hypervolume(points: Sequence[Point], objectives: Mapping[str, str]) -> tuple[float, dict[str, float]]:
    """The hypervolume in the objectives' own units, and its reference: the worst value of each."""
    import moocore

    if not points:
        return 0.0, {}
    values = _values(points, objectives)
    maximise = [direction == "max" for direction in objectives.values()]
    worst = np.where(maximise, values.min(axis=0), values.max(axis=0))
    volume = moocore.hypervolume(values, ref=worst, maximise=maximise)
    return float(volume), dict(zip(objectives, worst.tolist(), strict=True))
