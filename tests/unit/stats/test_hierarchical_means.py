"""Draws of means about a trend: against data drawn from the model itself, and where there is nothing to tell."""

import numpy as np
from scipy import stats

from sweeper.stats.hierarchical_means import (
    LIKELY,
    SHRINKAGES,
    SPREADS,
    TRENDS,
    Means,
    drawn_about_trend,
    drawn_variances,
)

DEGREES = np.full(8, 2.0)
X = np.array([0.0, 0.1, 0.35, 0.4, 0.7, 0.9, 1.3, 1.4])


def from_the_model(source):
    """True means and what was measured of them, all drawn from the model with σ = 1."""
    d = source.choice([d for d, _ in SPREADS], p=[p for _, p in SPREADS])
    variances = d / source.chisquare(d, size=len(X))
    own = np.full(len(X), 3**-0.5)
    typical = float(np.median(own**2 * variances))
    total = typical / source.choice(SHRINKAGES, p=LIKELY)
    slope, curvature, _ = TRENDS[source.choice(len(TRENDS), p=[trend[-1] for trend in TRENDS])]
    z = X - X.mean()
    one = z / np.sqrt((z**2).mean())
    two = one**2 - one * (one**3).mean() - 1
    two /= np.sqrt((two**2).mean())
    trend = source.normal(0, np.sqrt(slope * total)) * one + source.normal(0, np.sqrt(curvature * total)) * two
    true = 5 + trend + source.normal(0, np.sqrt(total - typical), size=len(X))
    loadings = source.normal(0, 0.2, size=(len(X), 1))
    loadings -= loadings.mean()
    shared = loadings[:, 0] * source.normal(0, np.sqrt(np.median(variances)))
    return true, Means(
        means=true + shared + own * np.sqrt(variances) * source.standard_normal(len(X)),
        own=own,
        loadings=loadings,
        squares=variances * source.chisquare(DEGREES),
        degrees=DEGREES,
    )


def test_truths_lie_anywhere_among_the_draws():
    """Ranks among the draws are uniform where truth and data come from the model (Cook, Gelman, Rubin 2006)."""
    source, ranks = np.random.default_rng(4), []
    for _ in range(250):
        true, measured = from_the_model(source)
        draws = drawn_about_trend(measured, X, source, draws=200)
        difference = draws[:, 2] - draws[:, 5]
        ranks += [(draws[:, 0] < true[0]).mean(), (difference < true[2] - true[5]).mean()]
    for each in (ranks[::2], ranks[1::2]):
        assert stats.kstest(each, "uniform").pvalue > 0.01


def test_what_lies_on_a_line_is_drawn_to_it_and_what_scatters_is_not():
    source = np.random.default_rng(0)
    noise = 0.1 * np.array([1, -1, 0.5, -0.5, 1, -1, -0.5, 0.5])

    def spread(values):
        measured = Means(means=values, own=np.full(8, 0.5), loadings=np.zeros((8, 0)),
                         squares=np.full(8, 0.02), degrees=DEGREES)  # fmt: skip
        return drawn_about_trend(measured, X, source, draws=2000)

    line, scattered = spread(2 * X + noise), spread(np.array([3.0, -2, 1, -4, 2, 5, -1, 0]))
    assert np.abs(line.mean(axis=0) - 2 * X).max() < np.abs(noise).max()
    assert np.abs(scattered.mean(axis=0) - [3.0, -2, 1, -4, 2, 5, -1, 0]).max() < 0.05


def test_all_speeds_alike_are_no_trend():
    measured = Means(means=np.array([1.0, 1.1, 0.9, 1.05]), own=np.full(4, 0.5), loadings=np.zeros((4, 0)),
                     squares=np.full(4, 0.01), degrees=np.full(4, 2.0))  # fmt: skip
    draws = drawn_about_trend(measured, np.zeros(4), np.random.default_rng(0), draws=500)
    assert np.isfinite(draws).all()
    assert np.abs(draws.mean(axis=0) - 1).max() < 0.1


def test_a_config_that_scatters_more_has_a_larger_variance_in_the_draws():
    source = np.random.default_rng(1)
    squares = np.array([1.0] * 7 + [40.0])
    median = np.median(drawn_variances(squares, DEGREES, source, draws=4000), axis=0)
    assert median[-1] > 4 * median[:-1].max()
    alike = np.median(drawn_variances(np.full(8, 2.0), DEGREES, source, draws=4000), axis=0)
    assert alike.max() < 1.15 * alike.min()
