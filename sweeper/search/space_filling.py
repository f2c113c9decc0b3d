"""A well-spread subset of the feasible set: each config is the one farthest from those before it.

Greedy farthest-point traversal (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"): however
many are taken, none of the rest is farther from the nearest taken one than twice the best that so many could do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sweeper.search._base import Fixed
from sweeper.search.features import DIGITS, features
from sweeper.search.random import shuffled
from sweeper.values.records import Config

if TYPE_CHECKING:
    from numpy import ndarray


class SpaceFilling(Fixed):
    """Proposes `trials` of `configs`, apart on `axes`; `seed` decides which is the first, and between equals.

    A larger `trials` proposes the same configs first, so a study can be lengthened without waste.
    """

    def __init__(self, configs: Sequence[Config], *, trials: int, seed: int, axes: Sequence[str]) -> None:
        super().__init__(list(spread(shuffled(configs, seed=seed), trials=trials, axes=axes)))


def spread(configs: Sequence[Config], *, trials: int, axes: Sequence[str]) -> Iterator[Config]:
    """From the first config on, at most `trials`; of several that are as far, the first in order is next."""
    trials = min(trials, len(configs))
    if not trials:
        return
    points, chosen = features(configs, axes), 0
    nearest = _distances(points, chosen)
    for left in range(trials, 0, -1):
        yield configs[chosen]
        if left > 1:
            nearest = nearest.clip(max=_distances(points, chosen))
            nearest[chosen] = -1.0  # below that of a config which differs on none of the axes
            chosen = int(nearest.argmax())


def _distances(points: ndarray, chosen: int) -> ndarray:
    """Of all points to the chosen one, squared."""
    distances: ndarray = ((points - points[chosen]) ** 2).sum(axis=1).round(DIGITS)
    return distances
