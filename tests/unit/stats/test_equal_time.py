"""Losses at equal training time, against formulas of other books, scipy's and the true curves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.stats.additive_fit import Observation, fit
from sweeper.stats.dunnett import dunnett_quantile
from sweeper.stats.equal_time import CooledTrial, _lagrange, equal_minutes, equal_time
from sweeper.stats.repeated_measures import fit_repeated

TOKENS = {0.25: 250_000, 0.5: 500_000, 1.0: 1_000_000}
SPEEDS = {"fast": 4.0, "middle": 2.0, "slow": 1.0}


def curve(config: str, tokens: float) -> float:
    """Power laws, which are straight in log–log: reading them makes no error."""
    return {"fast": 5.0, "middle": 4.9, "slow": 4.8}[config] * (tokens / 1e6) ** -0.1


def trials(fractions=(0.25, 0.5, 1.0), configs=tuple(SPEEDS), seeds=3, noise=0.0, source=None):
    made = []
    for config in configs:
        for seed in range(seeds):
            losses = {TOKENS[f]: curve(config, TOKENS[f]) + 0.01 * seed for f in fractions}
            if source is not None:
                losses = {n: loss + source.normal(scale=noise) for n, loss in losses.items()}
            made.append(CooledTrial(config_id=config, seed=seed, losses=losses))
    return made


def speeds(spread=0.0, source=None, configs=tuple(SPEEDS), of=SPEEDS):
    rows = []
    for config in configs:
        for seed in range(3):
            off = 0.0 if source is None else source.normal(scale=spread)
            rows.append(Observation(treatment=config, block=f"seed {seed}", value=math.log(of[config] * 1e5) + off))
    return fit(rows)


PROBES = {config: config for config in SPEEDS}


def test_each_config_is_read_where_its_own_speed_has_brought_it():
    found = equal_time(trials(), speeds(), PROBES)
    assert found.seconds == pytest.approx(1e6 / 4e5)
    by_id = {one.config_id: one for one in found.losses}
    for config, tokens in {"fast": 1e6, "middle": 5e5, "slow": 2.5e5}.items():
        assert by_id[config].tokens == pytest.approx(tokens)
        assert by_id[config].mean == pytest.approx(curve(config, tokens) + 0.01, rel=1e-3)
    assert found.losses[0].config_id == "fast"
    assert found.losses[0].difference is None
    assert found.losses[0].verdict == "lowest"


def test_a_parabola_reads_a_curve_that_flattens_better_than_a_line():
    def flattens(n):
        return 2 + 3 * (n / 1e6) ** -0.3

    every = [
        CooledTrial(config_id=config, seed=seed, losses={n: flattens(n) for n in TOKENS.values()})
        for config in ("fast", "other")
        for seed in range(2)
    ]
    of = {"fast": 4.0, "other": 4.0 * 0.35}
    found = equal_time(every, speeds(configs=("fast", "other"), of=of), {"fast": "fast", "other": "other"})
    other = next(one for one in found.losses if one.config_id == "other")
    line = math.exp(np.interp(math.log(3.5e5), np.log([2.5e5, 5e5]), np.log([flattens(2.5e5), flattens(5e5)])))
    assert abs(other.mean - flattens(3.5e5)) < abs(line - flattens(3.5e5)) / 4


def test_a_config_whose_shortest_length_takes_longer_has_a_bound_and_may_be_ruled_out():
    source = np.random.default_rng(1)
    found = equal_time(trials(fractions=(0.5, 1.0), noise=0.01, source=source), speeds(), PROBES)
    slow = next(one for one in found.losses if one.config_id == "slow")
    # 4.8 × 0.5^-0.1 = 5.14 at half of its tokens, above 5.0 of the fast one: it can't be better at a quarter.
    assert (slow.bound, slow.verdict) == (True, "ruled out")
    assert slow.difference.low > 0
    assert slow.mean < curve("slow", 2.5e5)
    assert found.losses[-1] is slow


def test_a_bound_below_the_lowest_is_not_told():
    def low(config, seed):
        base = 4.0 if config == "slow" else 5.0
        return CooledTrial(
            config_id=config, seed=seed, losses={n: base * (n / 1e6) ** -0.1 + seed / 100 for n in (500_000, 1_000_000)}
        )

    made = [low(config, seed) for config in SPEEDS for seed in range(3)]
    found = equal_time(made, speeds(), PROBES)
    assert {one.config_id: one.verdict for one in found.losses}["slow"] == "not told"
    assert found.losses[0].config_id == "fast"


def test_one_length_tells_nothing_of_equal_time_but_minutes_are_equal_time():
    at_the_end = trials(fractions=(1.0,))
    assert equal_time(at_the_end, speeds(), PROBES) is None
    found = equal_minutes(at_the_end, 120.0)
    assert found.seconds == 120.0
    assert [one.config_id for one in found.losses] == ["slow", "middle", "fast"]
    assert not any(one.bound for one in found.losses)


def test_trials_without_all_lengths_are_left_out():
    whole, half = trials(configs=("fast", "middle")), trials(fractions=(1.0,), configs=("slow",))
    found = equal_time([*whole, *half], speeds(), PROBES)
    assert {one.config_id for one in found.losses} == {"fast", "middle"}
    assert equal_time([*trials(configs=("fast",)), *half], speeds(), PROBES) is None


def test_an_interval_of_equal_speeds_is_that_of_the_paired_comparison_at_the_end():
    source = np.random.default_rng(2)
    every = trials(noise=0.02, source=source)
    found = equal_time(every, speeds(of=dict.fromkeys(SPEEDS, 1.0)), PROBES)
    ends = fit([Observation(treatment=t.config_id, block=f"seed {t.seed}", value=t.losses[1_000_000]) for t in every])
    lowest = found.losses[0].config_id
    for one in found.losses[1:]:
        paired = ends.difference(one.config_id, lowest)
        assert one.difference.value == pytest.approx(paired.value)
        assert one.difference.standard_error == pytest.approx(paired.standard_error)
        assert one.difference.high == pytest.approx(paired.high)
        assert one.difference.low < paired.low  # as the lowest was picked


def test_errors_of_speeds_widen_intervals():
    source = np.random.default_rng(3)
    every = trials(noise=0.01, source=source)
    certain = equal_time(every, speeds(), PROBES)
    # The same log speeds on the mean, and residuals of 0.1.
    rows = [
        Observation(treatment=config, block=f"seed {seed}", value=math.log(SPEEDS[config] * 1e5) + off)
        for config, offs in {"fast": (0.1, -0.1, 0), "middle": (0, 0.1, -0.1), "slow": (-0.1, 0, 0.1)}.items()
        for seed, off in enumerate(offs)
    ]
    unsure = equal_time(every, fit(rows), PROBES)
    widths = [
        {one.config_id: one.difference.standard_error for one in found.losses if one.difference is not None}
        for found in (certain, unsure)
    ]
    assert widths[0].keys() == widths[1].keys()
    slope = 5.5 * 0.1  # |dL/d log n| of the slow one, about
    added = math.sqrt(widths[1]["slow"] ** 2 - widths[0]["slow"] ** 2)
    error = fit(rows).difference("slow", "fast").standard_error
    assert added == pytest.approx(slope * error, rel=0.15)


@given(st.integers(2, 5), st.integers(2, 4), st.integers(2, 3), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_covariance_of_lengths_is_that_of_the_multivariate_residuals(configs, seeds, occasions, number):
    source = np.random.default_rng(number)
    values = source.normal(size=(configs * seeds, occasions))
    names = [f"c{i // seeds}" for i in range(configs * seeds)]
    blocks = [f"s{i % seeds}" for i in range(configs * seeds)]
    found = fit_repeated(names, blocks, values)
    cube = values.reshape(configs, seeds, occasions)
    left = cube - cube.mean(axis=0) - cube.mean(axis=1, keepdims=True) + cube.mean(axis=(0, 1))
    flat = left.reshape(-1, occasions)
    assert found.degrees_of_freedom == (configs - 1) * (seeds - 1)
    assert found.covariance == pytest.approx(flat.T @ flat / found.degrees_of_freedom, abs=1e-9)
    assert found.means == pytest.approx(cube.mean(axis=1), abs=1e-9)
    assert np.linalg.eigvalsh(found.of_blocks).min() >= -1e-12


def test_what_seeds_do_at_one_length_more_than_at_another_is_seen():
    source = np.random.default_rng(5)
    configs, seeds, sd = 200, 400, np.array([[1.0, 0.3], [0.3, 0.5]])
    effects = source.multivariate_normal([0, 0], sd, size=seeds)
    values = effects[None] + source.normal(scale=0.1, size=(configs, seeds, 2))
    names = [f"c{i}" for i in range(configs) for _ in range(seeds)]
    blocks = [f"s{j}" for _ in range(configs) for j in range(seeds)]
    found = fit_repeated(names, blocks, values.reshape(-1, 2))
    assert found.of_blocks == pytest.approx(np.cov(effects, rowvar=False), abs=0.01)


@given(st.lists(st.floats(0.1, 3), min_size=2, max_size=3), st.floats(-3, 9))
def test_weights_are_those_of_the_polynomial_through_the_places(steps, at):
    from scipy.interpolate import BarycentricInterpolator

    places = np.cumsum(steps)
    values = np.sin(places)
    weights, slopes = _lagrange(places, at)
    whole = BarycentricInterpolator(places, values)
    assert weights @ values == pytest.approx(float(whole(at)), abs=1e-6)
    assert slopes @ values == pytest.approx(float(whole.derivative(at)), abs=1e-5)


@pytest.mark.parametrize(("comparisons", "df"), [(1, 5), (3, 10), (8, 30)])
def test_dunnetts_quantile_holds_for_all_comparisons_at_once(comparisons, df):
    from scipy.stats import multivariate_t

    shape = np.full((comparisons, comparisons), 0.5) + 0.5 * np.eye(comparisons)
    d = dunnett_quantile(0.95, comparisons, df)
    held = multivariate_t(shape=shape, df=df, seed=0).cdf(np.full(comparisons, d), maxpts=200_000)
    assert held == pytest.approx(0.95, abs=1e-3)
