"""Treatments of unequal noise: classes of equal variance, by what is recorded of each treatment or one by one.

The model is  y = treatment + block + σ_c(treatment) · noise.  With residuals r and leverages h of the weighted fit,
s_c² = Σ r² ÷ Σ (1 − h) over the values of a class, with as many degrees of freedom as its denominator; weights and
variances are iterated to a fixed point, which is restricted maximum likelihood (Patterson and Thompson, Biometrika 58,
1971; as iterated MINQUE in Rao and Kleffe, Estimation of Variance Components, 1988, chapter 9).

Whether some treatments of a class are noisier than the rest is tested by what their values add to the residual sum of
squares of a fit without them: added ÷ its degrees of freedom ÷ the rest's variance is F(added, rest's) under equal
variances, exactly so where nothing else was split before (Chow, Econometrica 28, 1960). Candidates are of two kinds: by
a covariate (values up to a threshold, or above it; for words one, or all others), with two treatments on either side
at least; and one treatment alone. A p-value is multiplied by the number of candidates of its kind (Bonferroni); the
smallest is taken where it is below USED or SIGNIFICANT, and the search goes on within the classes, where a covariate
that has made a split before is tried against its own splits alone. So where all are equal, a class by a covariate is
made in at most one study of ten, one of single treatments in one of twenty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeper.stats.additive_fit import AdditiveFit, fit

USED, SIGNIFICANT = 0.1, 0.05
"""Below these corrected p-values a split by a covariate is used, and a noisy treatment is named."""
MOST_NOISY = 3
"""So many treatments of a class are named together at most."""
LEAST_DF = 0.5
"""A side of a split has so many degrees of freedom at least: one trial alone says nothing of its noise."""
MOST_CLASSES = 8
MOST_TESTED = 12
"""Of a class's splits by covariates, those that are tested."""
MOST_LEVELS = 24
"""Of a covariate with more levels than that, so many of them are thresholds, evenly among them."""
ITERATIONS = 50
SMALLEST = 1e-6
"""A class's sd ÷ the largest class's is at least this, so that trials that agree to the last digit weigh no more."""

Covariates = Mapping[str, Sequence[float | str | bool | None]]
"""By name, a value for each treatment of a fit, in its order."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Treatments whose values are noisier or quieter than the others of the class that they were split from.

    `covariate` is None where it's one treatment alone, for nothing that is recorded. `sd_ratio` is of the two sides'
    sds, `p` that of the test, corrected for the number of splits tried.
    """

    treatments: tuple[str, ...]
    others: tuple[str, ...]
    covariate: str | None
    sd_ratio: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A fit with a variance for each class, and the splits that made them; none where one variance does for all."""

    fitted: AdditiveFit
    splits: tuple[Split, ...]

    @property
    def noisy(self) -> tuple[Split, ...]:
        """Single treatments that are noisier than the others for no recorded reason."""
        return tuple([split for split in self.splits if split.covariate is None])


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A part of a class that may be the noisier; `tries` is how many of its kind there are."""

    covariate: str | None
    side: frozenset[int]
    tries: float


def with_classes(fitted: AdditiveFit, covariates: Covariates, *, alone: bool = True) -> Classes:
    """`fitted`, of one variance, again with as many as its residuals ask for; itself where that is one.

    Not `alone`: by covariates only.
    """
    groups: list[frozenset[int]] = [frozenset(range(len(fitted.treatments)))]
    found: list[Split] = []
    one = fitted
    while one.variance and len(groups) < MOST_CLASSES:
        proven = {split.covariate for split in found if split.covariate is not None}
        best = _best_split(one, groups, covariates, alone=alone, proven=proven)
        if best is None:
            break
        place, candidate, ratio, p = best
        group = groups[place]
        groups[place : place + 1] = [group - candidate.side, candidate.side]
        names = [tuple([one.treatments[i] for i in sorted(side)]) for side in (candidate.side, group - candidate.side)]
        found.append(
            Split(treatments=names[0], others=names[1], covariate=candidate.covariate, sd_ratio=ratio**0.5, p=p)
        )
        one = _fit_of_groups(one, groups)
    return Classes(fitted=one, splits=tuple(found))


def _fit_of_groups(before: AdditiveFit, groups: Sequence[frozenset[int]]) -> AdditiveFit:
    """The fit with a variance for each group, from the scales of `before` on."""
    treatments = before.treatments
    group_of = np.empty(len(treatments), dtype=np.intp)
    for number, group in enumerate(groups):
        group_of[sorted(group)] = number
    largest = int(np.argmax([len(group) for group in groups]))
    one, scales = before, before.scales
    for _ in range(ITERATIONS):
        squares, df = _sums(one, group_of, len(groups))
        sds = np.sqrt(squares / df)
        sds = np.maximum(sds / sds.max(), SMALLEST)
        last, scales = scales, (sds / sds[largest])[group_of]
        one = fit(
            one.observations,
            scales=dict(zip(treatments, scales.tolist(), strict=True)),
            class_df=dict(zip(treatments, df[group_of].tolist(), strict=True)),
        )
        if np.allclose(scales, last, rtol=1e-4):
            break
    return one


def _sums(one: AdditiveFit, group_of: NDArray[np.intp], groups: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[groups] each: the sum of squared residuals, in the values' own unit, and the degrees of freedom."""
    place = {treatment: i for i, treatment in enumerate(one.treatments)}
    of = group_of[[place[o.treatment] for o in one.observations]]
    squares, df = np.zeros((2, groups))
    np.add.at(squares, of, one.residuals**2)
    np.add.at(df, of, np.clip(1 - one.leverages, 0.0, None))
    return squares, df


def _best_split(
    one: AdditiveFit, groups: Sequence[frozenset[int]], covariates: Covariates, *, alone: bool, proven: Set[str]
) -> tuple[int, _Candidate, float, float] | None:
    """The split with the smallest corrected p-value, where that is significant: its group's place, ratio and p."""
    squares, df = _sums(one, np.arange(len(one.treatments)), len(one.treatments))
    mean_squares = squares / np.maximum(df, LEAST_DF)
    best: tuple[int, _Candidate, float, float] | None = None
    for place, group in enumerate(groups):
        by_themselves = _by_themselves(group, mean_squares) if alone else []
        for candidate in (*_by_covariates(group, covariates, mean_squares, proven), *by_themselves):
            tested = _tested(one, group, candidate.side)
            if tested is None:
                continue
            places = 1 if candidate.covariate in proven else len(groups)
            ratio, p = tested[0], min(1.0, tested[1] * candidate.tries * places)
            significant = SIGNIFICANT if candidate.covariate is None else USED
            if p < significant and (best is None or p < best[3]):
                best = (place, candidate, ratio, p)
    return best


def _tested(one: AdditiveFit, group: frozenset[int], side: frozenset[int]) -> tuple[float, float] | None:
    """Whether `side` is noisier than the rest of its group: the ratio of the variances, and p. None without a test."""
    from scipy.special import fdtrc

    left_out = {one.treatments[i] for i in side}
    rest = {one.treatments[i] for i in group - side}
    kept = [o for o in one.observations if o.treatment not in left_out]
    scales = dict(zip(one.treatments, one.scales.tolist(), strict=True))
    without = fit(kept, scales=scales)
    df = one.degrees_of_freedom - without.degrees_of_freedom
    if df <= 0 or not without.variance or not one.variance or without.paired != one.paired:
        return None
    of_rest = np.array([o.treatment in rest for o in kept])
    weights = np.array([1 / scales[o.treatment] ** 2 for o in kept])
    rest_squares = float((weights * without.residuals**2)[of_rest].sum())
    rest_df = float((1 - without.leverages)[of_rest].sum())
    own = (one.variance * one.degrees_of_freedom - without.variance * without.degrees_of_freedom) / df
    if rest_df < LEAST_DF or rest_squares <= 0:
        return None
    ratio = own / (rest_squares / rest_df)
    return ratio, float(fdtrc(df, rest_df, ratio))


def _by_covariates(
    group: frozenset[int], covariates: Covariates, mean_squares: NDArray[np.float64], proven: Set[str]
) -> list[_Candidate]:
    """Of the different sides of splits by a covariate the MOST_TESTED that seem the noisiest."""
    sides: dict[frozenset[int], str] = {}
    for name in sorted(covariates, key=lambda name: name not in proven):
        for side in _sides(group, covariates[name]):
            for one in (side, group - side):
                if 2 <= len(one) <= len(group) - 2:
                    sides.setdefault(one, name)
    noisiest = sorted(sides, key=lambda side: -float(mean_squares[sorted(side)].mean()))[:MOST_TESTED]
    tries = {name: sum(other in proven for other in sides.values()) for name in proven}
    return [_Candidate(covariate=sides[side], side=side, tries=tries.get(sides[side], len(sides))) for side in noisiest]


def _by_themselves(group: frozenset[int], mean_squares: NDArray[np.float64]) -> list[_Candidate]:
    """The noisiest treatment, the noisiest two, and so on up to a quarter of the group, MOST_NOISY at most."""
    if len(group) < 3:
        return []
    ordered = sorted(group, key=lambda i: (-mean_squares[i], i))
    most = min(MOST_NOISY, max(1, len(group) // 4))
    # The share of SIGNIFICANT for each number: two thirds for a single one.
    shares = [1.0] if most == 1 else [2 / 3] + [1 / (3 * (most - 1))] * (most - 1)
    return [
        _Candidate(covariate=None, side=frozenset(ordered[:m]), tries=math.comb(len(group), m) / shares[m - 1])
        for m in range(1, most + 1)
    ]


def _sides(group: frozenset[int], values: Sequence[float | str | bool | None]) -> list[frozenset[int]]:
    """Those up to each value; of words those with each one."""
    own = {values[i] for i in group}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in own):
        levels = sorted(own)  # type: ignore[type-var]
        every = max(1, math.ceil(len(levels) / MOST_LEVELS))
        return [frozenset(i for i in group if values[i] <= level) for level in levels[every - 1 :: every]]  # type: ignore[operator]
    words = sorted(own, key=str)[:MOST_LEVELS]
    return [frozenset(i for i in group if values[i] == value) for value in words]
