"""P(on frontier) where it is known in closed form."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats

from sweeper.frontier.points import Estimate
from sweeper.frontier.posterior import drawn_means, joint_draws
from sweeper.stats.additive_fit import Observation, fit

OBJECTIVES = {"val_loss": "min", "tokens_per_s": "max"}


@dataclass(frozen=True)
class Where:
    config_id: str
    probe_id: str
    objectives: Mapping[str, Estimate] = field(default_factory=dict)

    def treatment(self, metric):
        return self.config_id if metric == "val_loss" else self.probe_id


def fitted(values):
    """A fit of treatments' values, one for each seed."""
    return fit([
        Observation(treatment=name, block=f"seed {seed}", value=value)
        for name, seeds in values.items() for seed, value in enumerate(seeds)
    ])  # fmt: skip


def test_of_two_points_the_slower_ones_chance_is_that_of_a_lower_loss():
    source = np.random.default_rng(3)
    for gap in (-0.02, 0.0, 0.01, 0.03):
        noise = source.normal(0, 0.02, size=(2, 4))
        losses = fitted({"fast": 2.0 + noise[0], "slow": 2.0 - gap + noise[1]})
        speeds = fitted({"fast": [5.0, 5.001, 5.002, 5.0], "slow": [4.0, 4.002, 4.001, 4.0]})
        draws = joint_draws(
            [Where("fast", "fast"), Where("slow", "slow")], {"val_loss": losses, "tokens_per_s": speeds}, OBJECTIVES
        )
        fast, slow = draws.p_frontier
        difference = losses.difference("fast", "slow")
        wanted = stats.t.cdf(difference.value / difference.standard_error, df=losses.degrees_of_freedom)
        assert fast == 1.0
        assert slow == pytest.approx(wanted, abs=0.03)


def test_draws_have_the_mean_and_the_spread_of_the_fits_intervals():
    source = np.random.default_rng(0)
    one = fitted({name: source.normal(n, 0.5, size=5) for n, name in enumerate("abc")})
    drawn = drawn_means(one, np.random.default_rng(1), draws=40_000)
    for column, name in enumerate("abc"):
        interval = one.mean(name)
        low, high = np.quantile(drawn[:, column], [0.025, 0.975])
        assert low == pytest.approx(interval.low, abs=0.03)
        assert high == pytest.approx(interval.high, abs=0.03)
    paired = one.difference("a", "b")
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [0.025, 0.975])
    assert (low, high) == (pytest.approx(paired.low, abs=0.04), pytest.approx(paired.high, abs=0.04))


def test_without_an_estimate_of_noise_nothing_is_said():
    alone = fitted({"a": [2.0], "b": [2.1]})
    points = [Where("a", "a"), Where("b", "b")]
    assert joint_draws(points, {"val_loss": alone, "tokens_per_s": alone}, OBJECTIVES) is None


def test_points_that_share_a_measurement_share_its_draws():
    losses = fitted({"a": [2.0, 2.1], "b": [2.5, 2.61]})
    speeds = fitted({"p": [5.0, 5.1], "q": [4.0, 4.11]})
    points = [Where("a", "p"), Where("b", "p"), Where("a", "p")]
    first, beaten, same = joint_draws(points, {"val_loss": losses, "tokens_per_s": speeds}, OBJECTIVES).p_frontier
    assert first == same > 0.95
    assert beaten < 0.05


def test_an_objective_without_noise_counts_in_every_draw():
    fits = {
        "val_loss": fitted({"small": [2.0, 2.01, 2.02], "large": [1.0, 1.02, 1.01]}),
        "tokens_per_s": fitted({"small": [1.0, 1.01, 1.02], "large": [2.0, 2.02, 2.01]}),
    }
    points = [
        Where(name, name, {"params": Estimate(mean=value, sd=None, n=1, low=value, high=value)})
        for name, value in (("small", 1e6), ("large", 2e6))
    ]
    assert joint_draws(points, fits, OBJECTIVES).p_frontier[0] < 0.01
    assert joint_draws(points, fits, {**OBJECTIVES, "params": "min"}).p_frontier[0] == 1.0
