"""Several values of each trial, at lengths of its training: their means, and what their noise has in common.

The model of each occasion is the additive one of `sweeper.stats.additive_fit`, with one design for all occasions. So
their means have the covariance cofactors ⊗ Σ, where Σ = EᵀE ÷ ν follows from the residuals E [trials, occasions]
(Mardia, Kent, Bibby, Multivariate Analysis, 1979, §6.6). That is given these very blocks, whose effects cancel where
treatments are compared on one occasion. Across occasions they don't: the blocks' means over k treatments vary by
Ω + Σ ÷ k, from which Ω, the covariance of a block's effects, is estimated (Searle, Linear Models, 1971, chapter 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sweeper.stats.additive_fit import AdditiveFit, Observation, fit


@dataclass(frozen=True, kw_only=True, eq=False)
class RepeatedFit:
    """`means` [treatments, occasions], adjusted to all blocks; `covariance` [occasions, occasions] of a trial's noise.

    `covariance` is None where no degree of freedom is left. `of_blocks` [occasions, occasions] is that of a block's
    effects, zero of a single block. `design` is the fit of the first occasion: its cofactors are those of all.
    """

    design: AdditiveFit = field(repr=False)
    means: NDArray[np.float64]
    covariance: NDArray[np.float64] | None
    of_blocks: NDArray[np.float64]
    blocks: int

    @property
    def treatments(self) -> tuple[str, ...]:
        """In the order of `means`."""
        return self.design.treatments

    @property
    def degrees_of_freedom(self) -> int:
        """Of the covariance."""
        return self.design.degrees_of_freedom

    def cofactor(self, i: int, j: int) -> float:
        """Of treatments `i` and `j` by number: times `covariance`, the covariance of their means."""
        own = float(self.design.own[i]) ** 2 if i == j else 0.0
        return own + float(self.design.loadings[i] @ self.design.loadings[j])


def fit_repeated(treatments: Sequence[str], blocks: Sequence[str], values: NDArray[np.float64]) -> RepeatedFit:
    """Of trials with `treatments` and `blocks` [trials each], `values` [trials, occasions]."""

    def of(column: NDArray[np.float64]) -> AdditiveFit:
        cells = zip(treatments, blocks, column.tolist(), strict=True)
        return fit([Observation(treatment=one, block=block, value=value) for one, block, value in cells])

    occasions = values.shape[1]
    fits = [of(values[:, place]) for place in range(occasions)]
    covariance: NDArray[np.float64] | None = None
    if (variances := [one.variance for one in fits if one.variance is not None]) and len(variances) == occasions:
        covariance = np.diag(variances)
        for i, j in zip(*np.triu_indices(occasions, k=1), strict=True):
            both = of(values[:, i] + values[:, j]).variance
            assert both is not None
            covariance[i, j] = covariance[j, i] = (both - variances[i] - variances[j]) / 2
    means = np.stack([one.means for one in fits], axis=1)
    place = {treatment: i for i, treatment in enumerate(fits[0].treatments)}
    left = values - means[[place[treatment] for treatment in treatments]]
    return RepeatedFit(
        design=fits[0],
        means=means,
        covariance=covariance,
        of_blocks=_of_blocks(blocks, left, covariance),
        blocks=len(set(blocks)),
    )


def _of_blocks(
    blocks: Sequence[str], left: NDArray[np.float64], covariance: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Ω from what the treatments' means leave, without the directions in which noise alone explains the blocks."""
    named = sorted(set(blocks))
    if len(named) < 2 or covariance is None:
        return np.zeros((left.shape[1],) * 2)
    own = [left[[block == name for block in blocks]] for name in named]
    between = np.atleast_2d(np.cov(np.array([one.mean(axis=0) for one in own]), rowvar=False))
    noise = covariance * float(np.mean([1 / len(one) for one in own]))
    values, vectors = np.linalg.eigh(between - noise)
    return np.asarray((vectors * np.clip(values, 0.0, None)) @ vectors.T)
