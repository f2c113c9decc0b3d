"""Variance classes against restricted likelihood by brute force, exact tests, and what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from sweeper.stats.additive_fit import Observation, fit
from sweeper.stats.variance_classes import with_classes


def observations(table, *, missing=()):
    return [
        Observation(treatment=f"c{i}", block=f"s{j}", value=float(value))
        for i, row in enumerate(table)
        for j, value in enumerate(row)
        if (i, j) not in missing
    ]


def noisy_table(seed, sds, seeds):
    source = np.random.default_rng(seed)
    return source.normal(size=(len(sds), seeds)) * np.asarray(sds)[:, None] + source.normal(size=seeds)


RATES = {"lr": [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]}


def test_the_classes_variances_maximise_the_restricted_likelihood():
    """Written out: −½ (log|V| + log|XᵀV⁻¹X| + yᵀPy), with the design's columns spelled out, by Nelder and Mead."""
    table, missing = noisy_table(3, [1, 1, 1, 1, 6, 6, 6], 4), ((0, 1), (5, 2))
    given = observations(table, missing=missing)
    made = with_classes(fit(given), RATES)
    assert [split.covariate for split in made.splits] == ["lr"]
    rows = [(int(o.treatment[1:]), int(o.block[1:])) for o in given]
    design = np.array([[i == c for c in range(7)] + [j == s for s in range(1, 4)] for i, j in rows], dtype=float)
    values, noisy = np.array([o.value for o in given]), np.array([i >= 4 for i, _ in rows])

    def minus_log_likelihood(logs):
        inverse = np.diag(np.exp(-np.where(noisy, logs[1], logs[0])))
        information = design.T @ inverse @ design
        projected = inverse - inverse @ design @ np.linalg.solve(information, design.T @ inverse)
        determinant = np.linalg.slogdet(information)[1] - np.linalg.slogdet(inverse)[1]
        return 0.5 * (determinant + values @ projected @ values)

    best = optimize.minimize(minus_log_likelihood, [0.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-7}).x
    assert made.fitted.sd("c0") == pytest.approx(math.exp(best[0] / 2), rel=2e-3)
    assert made.fitted.sd("c5") == pytest.approx(math.exp(best[1] / 2), rel=2e-3)
    weights = np.exp(-np.where(noisy, best[1], best[0]))
    normal = np.linalg.inv(design.T @ (weights[:, None] * design))
    effects = normal @ design.T @ (weights * values)
    difference = made.fitted.difference("c5", "c0")
    assert difference.value == pytest.approx(effects[5] - effects[0], abs=1e-3)
    error = math.sqrt(normal[5, 5] + normal[0, 0] - 2 * normal[5, 0])
    assert difference.standard_error == pytest.approx(error, rel=2e-3)


def test_residuals_and_leverages_are_those_of_the_hat_matrix():
    table, missing = noisy_table(5, [1.0] * 5, 3), ((1, 0), (4, 2))
    given = observations(table, missing=missing)
    scales = {f"c{i}": 1.0 + i for i in range(5)}
    fitted = fit(given, scales=scales)
    rows = [(int(o.treatment[1:]), int(o.block[1:])) for o in given]
    design = np.array([[i == c for c in range(5)] + [j == s for s in (1, 2)] for i, j in rows], dtype=float)
    weights = np.array([1 / scales[o.treatment] ** 2 for o in given])
    hat = design @ np.linalg.inv(design.T @ (weights[:, None] * design)) @ (design * weights[:, None]).T
    values = np.array([o.value for o in given])
    assert fitted.leverages == pytest.approx(np.diag(hat))
    assert fitted.residuals == pytest.approx(values - hat @ values)


def test_a_single_noisy_config_has_the_p_value_of_chows_test():
    """In balanced data its sum is that of its differences from the others' means, seed by seed, × (k − 1) ÷ k."""
    table = noisy_table(1, [1, 1, 1, 9, 1, 1], 4)
    (split,) = with_classes(fit(observations(table)), {}).splits
    others = np.delete(table, 3, axis=0)
    own = table[3] - others.mean(0)
    added = ((own - own.mean()) ** 2).sum() * 5 / 6 / 3
    rest = others - others.mean(1, keepdims=True) - others.mean(0, keepdims=True) + others.mean()
    ratio = added / ((rest**2).sum() / 12)
    assert (split.treatments, split.covariate) == (("c3",), None)
    assert split.sd_ratio == pytest.approx(math.sqrt(ratio))
    assert split.p == pytest.approx(6 * stats.f.sf(ratio, 3, 12))


def test_where_all_are_alike_few_splits_are_made():
    """400 studies: at 10% and 5% of them at most, each share with a chance below 0.2% of 4 standard errors more."""
    by_covariate = alone = 0
    for number in range(400):
        made = with_classes(fit(observations(noisy_table(number, [1.0] * 7, 3))), RATES)
        by_covariate += any(split.covariate for split in made.splits)
        alone += bool(made.noisy)
    assert by_covariate / 400 < 0.10 + 3 * math.sqrt(0.09 / 400)
    assert alone / 400 < 0.05 + 3 * math.sqrt(0.0475 / 400)


def test_false_differences_of_a_noisy_class_are_kept_at_their_level():
    """Of two at a rate that is four times noisier, at 5 seeds: one variance for all resolves them in one of four."""
    one = classes = 0
    for number in range(200):
        fitted = fit(observations(noisy_table(number, [1, 1, 1, 1, 1, 4, 4], 5)))
        made = with_classes(fitted, {"lr": [1.0] * 5 + [2.0] * 2}).fitted
        value, error = (float(one[5, 6]) for one in fitted.all_differences(fitted.treatments))
        one += abs(value) > stats.t.ppf(0.975, fitted.degrees_of_freedom) * error
        classes += bool(made.difference("c5", "c6").resolved)
    assert one / 200 > 0.18
    assert classes / 200 < 0.10


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), configs=st.integers(3, 9), seeds=st.integers(2, 4),
    ratio=st.sampled_from([1.0, 5.0, 100.0]), shift=st.floats(-3, 3), scale=st.sampled_from([1e-3, 1.0, 50.0]),
)  # fmt: skip
def test_classes_follow_the_unit_and_not_the_zero(seed, configs, seeds, ratio, shift, scale):
    table = noisy_table(seed, [ratio] * 2 + [1.0] * (configs - 2), seeds)
    covariates = {"lr": [2.0] * 2 + [1.0] * (configs - 2), "word": ["a", *["b"] * (configs - 1)]}
    made = with_classes(fit(observations(table)), covariates)
    moved = with_classes(fit(observations(table * scale + shift)), covariates)
    assert [s.treatments for s in made.splits] == [s.treatments for s in moved.splits]
    for treatment in made.fitted.treatments:
        assert moved.fitted.sd(treatment) == pytest.approx(scale * made.fitted.sd(treatment), rel=1e-3)
    for split in made.splits:
        assert set(split.treatments).isdisjoint(split.others)
        assert split.sd_ratio > 1
    if not made.splits:
        assert made.fitted.one_class


def test_values_without_any_scatter_make_no_class():
    table = np.arange(5.0)[:, None] + np.arange(3.0)
    assert with_classes(fit(observations(table)), {"lr": [1.0, 1.0, 2.0, 2.0, 2.0]}).splits == ()
