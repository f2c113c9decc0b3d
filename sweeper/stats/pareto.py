"""Pareto sets and what they dominate, by moocore."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def nondominated(values: NDArray[np.float64], maximise: Sequence[bool]) -> NDArray[np.bool_]:
    """Which rows of `values` [points, objectives] no other row beats: as good in all and better in one.

    Rows that are equal in all objectives stand or fall together. Infinities compare as numbers; a row with a NaN
    is on no frontier and beats nothing.
    """
    import moocore

    kept = np.asarray(~np.isnan(values).any(axis=1))
    if kept.any():
        # Ranks, as moocore 0.3.2 ends the process where three objectives hold infinities.
        ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in values[kept].T], axis=1)
        kept[kept] = moocore.is_nondominated(ranks.astype(float), maximise=list(maximise), keep_weakly=True)
    return kept


def volume_of(values: NDArray[np.float64], reference: Sequence[float], maximise: Sequence[bool]) -> float:
    """What rows of `values` [points, objectives] dominate, up to `reference`; rows with a NaN dominate nothing."""
    import moocore

    better = np.where(maximise, values > reference, values < reference)
    inside = values[better.all(axis=1)]
    if not np.isfinite([*inside.ravel(), *reference]).all():
        return math.inf if len(inside) else 0.0
    return float(moocore.hypervolume(inside, ref=list(reference), maximise=list(maximise)))
