"""A seeded sample of the feasible set, without repeats."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sweeper.search._base import Fixed
from sweeper.values.records import Config


class Random(Fixed):
    """Proposes `trials` of `configs`, uniformly without replacement; `seed` alone decides which.

    A larger `trials` proposes the same configs first, so a study can be lengthened without waste.
    """

    def __init__(self, configs: Sequence[Config], *, trials: int, seed: int) -> None:
        super().__init__(shuffled(configs, seed=seed)[:trials])


def shuffled(configs: Sequence[Config], *, seed: int) -> list[Config]:
    """All of `configs` in an order that depends on `seed` and on which they are, not on how they come."""
    ordered = sorted(configs, key=lambda config: config.config_id)
    random.Random(seed).shuffle(ordered)
    return ordered
