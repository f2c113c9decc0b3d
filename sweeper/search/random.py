"""A seeded sample of the feasible set, without repeats."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sweeper.records import Config, Final


class Random:
    """Proposes `trials` of `configs`, uniformly without replacement; `seed` alone decides which.

    A larger `trials` proposes the same configs first, so a study can be lengthened without waste.
    """

    def __init__(self, configs: Sequence[Config], *, trials: int, seed: int) -> None:
        shuffled = sorted(configs, key=lambda config: config.config_id)
        random.Random(seed).shuffle(shuffled)
        self._left = iter(shuffled[:trials])

    def propose(self) -> Config | None:
        """The next config of the sample."""
        return next(self._left, None)

    def observe(self, final: Final) -> None:
        """A random sample learns nothing."""
