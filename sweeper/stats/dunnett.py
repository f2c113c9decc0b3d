"""Comparisons of several treatments with one: the quantile that holds for all of them at once."""

from __future__ import annotations

from functools import cache

import numpy as np


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
