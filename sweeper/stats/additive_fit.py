"""What seeds can tell: an additive least-squares fit, and the contrasts that it supports.

The model of an observed value is  y = treatment + block + noise,  noise independent with one variance
for all treatments. For loss a treatment is a config and a block a seed (initialisation and data order
depend on the seed alone, so that configs are compared in pairs); for log tokens/s the blocks soak up the
drift of a machine from one round of trials to the next. With X = [treatment dummies | block dummies],
β = X⁺y and s² = ‖y − Xβ‖² ÷ (n − rank X), a contrast c has variance s² · cᵀ(XᵀX)⁺c whether or not a
trial is missing (Searle, Linear Models, 1971, chapter 5; chapter 7 has the way by the blocks alone). In balanced data
this is the paired comparison: a difference of two means over n seeds has standard error s · √(2/n).

Where treatments are known to be of several variance classes (`sweeper.stats.variance_classes`), values are weighted by
one over their variance, and a contrast has the degrees of freedom of Welch and Satterthwaite.

The interval of a difference is the wider of two: that of the fit, t(0.975) × its standard error, and that of the pair's
own differences in the n blocks they share, t(0.9; n − 1) × their sd ÷ √n. So a difference is claimed where the pooled
test says so at 95% and the pair's own paired t, one-sided at 90%, bears it out: the first alone errs often where one of
the two is noisier than the rest. Of a winner and its runner-up no further adjustment is needed (Hung and Fithian,
Rank verification for exponential families, Annals of Statistics 47, 2019, arXiv 1610.03944).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from sweeper.stats.welch import summed

CONFIDENCE = 0.95
OWN_CONFIDENCE = 0.9
"""One-sided, of the paired t of the two that are compared."""
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
    then blocks count as noise. `copy_of` has other names of treatments, by which they are known as well.

    `scales` [treatments]: the sd of a value of each, in units of the root of `variance`; `class_df` [treatments] the
    degrees of freedom of each one's variance (all those of the fit, where there is one class). `observations` are what
    was fitted, with their `residuals` and `leverages`, the diagonal of the matrix that makes fitted values of values.
    """

    treatments: tuple[str, ...]
    means: NDArray[np.float64] = field(repr=False)
    own: NDArray[np.float64] = field(repr=False)
    loadings: NDArray[np.float64] = field(repr=False)
    variance: float | None
    degrees_of_freedom: int
    paired: bool
    scales: NDArray[np.float64] = field(repr=False)
    class_df: NDArray[np.float64] = field(repr=False)
    observations: tuple[Observation, ...] = field(repr=False)
    residuals: NDArray[np.float64] = field(repr=False)
    leverages: NDArray[np.float64] = field(repr=False)
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

    @property
    def one_class(self) -> bool:
        """Whether all treatments have the same variance."""
        return bool((self.scales == 1.0).all() and (self.class_df == self.degrees_of_freedom).all())

    def pair_df(self, i: int, j: int) -> float:
        """The degrees of freedom of the variance of a difference between two treatments, by their places."""
        if self.class_df[i] == self.class_df[j]:
            return float(self.class_df[i])
        parts = [(float(self.own[k] ** 2), float(self.class_df[k])) for k in (i, j)]
        return summed(parts)[1]

    def sd(self, treatment: str) -> float | None:
        """The noise of one value of the treatment, in the unit of the values; None without an estimate."""
        return None if self.variance is None else float(np.sqrt(self.variance) * self.scales[self._index[treatment]])

    def mean(self, treatment: str) -> Difference:
        """The treatment's adjusted mean, with the interval that noise alone (not the blocks) gives it."""
        i = self._index[treatment]
        return self._interval(float(self.means[i]), float(self.cofactors[i, i]), float(self.class_df[i]))

    def difference(self, a: str, b: str) -> Difference:
        """Mean of `a` less mean of `b`, with its pooled standard error and the wider of the two intervals."""
        i, j = self._index[a], self._index[b]
        one = self.pooled_difference(a, b)
        if one.high is None:
            return one
        half = max(one.high - one.value, float(self._own_halves(i)[j]))
        return replace(one, low=one.value - half, high=one.value + half)

    def pooled_difference(self, a: str, b: str) -> Difference:
        """`difference` with the interval of the pooled fit alone."""
        i, j = self._index[a], self._index[b]
        cofactor = self.cofactors[i, i] + self.cofactors[j, j] - 2 * self.cofactors[i, j]
        return self._interval(float(self.means[i] - self.means[j]), float(cofactor), self.pair_df(i, j))

    def simultaneous_difference(self, a: str, b: str) -> Difference:
        """`difference` with an interval that holds for all pairs at once: for pairs that are picked after looking.

        Tukey–Kramer: q(0.95; treatments, degrees of freedom) ÷ √2 in the place of t(0.975); over several classes with
        the pair's own degrees of freedom (Games and Howell, Journal of Educational Statistics 1, 1976).
        """
        one = self.difference(a, b)
        if one.standard_error is None or one.high is None:
            return one
        df = self.pair_df(self._index[a], self._index[b])
        half = studentized_range_quantile(CONFIDENCE, len(self.treatments), df) / math.sqrt(2)
        half = max(half * one.standard_error, one.high - one.value)
        return replace(one, low=one.value - half, high=one.value + half)

    def all_differences(self, treatments: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[n, n] each: the mean of one less that of another, and its standard error. There is an estimate of noise."""
        assert self.variance is not None
        at = [self._index[treatment] for treatment in treatments]
        means, cofactors = self.means[at], self.cofactors[np.ix_(at, at)]
        own = np.diagonal(cofactors)
        between = np.clip(own[:, None] + own - 2 * cofactors, 0.0, None)
        return means[:, None] - means, np.sqrt(self.variance * between)

    def all_halves(self, treatments: Sequence[str]) -> NDArray[np.float64]:
        """[n, n]: half of the interval of each difference, as `difference` has it."""
        _, errors = self.all_differences(treatments)
        at = np.array([self._index[treatment] for treatment in treatments])
        pooled = self.all_quantiles(treatments, 0.5 + CONFIDENCE / 2) * errors
        own = np.array([self._own_halves(i)[at] for i in at.tolist()])
        halves: NDArray[np.float64] = np.maximum(pooled, own)
        return halves

    @cached_property
    def _cell_means(self) -> NDArray[np.float64]:
        """[treatments, blocks]: NaN where a cell is empty; without blocks where these count as noise."""
        blocks = _places([o.block for o in self.observations])
        if not self.paired:
            return np.full((len(self.treatments), 0), np.nan)
        treatments = np.array([self._index[o.treatment] for o in self.observations], dtype=np.intp)
        sums, counts = np.zeros((2, len(self.treatments), int(blocks.max(initial=-1)) + 1))
        np.add.at(sums, (treatments, blocks), [o.value for o in self.observations])
        np.add.at(counts, (treatments, blocks), 1.0)
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)

    @cached_property
    def _known_halves(self) -> dict[int, NDArray[np.float64]]:
        return {}

    def _own_halves(self, i: int) -> NDArray[np.float64]:
        """[treatments]: half of the interval of differences paired with `i`; 0 with fewer than two blocks in common."""
        if i not in self._known_halves:
            self._known_halves[i] = self._paired_halves(self._cell_means - self._cell_means[i])
        return self._known_halves[i]

    @staticmethod
    def _paired_halves(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n]: of `gaps` [n, blocks], NaN where one of the two is missing."""
        from scipy.special import stdtrit

        shared = ~np.isnan(gaps)
        n = shared.sum(axis=1)
        enough = np.maximum(n, 2)
        gaps = np.where(shared, gaps, 0.0)
        centred = np.where(shared, gaps - (gaps.sum(axis=1) / np.maximum(n, 1))[:, None], 0.0)
        errors = np.sqrt((centred**2).sum(axis=1) / (enough - 1) / enough)
        return np.where(n > 1, stdtrit(enough - 1, OWN_CONFIDENCE) * errors, 0.0)

    def all_quantiles(self, treatments: Sequence[str], probability: float) -> NDArray[np.float64]:
        """[n, n]: the quantile of t for the difference of each pair, with the pair's own degrees of freedom."""
        from scipy.special import stdtrit

        at = [self._index[treatment] for treatment in treatments]
        own, df = self.own[at] ** 2, self.class_df[at]
        pairs = (own[:, None] + own) ** 2 / (own[:, None] ** 2 / df[:, None] + own**2 / df)
        quantiles: NDArray[np.float64] = stdtrit(np.where(df[:, None] == df, df, pairs), probability)
        return quantiles

    def _interval(self, value: float, cofactor: float, df: float) -> Difference:
        if self.variance is None:
            return Difference(value=value, standard_error=None, low=None, high=None)
        error = float(np.sqrt(self.variance * max(cofactor, 0.0)))
        half = t_quantile(0.5 + CONFIDENCE / 2, df) * error
        return Difference(value=value, standard_error=error, low=value - half, high=value + half)

    @property
    def residual_sd(self) -> float | None:
        """The noise of one observation, in the unit of the values; of several classes that of the largest."""
        return None if self.variance is None else float(np.sqrt(self.variance))

    def resolved_range(self) -> tuple[float, float] | None:
        """Of any two treatments a smaller difference than the first is a tie, a larger one than the second none.

        The least and the greatest half of `difference`'s intervals.
        """
        if self.variance is None or len(self.treatments) < 2:
            return None
        halves = self.all_halves(self.treatments)[np.triu_indices(len(self.treatments), k=1)]
        return float(halves.min()), float(halves.max())

    def minimum_detectable(self) -> float | None:
        """The true difference of any pair that `difference` resolves with probability 0.8 or more."""
        if self.variance is None or len(self.treatments) < 2:
            return None
        greatest = float(self.all_differences(self.treatments)[1].max())
        blocks = round(len(self.observations) / len(self.treatments)) if self.paired else 1
        times = detectable(self.degrees_of_freedom, min(blocks, self.degrees_of_freedom + 1))
        return greatest * times


def fit(
    observations: Sequence[Observation],
    *,
    scales: Mapping[str, float] | None = None,
    class_df: Mapping[str, float] | None = None,
) -> AdditiveFit:
    """Fit y ~ treatment + block by least squares; a cell may be empty or hold several observations.

    With D the treatments' counts, N those of cells and B the blocks', the blocks' effects β solve
    (B − NᵀD⁻¹N) β = y_blocks − NᵀD⁻¹ y_treatments: a system no larger than there are blocks. `scales`, by treatment,
    are relative sds of its values, of which each then counts 1 ÷ scale² times; `class_df` is passed on.
    """
    treatments = tuple(dict.fromkeys(o.treatment for o in observations))
    blocks = tuple(dict.fromkeys(o.block for o in observations))
    y = np.array([o.value for o in observations], dtype=np.float64)
    of_treatment, of_block = _places([o.treatment for o in observations]), _places([o.block for o in observations])
    scale = np.ones(len(treatments)) if scales is None else np.array([scales[treatment] for treatment in treatments])
    weights = 1 / scale[of_treatment] ** 2
    cells = np.zeros((len(treatments), len(blocks)))
    np.add.at(cells, (of_treatment, of_block), weights)
    counts = cells.sum(axis=1)
    paired = not treatments or _joined(cells)
    if not paired:
        cells = cells[:, :0]
    # A treatment's share of each block, less an even one: what takes the blocks' effects into its adjusted mean.
    shares = cells / counts[:, None]
    uneven = 1 / max(cells.shape[1], 1) - shares
    plain = np.bincount(of_treatment, weights=weights * y, minlength=len(treatments)) / counts
    effects, loadings = np.zeros(cells.shape[1]), np.zeros((len(treatments), 0))
    leverages = weights / counts[of_treatment]
    if cells.shape[1] > 1:
        of_blocks = np.bincount(of_block, weights=weights * y, minlength=len(blocks)) - cells.T @ plain
        values, vectors = np.linalg.eigh(np.diag(cells.sum(axis=0)) - cells.T @ shares)
        # The first value is 0: all blocks' effects up by one and all treatments' down by one is the same model.
        roots = vectors[:, 1:] / np.sqrt(values[1:])
        effects, loadings = roots @ (roots.T @ of_blocks), uneven @ roots
        leverages = leverages + weights * ((roots[of_block] - (shares @ roots)[of_treatment]) ** 2).sum(axis=1)
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
        variance=float(weights @ (y - fitted) ** 2) / df if df > 0 else None,
        degrees_of_freedom=df,
        paired=paired,
        scales=scale,
        class_df=np.array([float(df) if class_df is None else class_df[treatment] for treatment in treatments]),
        observations=tuple(observations),
        residuals=y - fitted,
        leverages=leverages,
    )


def t_quantile(probability: float, degrees_of_freedom: float) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, probability))


@cache
def detectable(degrees_of_freedom: int, blocks: int) -> float:
    """The true difference, in standard errors, that both intervals leave zero out of with probability 0.8.

    The pair's own sum of squares, χ²(blocks − 1), is a part of the pooled χ²(ν); given both the mean difference is
    normal. Its chance to be above both halves is integrated over them by Gauss–Legendre.
    """
    from scipy.optimize import brentq
    from scipy.special import chdtri, ndtr

    nodes, weights = np.polynomial.legendre.leggauss(48)
    own_df, rest_df = blocks - 1, degrees_of_freedom - blocks + 1
    own, rest = (chdtri(df, (1 - nodes) / 2) if df > 0 else np.zeros_like(nodes) for df in (own_df, rest_df))
    pooled = t_quantile(0.5 + CONFIDENCE / 2, degrees_of_freedom)
    least = pooled * np.sqrt((own[:, None] + rest) / degrees_of_freedom)
    if own_df > 0:
        least = np.maximum(least, t_quantile(OWN_CONFIDENCE, own_df) * np.sqrt(own / own_df)[:, None])

    def excess(difference: float) -> float:
        return float((weights / 2) @ ndtr(difference - least) @ (weights / 2)) - POWER

    return float(brentq(excess, 0.0, 1e3, xtol=1e-9))


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
