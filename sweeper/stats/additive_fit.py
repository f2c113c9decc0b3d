"""What seeds can tell: an additive least-squares fit, and the contrasts that it supports.

The model of an observed value is  y = treatment + block + noise,  noise independent with one variance
for all treatments. For loss a treatment is a config and a block a seed (initialisation and data order
depend on the seed alone, so that configs are compared in pairs); for log tokens/s the blocks soak up the
drift of a machine from one round of trials to the next. With X = [treatment dummies | block dummies],
β = X⁺y and s² = ‖y − Xβ‖² ÷ (n − rank X), a contrast c has variance s² · cᵀ(XᵀX)⁺c whether or not a
trial is missing (Searle, Linear Models, 1971, chapter 5; chapter 7 has the way by the blocks alone). In balanced data
this is the paired comparison: a difference of two means over n seeds has standard error s · √(2/n).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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

    def within(self, metric: str, margin: float) -> bool:
        """Whether the whole interval lies within ± `margin`: nats of val_loss, a fraction of a speed whose log this is.

        False without a noise estimate.
        """
        if self.low is None or self.high is None:
            return False
        ends = (self.low, self.high) if metric == "val_loss" else (math.expm1(self.low), math.expm1(self.high))
        return max(map(abs, ends)) <= margin


@dataclass(frozen=True, kw_only=True, eq=False)
class AdditiveFit:
    """A fit of y ~ treatment + block.

    `means` holds each treatment's mean adjusted to all blocks (the plain mean where nothing is missing). Its error,
    given these very blocks and in units of the noise, is `own` [treatments] × a standard normal value of its own +
    `loadings` [treatments, blocks − 1] × standard normal values that all treatments share. `variance` is None where
    no degree of freedom is left. `paired` is False where the blocks that treatments share don't connect them all:
    then blocks count as noise. `observations` are what was fitted, with their `residuals`. `copy_of` has other names of
    treatments, by which they are known as well.
    """

    treatments: tuple[str, ...]
    means: NDArray[np.float64] = field(repr=False)
    own: NDArray[np.float64] = field(repr=False)
    loadings: NDArray[np.float64] = field(repr=False)
    variance: float | None
    degrees_of_freedom: int
    paired: bool
    observations: tuple[Observation, ...] = field(repr=False)
    residuals: NDArray[np.float64] = field(repr=False)
    copy_of: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __contains__(self, treatment: object) -> bool:
        return treatment in self._index

    @cached_property
    def cofactors(self) -> NDArray[np.float64]:
        """[treatments, treatments]: times the residual variance, the covariance of the means."""
        return np.diag(self.own**2) + self.loadings @ self.loadings.T

    @cached_property
    def _index(self) -> dict[str, int]:
        own = {treatment: i for i, treatment in enumerate(self.treatments)}
        return own | {copy: own[treatment] for copy, treatment in self.copy_of.items() if treatment in own}

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
        half = studentized_range_quantile(CONFIDENCE, len(self.treatments), self.degrees_of_freedom) / math.sqrt(2)
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

    def resolved_range(self) -> tuple[float, float] | None:
        """Of any two treatments a smaller difference than the first is a tie, a larger one than the second none.

        t(0.975) × the least and the greatest standard error of a pair; one figure where each has as many values.
        """
        if self.variance is None or len(self.treatments) < 2:
            return None
        halves = self.quantile * self.all_differences(self.treatments)[1][np.triu_indices(len(self.treatments), k=1)]
        return float(halves.min()), float(halves.max())

    def minimum_detectable(self) -> float | None:
        """The true difference that is resolved with probability 0.8 or more, whatever the pair.

        (t(0.975) + t(0.8)) × the greatest standard error of a pair.
        """
        found = self.resolved_range()
        if found is None:
            return None
        return found[1] * (1 + t_quantile(POWER, self.degrees_of_freedom) / self.quantile)


def fit(observations: Sequence[Observation]) -> AdditiveFit:
    """Fit y ~ treatment + block by least squares; a cell may be empty or hold several observations.

    With D the treatments' counts, N those of cells and B the blocks', the blocks' effects β solve
    (B − NᵀD⁻¹N) β = y_blocks − NᵀD⁻¹ y_treatments: a system no larger than there are blocks.
    """
    treatments = tuple(dict.fromkeys(o.treatment for o in observations))
    blocks = tuple(dict.fromkeys(o.block for o in observations))
    y = np.array([o.value for o in observations], dtype=np.float64)
    of_treatment, of_block = _places([o.treatment for o in observations]), _places([o.block for o in observations])
    cells = np.zeros((len(treatments), len(blocks)))
    np.add.at(cells, (of_treatment, of_block), 1.0)
    counts = cells.sum(axis=1)
    paired = not treatments or _joined(cells)
    if not paired:
        cells = cells[:, :0]
    # A treatment's share of each block, less an even one: what takes the blocks' effects into its adjusted mean.
    uneven = 1 / max(cells.shape[1], 1) - cells / counts[:, None]
    plain = np.bincount(of_treatment, weights=y, minlength=len(treatments)) / counts
    effects, loadings = np.zeros(cells.shape[1]), np.zeros((len(treatments), 0))
    if cells.shape[1] > 1:
        of_blocks = np.bincount(of_block, weights=y, minlength=len(blocks)) - cells.T @ plain
        values, vectors = np.linalg.eigh(np.diag(cells.sum(axis=0)) - cells.T @ (cells / counts[:, None]))
        # The first value is 0: all blocks' effects up by one and all treatments' down by one is the same model.
        roots = vectors[:, 1:] / np.sqrt(values[1:])
        effects, loadings = roots @ (roots.T @ of_blocks), uneven @ roots
    means = plain + uneven @ effects
    fitted = means[of_treatment]
    if len(effects):
        fitted = fitted + (effects - effects.mean())[of_block]
    df = len(y) - len(treatments) - max(cells.shape[1] - 1, 0)
    return AdditiveFit(
        treatments=treatments,
        # Rounded past all meaning, so that equal data make equal means whatever the solver's last bits.
        means=np.round(means, 12),
        own=1 / np.sqrt(counts),
        loadings=loadings,
        variance=float((y - fitted) @ (y - fitted)) / df if df > 0 else None,
        degrees_of_freedom=df,
        paired=paired,
        observations=tuple(observations),
        residuals=y - fitted,
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


def _places(values: Sequence[str]) -> NDArray[np.intp]:
    """Of each value the number of its first occurrence among distinct ones."""
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}
    return np.array([places[value] for value in values], dtype=np.intp)


def _joined(cells: NDArray[np.float64]) -> bool:
    """Whether shared blocks connect all treatments, from one to the next. `cells` counts [treatments, blocks]."""
    reached = cells[0] > 0
    while True:
        further = (cells[(cells[:, reached] > 0).any(axis=1)] > 0).any(axis=0)
        if (further == reached).all():
            return bool(further.all())
        reached = further
