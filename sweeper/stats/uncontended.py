"""The speed that a machine would have had for itself, from windows of which other work slowed some.

Contention only slows. With y the log of a window's speed and μ that of the uncontended one,

    y = μ + σ ε            of a window with the machine for itself,
    y = μ + σ ε − S        of a slowed one, a share π of all,

ε standard normal and S exponential with mean θ, which makes a slowed window's density that of an exponentially modified
Gaussian (Grushka, Analytical Chemistry 44, 1972):

    f(y) = 1/θ · exp(σ²/(2θ²) − d/θ) · Φ(d/σ − σ/θ),    d = μ − y.

Nothing but the windows is known of a job, so that all four are integrated over. Priors: μ flat, π uniform, σ
log-uniform from 0.3% to 10% (windows of quiet recorded runs scatter by 0.6 to 7%), θ one of 1/4, 1/2 and 1 (a window
takes 1.3, 1.6 or 2.7 times as long). The estimate is the posterior mean of μ, its interval the middle 95%, by sums over
a grid that is densest about the windows. `benchmarks/contended_speed.py` holds it to known speeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEAST_WINDOWS = 3
"""Fewer say nothing of what slowed them."""

SHARES: NDArray[np.float64] = (np.arange(10) + 0.5) / 10
JITTERS: NDArray[np.float64] = np.geomspace(0.003, 0.1, 8)
SLOWDOWNS = (0.25, 0.5, 1.0)
OFFSETS = np.concatenate([-np.geomspace(0.6, 0.0005, 18), [0.0], np.geomspace(0.0005, 0.6, 18)])


@dataclass(frozen=True, kw_only=True)
class Uncontended:
    """An uncontended speed and its 95% interval, in the unit of the windows.

    The interval is None where windows are too few or all alike: then the speed is their median.
    """

    speed: float
    low: float | None
    high: float | None


@lru_cache(maxsize=65536)
def uncontended(windows: tuple[float, ...]) -> Uncontended:
    """The uncontended speed of a job's `windows` (tokens/s, each above 0)."""
    if len(windows) < LEAST_WINDOWS or min(windows) == max(windows):
        return Uncontended(speed=float(np.median(windows)), low=None, high=None)
    logs = np.log(windows)
    middle = float(np.median(logs))
    grid, density = _posterior(logs - middle)
    # By trapezia: between two nodes the density is a straight line.
    weights = density * np.gradient(grid)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
    low, high = np.exp(middle + np.interp([0.025, 0.975], below / below[-1], grid))
    speed = math.exp(middle + float(grid @ weights / weights.sum()))
    return Uncontended(speed=speed, low=float(low), high=float(high))


def _posterior(logs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A grid of μ, and there the posterior's density, up to a factor. `logs` (windows,)."""
    from scipy.special import log_ndtr

    upper = np.unique(np.round(logs[logs >= np.median(logs)], 6))
    grid = np.unique((upper[:, None] + OFFSETS).ravel())
    d = (grid[:, None] - logs)[:, :, None]  # [grid, windows, 1]
    scaled = d / JITTERS
    alone = np.exp(-(scaled**2) / 2) / (JITTERS * np.sqrt(2 * np.pi))
    total = np.zeros((len(SLOWDOWNS), len(SHARES), len(grid), len(JITTERS)))
    for i, theta in enumerate(SLOWDOWNS):
        ratio = JITTERS / theta
        slowed = np.exp(ratio**2 / 2 - d / theta + log_ndtr(scaled - ratio)) / theta
        for j, share in enumerate(SHARES):
            total[i, j] = np.log((1 - share) * alone + share * slowed + 1e-300).sum(axis=1)
    return grid, np.exp(total - total.max()).sum(axis=(0, 1, 3))
