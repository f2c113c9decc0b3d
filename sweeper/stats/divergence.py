"""Which configs diverge for few seeds, by how many trials of each diverged.

A config never diverges, or for a share of seeds that is uniform on (0, 1); how many never do is uniform too. With y of
n trials diverged the share is Beta(1 + y, 1 + n − y), and among those that do each y is as likely: 1/(n + 1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_UNSTABLE = 0.1
"""A config that diverges for this share of seeds or more is unstable."""


def drawn_stable(
    diverged: NDArray[np.int64], trials: NDArray[np.int64], source: np.random.Generator, *, draws: int
) -> NDArray[np.bool_]:
    """(draws, configs): whether each diverges for less than `MOST_UNSTABLE` of seeds; all do where no trial did.

    `diverged` of `trials` [configs] are what was seen.
    """
    if not diverged.any():
        return np.ones((draws, len(diverged)), dtype=bool)
    never = (np.arange(50) + 0.5) / 50
    seen = np.where(diverged[:, None] > 0, 0.0, never) + (1 - never) / (trials[:, None] + 1)
    log_p = np.log(seen).sum(axis=0)
    weights = np.exp(log_p - log_p.max())
    chosen = source.choice(len(never), size=draws, p=weights / weights.sum())
    at_all = (1 - seen[:, chosen] ** -1 * np.where(diverged[:, None] > 0, 0.0, never[chosen])).T
    diverges = source.random((draws, len(diverged))) < at_all
    share = source.beta(1 + diverged, 1 + trials - diverged, size=(draws, len(diverged)))
    stable: NDArray[np.bool_] = ~diverges | (share < MOST_UNSTABLE)
    return stable
