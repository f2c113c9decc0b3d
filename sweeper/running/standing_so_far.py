"""Where a study stands while it runs: of each point, how likely it is on the frontier, by all outcomes so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sweeper.frontier.estimates import estimates_by_device
from sweeper.frontier.points import Point
from sweeper.ledger.typed import line_of
from sweeper.measurements.measured import PlannedPoint
from sweeper.search.follow_up import Candidate
from sweeper.search.further_seeds import Contender
from sweeper.values.events import Final, Speed


def standings(
    outcomes: Sequence[Final | Speed],
    planned: Sequence[PlannedPoint],
    objectives: Mapping[str, str],
    nuisance: Sequence[str] = (),
) -> list[Contender]:
    """Of the points that the device type with most of them has measured; of `nuisance` axes at the best value."""
    found = estimates_by_device(map(line_of, outcomes), planned, objectives, nuisance=nuisance)
    points = max((one.points for one in found), key=len, default=())
    return [
        Contender(config_id=point.config_id, p_frontier=point.p_frontier, beaten_by=beaten_by)
        for point, beaten_by in zip(points, _beaten_by(points, objectives), strict=True)
    ]


def _beaten_by(points: Sequence[Point], objectives: Mapping[str, str]) -> list[int]:
    """Of each point, how many others are as good in all objectives and better in one, by the means."""
    signs = [1.0 if direction == "max" else -1.0 for direction in objectives.values()]
    values = np.array([[point.objectives[name].mean for name in objectives] for point in points]) * signs
    return [int(((values >= own).all(axis=1) & (values > own).any(axis=1)).sum()) for own in values]


def follow_up_candidates(
    outcomes: Sequence[Final | Speed],
    planned: Sequence[PlannedPoint],
    objectives: Mapping[str, str],
    nuisance: Sequence[str] = (),
) -> list[Candidate]:
    """The configs that the device type with the most points has measured, fastest first."""
    found = estimates_by_device(map(line_of, outcomes), planned, objectives, nuisance=nuisance)
    points = max((one.points for one in found), key=len, default=())
    made = [
        Candidate(
            config_id=point.config_id,
            val_loss=point.objectives["val_loss"].mean,
            tokens_per_s=point.objectives["tokens_per_s"].mean,
            on_frontier=point.on_frontier,
            p_frontier=point.p_frontier,
        )
        for point in sorted(points, key=lambda point: not point.on_frontier)
    ]
    return list({one.config_id: one for one in reversed(made)}.values())
