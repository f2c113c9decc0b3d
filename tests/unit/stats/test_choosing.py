"""What a choice costs: against Tukey's intervals by scipy, and what is true of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sweeper.stats.additive_fit import Observation, fit
from sweeper.stats.choosing import cost_of_choosing


def fitted(table):
    return fit([
        Observation(treatment=f"c{i}", block=f"s{j}", value=float(value))
        for i, row in enumerate(table) for j, value in enumerate(row)
    ])  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), configs=st.integers(2, 6), chosen=st.integers(0, 1))
def test_the_interval_is_that_of_tukeys_differences(seed, configs, chosen):
    n = 40  # so many that a pair's own interval is always the narrower one
    table = np.random.default_rng(seed).normal(size=(configs, n)) + np.linspace(0, 1, configs)[:, None]
    found = cost_of_choosing(f"c{chosen}", fitted(table))
    means = table.mean(1)
    residual = table - means[:, None] - table.mean(0, keepdims=True) + table.mean()
    df = (configs - 1) * (n - 1)
    half = stats.studentized_range.ppf(0.95, configs, df) * math.sqrt((residual**2).sum() / df / n)
    gaps = means[chosen] - np.delete(means, chosen)
    assert found.best == f"c{means.argmin()}"
    assert found.value == pytest.approx(means[chosen] - means.min())
    assert found.low == pytest.approx(max(0.0, gaps.max() - half), rel=1e-3, abs=1e-6)
    assert found.high == pytest.approx(max(0.0, gaps.max() + half), rel=1e-3)


def test_without_noise_there_is_a_cost_and_no_interval():
    found = cost_of_choosing("c0", fitted(np.array([[2.0], [1.5]])))
    assert (found.chosen, found.best, found.value, found.low, found.high) == ("c0", "c1", 0.5, None, None)
