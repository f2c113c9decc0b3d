"""Whether a config that diverged is stable: against sums over the model's own probabilities."""

import numpy as np
import pytest
from scipy import stats

from sweeper.stats.divergence import MOST_UNSTABLE, drawn_stable


def test_where_nothing_diverged_all_are_stable():
    assert drawn_stable(np.zeros(3, dtype=int), np.full(3, 2), np.random.default_rng(0), draws=10).all()


def test_chances_are_those_of_the_model():
    diverged, trials = np.array([2, 0, 0, 1]), np.array([3, 3, 0, 30])
    drawn = drawn_stable(diverged, trials, np.random.default_rng(0), draws=200_000).mean(axis=0)
    never = (np.arange(20_000) + 0.5) / 20_000
    seen = [np.where(y > 0, 0, never) + (1 - never) / (n + 1) for y, n in zip(diverged, trials, strict=True)]
    weights = np.prod(seen, axis=0)
    for i, (y, n) in enumerate(zip(diverged, trials, strict=True)):
        at_all = 1 - np.where(y > 0, 0, never) / seen[i]
        few = stats.beta.cdf(MOST_UNSTABLE, 1 + y, 1 + n - y)
        wanted = (weights * (1 - at_all * (1 - few))).sum() / weights.sum()
        assert drawn[i] == pytest.approx(wanted, abs=0.005)
    assert drawn[0] < 0.01
    assert drawn[3] > 0.8
