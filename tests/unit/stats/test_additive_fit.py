"""The additive fit against hand computation, explicit simulation and its own promise of coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sweeper.stats.additive_fit import Observation, detectable, fit, studentized_range_quantile

CONFIGS = ("a", "b", "c", "d")


def observations(values: dict[tuple[str, int], float]) -> list[Observation]:
    return [Observation(treatment=c, block=f"seed {s}", value=v) for (c, s), v in values.items()]


def drawn(rng: np.random.Generator, *, seeds: int, sd: float, missing: set[tuple[str, int]] = frozenset()):
    shift = rng.normal(0, 1.0, seeds)
    true = dict(zip(CONFIGS, (1.0, 1.2, 1.5, 2.0), strict=True))
    cells = [(c, s) for c in CONFIGS for s in range(seeds) if (c, s) not in missing]
    return true, {(c, s): true[c] + shift[s] + rng.normal(0, sd) for c, s in cells}


def test_balanced_data_agree_with_two_way_anova_by_hand():
    _, values = drawn(np.random.default_rng(1), seeds=3, sd=0.1)
    table = np.array([[values[c, s] for s in range(3)] for c in CONFIGS])
    residual = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    df = 3 * 2
    sd = math.sqrt((residual**2).sum() / df)

    fitted = fit(observations(values))
    difference = fitted.difference("b", "a")
    half = stats.t.ppf(0.975, df) * sd * math.sqrt(2 / 3)

    assert fitted.degrees_of_freedom == df
    assert fitted.residual_sd == pytest.approx(sd)
    assert difference.value == pytest.approx(table[1].mean() - table[0].mean())
    assert difference.standard_error == pytest.approx(sd * math.sqrt(2 / 3))
    assert (difference.low, difference.high) == pytest.approx((difference.value - half, difference.value + half))
    assert fitted.mean("c").value == pytest.approx(table[2].mean())
    assert fitted.mean("c").standard_error == pytest.approx(sd / math.sqrt(3))
    assert fitted.resolved_range()[0] == pytest.approx(half)
    assert fitted.minimum_detectable() == pytest.approx(detectable(df, 3) * sd * math.sqrt(2 / 3))


def test_a_shift_that_all_configs_share_by_seed_is_no_noise():
    values = {(c, s): i + 10.0 * s for i, c in enumerate(CONFIGS) for s in range(3)}
    fitted = fit(observations(values))
    assert fitted.residual_sd == pytest.approx(0, abs=1e-9)
    assert fitted.difference("d", "a").resolved


def test_unbalanced_standard_errors_agree_with_simulation():
    """The spread of the estimated contrast over 4000 redraws, within 5% (its own sampling error is 1.1%)."""
    rng, missing = np.random.default_rng(2), {("a", 0), ("b", 2), ("d", 1)}
    estimates, cofactors = [], set()
    for _ in range(4000):
        true, values = drawn(rng, seeds=3, sd=0.1, missing=missing)
        fitted = fit(observations(values))
        difference = fitted.difference("b", "a")
        estimates.append(difference.value - (true["b"] - true["a"]))
        cofactors.add(round(difference.standard_error / fitted.residual_sd, 9))
    (cofactor,) = cofactors
    assert np.std(estimates) == pytest.approx(0.1 * cofactor, rel=0.05)
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / math.sqrt(len(estimates))
    assert cofactor > math.sqrt(2 / 3), "a missing trial costs precision"


@pytest.mark.parametrize("missing", [set(), {("a", 0), ("d", 1)}], ids=["balanced", "unbalanced"])
def test_95_percent_intervals_hold_the_truth_95_times_in_100(missing):
    """1200 redraws: a share outside 0.93 … 0.97 has a chance below 0.2% when coverage is 0.95."""
    rng, held, n = np.random.default_rng(3), 0, 1200
    for _ in range(n):
        true, values = drawn(rng, seeds=3, sd=0.1, missing=missing)
        difference = fit(observations(values)).difference("d", "a")
        held += difference.low <= true["d"] - true["a"] <= difference.high
    assert 0.93 < held / n < 0.97


def test_the_minimum_detectable_difference_is_found_about_8_times_in_10():
    rng, n = np.random.default_rng(4), 800
    mdd = detectable(6, 3) * 0.1 * math.sqrt(2 / 3)
    found = 0
    for _ in range(n):
        values = {(c, s): (mdd if c == "b" else 0) + rng.normal(0, 0.1) for c in CONFIGS for s in range(3)}
        found += bool(fit(observations(values)).difference("b", "a").resolved)
    assert 0.75 < found / n < 0.86


def test_one_seed_gives_means_and_no_noise():
    fitted = fit(observations({("a", 0): 1.0, ("b", 0): 3.0}))
    difference = fitted.difference("b", "a")
    assert (difference.value, difference.standard_error, difference.resolved) == (pytest.approx(2.0), None, None)
    assert fitted.residual_sd is None
    assert fitted.resolved_range() is None


def test_configs_without_a_common_seed_are_not_paired():
    values = {("a", 0): 1.0, ("a", 1): 1.2, ("b", 2): 2.0, ("b", 3): 2.2}
    fitted = fit(observations(values))
    difference = fitted.difference("b", "a")
    assert not fitted.paired
    assert difference.value == pytest.approx(1.0)
    assert difference.standard_error == pytest.approx(math.sqrt(0.02 * (1 / 2 + 1 / 2)))


def test_what_no_pair_resolves_is_a_bound_for_all_pairs():
    """An average over pairs would call ties what the configs with most seeds tell apart."""
    _, values = drawn(np.random.default_rng(5), seeds=4, sd=0.1, missing={("a", 0), ("a", 1), ("c", 3)})
    fitted = fit(observations(values))
    pairs = [fitted.difference(a, b) for a in CONFIGS for b in CONFIGS if a < b]
    least, most = fitted.resolved_range()
    assert least < 0.95 * most
    assert {d.resolved for d in pairs if abs(d.value) < least} <= {False}
    assert [d.high - d.value >= least - 1e-9 for d in pairs] == [True] * len(pairs)
    assert max(d.high - d.value for d in pairs) == pytest.approx(most)
    assert fitted.minimum_detectable() > least


@pytest.mark.parametrize("groups", [2, 6, 24, 200])
@pytest.mark.parametrize("degrees_of_freedom", [1, 2, 5, 46, 400])
def test_the_studentized_ranges_quantile_is_scipys(groups, degrees_of_freedom):
    wanted = stats.studentized_range.ppf(0.95, groups, degrees_of_freedom)
    assert studentized_range_quantile(0.95, groups, degrees_of_freedom) == pytest.approx(wanted, rel=3e-5)
