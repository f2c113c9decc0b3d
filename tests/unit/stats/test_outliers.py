"""Studentised residuals against refits without each value, and what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sweeper.stats.additive_fit import Observation, fit
from sweeper.stats.outliers import outliers


def observations(table):
    return [
        Observation(treatment=f"c{i}", block=f"s{j}", value=float(value))
        for i, row in enumerate(table)
        for j, value in enumerate(row)
    ]


def drawn(seed, configs, seeds):
    source = np.random.default_rng(seed)
    return source.normal(size=(configs, seeds)) + source.normal(size=seeds)


def named(found):
    return {(o.treatment, o.block) for one in found for o in one.observations}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), configs=st.integers(4, 8), seeds=st.integers(3, 4), scale=st.floats(1e-3, 1e3))
def test_the_p_value_is_that_of_a_dummy_for_the_value_alone(seed, configs, seeds, scale):
    """y ~ config + seed + its own dummy, by explicit least squares: t of the dummy, with ν − 1 degrees of freedom."""
    table = drawn(seed, configs, seeds)
    place = seed % configs, seed % seeds
    table[place] += 12.0
    found = outliers(fit(observations(table * scale)), {}, level=0.05)
    if not found:
        return
    i, j = int(found[0].observations[0].treatment[1:]), int(found[0].observations[0].block[1:])
    cells = [(a, b) for a in range(configs) for b in range(seeds)]
    design = np.array([
        [a == c for c in range(configs)] + [b == s for s in range(1, seeds)] + [(a, b) == (i, j)] for a, b in cells
    ], dtype=float)  # fmt: skip
    effects, (squares,), *_ = np.linalg.lstsq(design, (table * scale).ravel(), rcond=None)
    df = len(cells) - design.shape[1]
    t = effects[-1] / math.sqrt(squares / df * np.linalg.inv(design.T @ design)[-1, -1])
    assert found[0].off == pytest.approx(effects[-1])
    assert found[0].errors == pytest.approx(abs(t))
    assert found[0].p == pytest.approx(2 * stats.t.sf(abs(t), df) * len(cells))


def test_a_far_off_trial_is_named_and_gaussian_noise_is_not():
    """Of 300 studies of 8 × 3: by noncentral t 92% of those 8 sd off; of the others at most 2%."""
    hit = false = 0
    for number in range(300):
        table = drawn(number, 8, 3)
        false += bool(outliers(fit(observations(table)), {}, level=0.02))
        table[number % 8, number % 3] += 8.0
        hit += (f"c{number % 8}", f"s{number % 3}") in named(outliers(fit(observations(table)), {}, level=0.02))
    assert hit / 300 > 0.85
    assert false / 300 < 0.02 + 4 * math.sqrt(0.02 * 0.98 / 300)


def test_of_two_seeds_both_are_named_as_neither_can_be_told():
    table = drawn(1, 12, 2)
    table[4, 1] += 30.0
    (one,) = outliers(fit(observations(table)), {}, level=0.02)
    assert named([one]) == {("c4", "s0"), ("c4", "s1")}


def test_several_are_found_one_after_the_other():
    table = drawn(2, 10, 3)
    table[0, 0] += 40.0
    table[5, 2] -= 20.0
    assert named(outliers(fit(observations(table)), {}, level=0.02)) == {("c0", "s0"), ("c5", "s2")}


def test_what_belongs_to_a_noisy_class_is_no_outlier():
    """Two of twelve configs at a rate that is 12 times noisier: one variance for all names a trial in many studies."""
    with_rate = without = 0
    for number in range(150):
        table = drawn(number, 12, 3)
        table[10:] *= 12
        two = {"lr": [1.0] * 10 + [2.0] * 2}
        without += bool(outliers(fit(observations(table)), {}, level=0.02))
        with_rate += bool(outliers(fit(observations(table)), two, level=0.02))
    assert without > 30
    assert with_rate < without / 4


def test_without_noise_nothing_stands_out():
    assert outliers(fit(observations(np.arange(6.0)[:, None] + np.arange(3.0))), {}, level=0.02) == ()
    assert outliers(fit(observations(np.ones((3, 1)))), {}, level=0.02) == ()
