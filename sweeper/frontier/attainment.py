"""How far the frontier as a whole is known, from the joint draws: its hypervolume and what it attains.

The best of noisy points reads too good, and the frontier of the means with it. Draws lie about what the hierarchical
model of losses makes of the means, which is drawn back by as much: the interval of the hypervolume is that of theirs.

A surface at p% is the border of what at least p% of the drawn frontiers attain, by the empirical attainment function
(Fonseca, Guerreiro, López-Ibáñez, Paquete, EMO 2011; `moocore.eaf`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeper.frontier.posterior import Draws
from sweeper.stats.pareto import volume_of

PERCENT = (2.5, 50.0, 97.5)
MOST_DRAWS = 1000
"""Drawn frontiers that are looked at, of two objectives; of more, where a volume takes longer, a fifth."""
MOST_VERTICES = 100
"""Of a surface with more, so many are kept, spread evenly: what is left out lies within a step."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95% interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What `percent` of the drawn frontiers attain: its corners, values of the objectives in their order."""

    percent: float
    vertices: tuple[tuple[float, ...], ...]


def hypervolume_interval(draws: Draws, objectives: Mapping[str, str], *, reference: Mapping[str, float]) -> Interval:
    """The 95% interval of the hypervolume up to `reference`."""
    maximise = [direction == "max" for direction in objectives.values()]
    worst = [reference[name] for name in objectives]
    drawn = [volume_of(values, worst, maximise) for values in _frontiers(draws, objectives)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(low=float(low), high=float(high))


def attainment(draws: Draws, objectives: Mapping[str, str]) -> tuple[Surface, ...]:
    """The surfaces at `PERCENT` of the drawn frontiers, of two objectives; none of more or fewer."""
    import moocore

    if len(objectives) != 2:
        return ()
    signs = np.array([1.0 if direction == "min" else -1.0 for direction in objectives.values()])
    frontiers = [values * signs for values in _frontiers(draws, objectives) if len(values)]
    sets = np.repeat(np.arange(len(frontiers)), [len(values) for values in frontiers])
    table = moocore.eaf(np.concatenate(frontiers), sets, percentiles=list(PERCENT))
    return tuple(
        [
            Surface(percent=percent, vertices=_thinned(table[np.isclose(table[:, -1], percent)][:, :-1] * signs))
            for percent in PERCENT
        ]
    )


def _frontiers(draws: Draws, objectives: Mapping[str, str]) -> list[NDArray[np.float64]]:
    """[points on it, objectives] of each drawn frontier, in the objectives' own units."""
    most = MOST_DRAWS if len(objectives) == 2 else MOST_DRAWS // 5
    drawn = zip(objectives, draws.values, strict=True)
    stacked = np.stack([np.exp(-v[:most]) if name == "tokens_per_s" else v[:most] for name, v in drawn], axis=-1)
    return [values[on] for values, on in zip(stacked, draws.on, strict=False)]


def _thinned(vertices: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    """In the order of the first objective, at most `MOST_VERTICES`, the ends among them."""
    ordered = vertices[np.argsort(vertices[:, 0], kind="stable")]
    if len(ordered) > MOST_VERTICES:
        ordered = ordered[np.linspace(0, len(ordered) - 1, MOST_VERTICES).round().astype(int)]
    return tuple([tuple(row) for row in ordered.tolist()])
