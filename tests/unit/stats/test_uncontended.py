"""The uncontended speed, from windows of which other work slowed some."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import exponnorm, norm

from sweeper.stats.uncontended import JITTERS, SHARES, SLOWDOWNS, uncontended


def test_the_posterior_is_that_of_scipys_densities_on_a_fine_even_grid():
    windows = (980.0, 1000.0, 1012.0, 700.0, 410.0)
    y = np.log(windows)
    grid = np.linspace(y.max() - 0.6, y.max() + 0.6, 2401)
    likelihood = np.zeros(len(grid))
    for sigma in JITTERS:
        alone = norm.pdf(y, grid[:, None], sigma)
        for theta in SLOWDOWNS:
            # exponnorm adds an exponential: that of what is left out is its mirror image.
            slowed = exponnorm.pdf(-y, theta / sigma, loc=-grid[:, None], scale=sigma)
            for share in SHARES:
                likelihood += ((1 - share) * alone + share * slowed).prod(axis=1)
    below = np.cumsum(likelihood) / likelihood.sum()
    found = uncontended(windows)
    assert math.log(found.speed) == pytest.approx((grid * likelihood).sum() / likelihood.sum(), abs=0.001)
    assert math.log(found.low or 0) == pytest.approx(np.interp(0.025, below, grid), abs=0.006)
    assert math.log(found.high or 0) == pytest.approx(np.interp(0.975, below, grid), abs=0.006)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_windows_that_were_slowed_by_known_factors_give_the_speed_before(share):
    source, errors, held = np.random.default_rng(3), [], []
    for _ in range(60):
        windows = 1000 * np.exp(source.normal(0, 0.015, 10))
        slow = source.permutation(10) < round(10 * share)
        found = uncontended(tuple(np.where(slow, windows / source.uniform(1.2, 4, 10), windows).tolist()))
        errors.append(found.speed / 1000 - 1)
        held.append((found.low or 0) <= 1000 <= (found.high or 0))
    assert np.sqrt(np.mean(np.square(errors))) < 0.02
    assert np.mean(held) >= 0.9


@pytest.mark.parametrize("count", [3, 5, 10, 20])
def test_steady_windows_give_their_median(count):
    windows = tuple(np.linspace(995, 1005, count).tolist())
    found = uncontended(windows)
    assert found.speed == pytest.approx(1000, rel=0.002)
    assert found.low is not None
    assert found.low < 1000


def test_windows_that_are_alike_or_few_are_taken_as_they_are():
    assert vars(uncontended((5.0, 5.0, 5.0))) == {"speed": 5.0, "low": None, "high": None}
    assert vars(uncontended((4.0, 6.0))) == {"speed": 5.0, "low": None, "high": None}


def test_the_unit_doesnt_matter():
    windows = (9.0, 8.9, 9.1, 4.0, 2.5)
    one, other = uncontended(windows), uncontended(tuple([1e4 * w for w in windows]))
    assert other.speed == pytest.approx(1e4 * one.speed, rel=1e-4)
    assert other.high == pytest.approx(1e4 * (one.high or 0), rel=1e-4)
