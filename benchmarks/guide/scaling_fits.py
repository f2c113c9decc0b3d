"""How a measured figure goes with a size: exponents, curves and ratios with 95% intervals (t), and verdicts on claims.

Several measurements at one size are averaged first: they share what a curve misses there, so they are no further
evidence for the curve. An interval then holds noise and lack of fit alike, of as many degrees of freedom as there are
sizes beyond coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
Verdict = Literal["holds", "doesn't hold", "isn't decided"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """y = c₀ + c₁·x + … by least squares of relative residuals, as the noise of a speed or a memory grows with it.

    `covariance` is of `coefficients`; `r_squared` is the usual one, of absolute residuals; `worst` the largest relative
    residual.
    """

    coefficients: Any
    covariance: Any
    degrees_of_freedom: int
    r_squared: float
    worst: float

    def at(self, size: float) -> float:
        """y at a size."""
        return float(self._powers(size) @ self.coefficients)

    def ratio(self, size: float, to: float) -> Estimate:
        """y at `to` ÷ y at `size`, by its logarithm (delta method); the curve has to be positive at both."""
        below, above = self.at(size), self.at(to)
        half = self._half(self._powers(to) / above - self._powers(size) / below)
        mean = math.log(above / below)
        return Estimate(value=above / below, low=math.exp(mean - half), high=math.exp(mean + half))

    def constant_share(self, size: float) -> Estimate:
        """c₀ ÷ y at a size (delta method)."""
        whole = self.at(size)
        share = float(self.coefficients[0]) / whole
        half = self._half((self._powers(0.0) - share * self._powers(size)) / whole)
        return Estimate(value=share, low=share - half, high=share + half)

    def _powers(self, size: float) -> Any:
        return float(size) ** np.arange(len(self.coefficients))

    def _half(self, gradient: Any) -> float:
        """Half of the interval of what has this gradient by the coefficients."""
        variance = max(0.0, float(gradient @ self.covariance @ gradient))
        return _t(self.degrees_of_freedom) * math.sqrt(variance)


def curve(sizes: Sequence[float], values: Sequence[float], *, degree: int) -> Curve:
    """The curve of a degree through positive values, one for each size. ValueError where sizes are too few."""
    x, y = _checked(sizes, values, coefficients=degree + 1)
    weighted = np.vander(x, degree + 1, increasing=True) / y[:, None]
    # Columns of like size: powers of a width reach 10⁶.
    scale = np.linalg.norm(weighted, axis=0)
    inverse = np.linalg.pinv(weighted / scale)
    coefficients = inverse.sum(axis=1) / scale
    residuals = 1 - weighted @ coefficients
    free = len(x) - degree - 1
    variance = float(residuals @ residuals) / free
    absolute = residuals * y
    return Curve(
        coefficients=coefficients,
        covariance=variance * (inverse @ inverse.T) / np.outer(scale, scale),
        degrees_of_freedom=free,
        r_squared=1 - float(absolute @ absolute) / float(((y - y.mean()) ** 2).sum()),
        worst=float(np.abs(residuals).max()),
    )


def exponent(sizes: Sequence[float], values: Sequence[float]) -> Estimate:
    """b of y ∝ x^b: least squares of log y on log x."""
    x, y = _checked(sizes, values, coefficients=2)
    fit = stats.linregress(np.log(x), np.log(y))
    half = _t(len(x) - 2) * float(fit.stderr)
    return Estimate(value=float(fit.slope), low=float(fit.slope) - half, high=float(fit.slope) + half)


def judge(estimate: Estimate, *, low: float = -math.inf, high: float = math.inf) -> Verdict:
    """Whether the figure lies in [low, high], by its whole interval: across an end, that decides nothing."""
    if low <= estimate.low and estimate.high <= high:
        return "holds"
    return "doesn't hold" if estimate.high < low or high < estimate.low else "isn't decided"


def near(estimate: Estimate, claimed: float, *, tolerance: float) -> Verdict:
    """Whether a ratio is what is claimed, within a factor of 1 + `tolerance`."""
    return judge(estimate, low=claimed / (1 + tolerance), high=claimed * (1 + tolerance))


def near_power(estimate: Estimate, claimed: float, *, tolerance: float) -> Verdict:
    """Whether an exponent is what is claimed: by the factor for a doubling, within a factor of 1 + `tolerance`."""
    slack = math.log2(1 + tolerance)
    return judge(estimate, low=claimed - slack, high=claimed + slack)


def _checked(sizes: Sequence[float], values: Sequence[float], *, coefficients: int) -> tuple[Any, Any]:
    x, y = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    if len(set(sizes)) != len(sizes) or len(x) != len(y):
        raise ValueError(f"one value for each size: {list(sizes)}, {list(values)}")
    if len(x) <= coefficients:
        raise ValueError(f"{len(x)} sizes are too few for {coefficients} coefficients and their noise")
    if (y <= 0).any():
        raise ValueError("values have to be positive")
    return x, y


def _t(degrees_of_freedom: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))
