"""What seeds can tell: an additive least-squares fit, and the contrasts that it supports.

The model of an observed value is  y = treatment + block + noise,  noise independent with one variance
for all treatments. For loss a treatment is a config and a block a seed (initialisation and data order
depend on the seed alone, so that configs are compared in pairs); for log tokens/s the blocks soak up the
drift of a machine from one round of trials to the next. With X = [treatment dummies | block dummies],
β = X⁺y and s² = ‖y − Xβ‖² ÷ (n − rank X), a contrast c has variance s² · cᵀ(XᵀX)⁺c whether or not a
trial is missing (Searle, Linear Models, 1971, chapter 5). In balanced data this is the paired comparison:
a difference of two means over n seeds has standard error s · √(2/n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One measured value of one treatment in one block."""

    treatment: str
    block: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A contrast of means with its 95% interval; all but `value` are None without a noise estimate."""

    value: float
    standard_error: float | None
    low: float | None
    high: float | None

    @property
    def resolved(self) -> bool | None:
        """Whether the interval leaves out zero; None without a noise estimate."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True, eq=False)
class AdditiveFit:
    """A fit of y ~ treatment + block.

    `means` holds each treatment's mean adjusted to all blocks (the plain mean where nothing is missing);
    `cofactors` [treatments, treatments] times the residual variance is their covariance, given these very
    blocks; `variance` is None where no degree of freedom is left. `paired` is False where the blocks that
    treatments share don't connect them all: then blocks count as noise.
    """

    treatments: tuple[str, ...]
    means: NDArray[np.float64] = field(repr=False)
    cofactors: NDArray[np.float64] = field(repr=False)
    variance: float | None
    degrees_of_freedom: int
    paired: bool

    @cached_property
    def _index(self) -> dict[str, int]:
        return {treatment: i for i, treatment in enumerate(self.treatments)}

    @cached_property
    def quantile(self) -> float:
        """Half of a 95% interval ÷ its standard error, for one comparison."""
        return t_quantile(0.5 + CONFIDENCE / 2, self.degrees_of_freedom)

    def mean(self, treatment: str) -> Difference:
        """The treatment's adjusted mean, with the interval that noise alone (not the blocks) gives it."""
        i = self._index[treatment]
        return self._interval(float(self.means[i]), float(self.cofactors[i, i]))

    def difference(self, a: str, b: str) -> Difference:
        """Mean of `a` less mean of `b`, with its paired standard error and 95% interval."""
        i, j = self._index[a], self._index[b]
        cofactor = self.cofactors[i, i] + self.cofactors[j, j] - 2 * self.cofactors[i, j]
        return self._interval(float(self.means[i] - self.means[j]), float(cofactor))

    def simultaneous_difference(self, a: str, b: str) -> Difference:
        """`difference` with an interval that holds for all pairs at once: for pairs that are picked after looking.

        Tukey–Kramer: q(0.95; treatments, degrees of freedom) ÷ √2 in the place of t(0.975).
        """
        one = self.difference(a, b)
        if one.standard_error is None:
            return one
        half = studentized_range_quantile(CONFIDENCE, len(self.treatments), self.degrees_of_freedom) / np.sqrt(2)
        half *= one.standard_error
        return Difference(
            value=one.value, standard_error=one.standard_error, low=one.value - half, high=one.value + half
        )

    def all_differences(self, treatments: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[n, n] each: the mean of one less that of another, and its standard error. There is an estimate of noise."""
        assert self.variance is not None
        at = [self._index[treatment] for treatment in treatments]
        means, cofactors = self.means[at], self.cofactors[np.ix_(at, at)]
        own = np.diagonal(cofactors)
        between = np.clip(own[:, None] + own - 2 * cofactors, 0.0, None)
        return means[:, None] - means, np.sqrt(self.variance * between)

    def _interval(self, value: float, cofactor: float) -> Difference:
        if self.variance is None:
            return Difference(value=value, standard_error=None, low=None, high=None)
        error = float(np.sqrt(self.variance * max(cofactor, 0.0)))
        half = self.quantile * error
        return Difference(value=value, standard_error=error, low=value - half, high=value + half)

    @property
    def residual_sd(self) -> float | None:
        """The noise of one observation, in the unit of the values."""
        return None if self.variance is None else float(np.sqrt(self.variance))

    def typical_standard_error(self) -> float | None:
        """Root mean square, over all pairs of treatments, of the standard error of their difference."""
        n = len(self.treatments)
        if self.variance is None or n < 2:
            return None
        # Over ordered pairs i ≠ j the mean of C_ii + C_jj − 2 C_ij is 2 (n·tr C − ΣC) ÷ (n (n − 1)).
        total = 2 * (n * np.trace(self.cofactors) - self.cofactors.sum()) / (n * (n - 1))
        return float(np.sqrt(self.variance * max(float(total), 0.0)))

    def smallest_resolved(self) -> float | None:
        """A difference smaller than this is a tie: t(0.975) × the typical standard error."""
        error = self.typical_standard_error()
        return None if error is None else self.quantile * error

    def minimum_detectable(self) -> float | None:
        """The true difference that is resolved with probability 0.8: (t(0.975) + t(0.8)) × standard error."""
        error = self.typical_standard_error()
        if error is None:
            return None
        return (self.quantile + t_quantile(POWER, self.degrees_of_freedom)) * error


def fit(observations: Sequence[Observation]) -> AdditiveFit:
    """Fit y ~ treatment + block by least squares; a cell may be empty or hold several observations."""
    treatments = tuple(dict.fromkeys(o.treatment for o in observations))
    blocks = tuple(dict.fromkeys(o.block for o in observations))
    y = np.array([o.value for o in observations], dtype=np.float64)
    of_treatment = _dummies([o.treatment for o in observations], treatments)
    design = np.hstack([of_treatment, _dummies([o.block for o in observations], blocks)])
    paired = not treatments or _rank(design) == len(treatments) + len(blocks) - 1
    n_blocks = len(blocks) if paired else 0
    if not paired:
        design = of_treatment
    # Row i of `to_means` takes treatment i's coefficient and the average of all blocks' coefficients.
    to_means = np.hstack([np.eye(len(treatments)), np.full((len(treatments), n_blocks), 1 / max(n_blocks, 1))])
    coefficients = np.linalg.pinv(design) @ y
    df = len(y) - _rank(design)
    residual = y - design @ coefficients
    return AdditiveFit(
        treatments=treatments,
        # Rounded past all meaning, so that equal data make equal means whatever the solver's last bits.
        means=np.round(to_means @ coefficients, 12),
        cofactors=to_means @ np.linalg.pinv(design.T @ design) @ to_means.T,
        variance=float(residual @ residual) / df if df > 0 else None,
        degrees_of_freedom=df,
        paired=paired,
    )


def t_quantile(probability: float, degrees_of_freedom: float) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, probability))


@cache
def studentized_range_quantile(probability: float, groups: int, degrees_of_freedom: float) -> float:
    """The quantile of the range of `groups` standard normal values ÷ an independent √(χ²(ν) ÷ ν), to 5 digits.

    scipy.stats.studentized_range has the same, but takes two seconds to load and 0.2 s each. The probability of a range
    below w is k ∫ φ(z) (Φ(z) − Φ(z − w))ᵏ⁻¹ dz (Hartley, Biometrika 32, 1942); over the divisor, by Gauss–Legendre.
    """
    from scipy.optimize import brentq
    from scipy.special import chdtri, ndtr

    z = np.linspace(-8, 8, 161)
    density, below = np.exp(-z * z / 2) * (0.1 / np.sqrt(2 * np.pi)), ndtr(z)
    nodes, weights = np.polynomial.legendre.leggauss(96)
    divisors = np.sqrt(chdtri(degrees_of_freedom, (1 - nodes) / 2) / degrees_of_freedom)

    def excess(q: float) -> float:
        inside = below - ndtr(z - q * divisors[:, None])
        return float(groups * (weights / 2) @ (inside ** (groups - 1) @ density)) - probability

    return float(brentq(excess, 1e-6, 1e4, xtol=1e-9))


def _rank(matrix: NDArray[np.float64]) -> int:
    return int(np.linalg.matrix_rank(matrix)) if matrix.size else 0


def _dummies(values: Sequence[str], levels: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[float(value == level) for level in levels] for value in values]).reshape(len(values), len(levels))
