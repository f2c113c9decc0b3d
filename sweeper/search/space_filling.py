"""A well-spread subset of the feasible set: each config is the one farthest from those before it.

Greedy farthest-point traversal (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"): however
many are taken, none of the rest is farther from the nearest taken one than twice the best that so many could do.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sweeper.records import Config, Final
from sweeper.search.features import DIGITS, features

if TYPE_CHECKING:
    from numpy import ndarray


class SpaceFilling:
    """Proposes `trials` of `configs`, apart on `axes`; `seed` decides which is the first, and between equals.

    A larger `trials` proposes the same configs first, so a study can be lengthened without waste.
    """

    def __init__(self, configs: Sequence[Config], *, trials: int, seed: int, axes: Sequence[str]) -> None:
        ordered = sorted(configs, key=lambda config: config.config_id)
        random.Random(seed).shuffle(ordered)
        self._left = _spread(ordered, trials=min(trials, len(ordered)), axes=axes)

    def propose(self) -> Config | None:
        """The next config, as far as can be from those before."""
        return next(self._left, None)

    def observe(self, final: Final) -> None:
        """A subset chosen by distance learns nothing."""


def _spread(configs: Sequence[Config], *, trials: int, axes: Sequence[str]) -> Iterator[Config]:
    """From the first config on; of several that are as far, the first in order is next."""
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
