"""Comparisons of several treatments with one: the quantile that holds for all of them at once."""

from __future__ import annotations

from functools import cache

import numpy as np

from sweeper.stats.additive_fit import CONFIDENCE, Difference, t_quantile


def above_lowest(value: float, standard_error: float, comparisons: int, degrees_of_freedom: float) -> Difference:
    """A value less the lowest of `comparisons` + 1, with a 95% interval that takes into account that it was picked.

    The lowest tends to be so by luck, so that differences to it are too large: the lower end is that of the comparison
    of all with the best, one-sided at 97.5% (Hsu, Journal of the American Statistical Association 79, 1984), the upper
    one Student's. Where the lower end is above zero, it is shown to be above the lowest: of the one that truly is the
    lowest that is said in at most 2.5% of studies.
    """
    one_sided = 0.5 + CONFIDENCE / 2
    return Difference(
        value=value,
        standard_error=standard_error,
        low=value - dunnett_quantile(one_sided, comparisons, degrees_of_freedom) * standard_error,
        high=value + t_quantile(one_sided, degrees_of_freedom) * standard_error,
    )


@cache
def dunnett_quantile(probability: float, comparisons: int, degrees_of_freedom: float) -> float:
    """The quantile of the largest of `comparisons` Student's t with correlation 1/2, one-sided.

    The probability that all are below d is E ∫ φ(z) Φ(√2·d·s + z)ᵏ dz over s = √(χ²(ν) ÷ ν) (Dunnett, JASA 50, 1955).
    """
    from scipy.optimize import brentq
    from scipy.special import chdtri, ndtr

    z = np.linspace(-8, 8, 161)
    density = np.exp(-z * z / 2) * (0.1 / np.sqrt(2 * np.pi))
    nodes, weights = np.polynomial.legendre.leggauss(96)
    scales = np.sqrt(chdtri(degrees_of_freedom, (1 - nodes) / 2) / degrees_of_freedom)

    def excess(d: float) -> float:
        below = ndtr(np.sqrt(2) * d * scales[:, None] + z) ** comparisons
        return float((weights / 2) @ (below @ density)) - probability

    return float(brentq(excess, 0.0, 1e4, xtol=1e-9))
