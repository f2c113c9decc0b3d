"""Which configs are worth another seed: those that are neither surely on the frontier nor surely off it.

Seeds beyond the first ones are given in rounds. Each round is decided from the outcomes of all before it, so that a
study which goes on after an interruption decides as it would have done anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sweeper.values.events import Final, Speed

SURELY_OFF, SURELY_ON = 0.05, 0.95
"""A config whose probability of being on the frontier lies between them isn't decided."""
FIRST_REPEATED = 4
"""Configs, the nearest to the frontier, that get a second seed where nothing is known of the noise yet."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Where a point stands: `p_frontier` is None without an estimate of the noise, `beaten_by` counts points."""

    config_id: str
    p_frontier: float | None
    beaten_by: int


@dataclass(frozen=True, kw_only=True)
class FurtherSeeds:
    """Chooses configs for another seed, until each is decided or has `most`. `standings` has the measured points."""

    most: int
    standings: Callable[[Sequence[Final | Speed]], Sequence[Contender]]

    def choose(self, outcomes: Sequence[Final | Speed], trained: Mapping[str, int]) -> list[str]:
        """Config ids, the least decided first. `trained` says with how many seeds each was trained."""
        found = self.standings(outcomes)
        if len({one.config_id for one in found}) < 2:
            return []
        if any(one.p_frontier is None for one in found):
            chosen = _nearest(found)
        else:
            undecided = [one for one in found if SURELY_OFF < (one.p_frontier or 0.0) < SURELY_ON]
            chosen = [one.config_id for one in sorted(undecided, key=lambda one: abs((one.p_frontier or 0.0) - 0.5))]
        return [config_id for config_id in dict.fromkeys(chosen) if trained[config_id] < self.most]


def _nearest(found: Sequence[Contender]) -> list[str]:
    """The configs that nothing beats by the means, filled up with those that the fewest do."""
    by_rank = sorted(found, key=lambda one: one.beaten_by)
    unbeaten = dict.fromkeys(one.config_id for one in by_rank if not one.beaten_by)
    nearest = list(dict.fromkeys(one.config_id for one in by_rank))
    return nearest[: max(FIRST_REPEATED, len(unbeaten))]
