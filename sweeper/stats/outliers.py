"""Single values that don't belong to the rest: externally studentised residuals.

With residual r, leverage h, s_(i)² the variance of the fit without value i and ν − 1 its degrees of freedom,
t = r ÷ (s_(i) √(1 − h)) is Student's t under the model (Cook and Weisberg, Residuals and Influence in Regression, 1982,
§2.2.1). The largest of N is tested at p × N (Bonferroni), which is close to exact for the largest of a two-way table
(Stefansky, Technometrics 14, 1972).

A value in a class of treatments that is noisier by a covariate (`sweeper.stats.variance_classes`) is none for being far
off: where the split has the smaller corrected p-value, the value has to stand out among its class too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweeper.stats.additive_fit import AdditiveFit, Observation, fit
from sweeper.stats.variance_classes import Covariates, with_classes

MOST_OUTLIERS = 3
SAME = 1e-6
"""Values whose |t| differ by less than this part can't be told apart, as the two of a treatment with two blocks."""


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """Values of which one doesn't belong: one, or several where the design can't tell which of them it is.

    `off` is by how much the first lies above what all others predict of it, `errors` that in standard errors, `p` the
    p-value, corrected for the number of values.
    """

    observations: tuple[Observation, ...]
    off: float
    errors: float
    p: float


def outliers(fitted: AdditiveFit, covariates: Covariates, *, level: float) -> tuple[Outlier, ...]:
    """The values of a fit that don't belong to it, the clearest first; in Gaussian data one at most in `level`."""
    found: list[Outlier] = []
    kept = list(fitted.observations)
    treatments = fitted.treatments
    while len(found) < MOST_OUTLIERS:
        plain = fit(kept)
        if plain.treatments != treatments:
            break
        suspect = _largest(plain, level)
        if suspect is None:
            break
        classes = with_classes(plain, covariates, alone=False)
        if classes.splits and classes.splits[0].p < suspect.p:
            suspect = _largest(classes.fitted, level)
        if suspect is None:
            break
        found.append(suspect)
        kept = [o for o in kept if not any(o is one for one in suspect.observations)]
    return tuple(found)


def _largest(fitted: AdditiveFit, level: float) -> Outlier | None:
    """The value with the largest studentised residual, where that is significant at `level`."""
    from scipy.special import stdtr

    if not fitted.variance:
        return None
    place = {treatment: i for i, treatment in enumerate(fitted.treatments)}
    of = np.array([place[o.treatment] for o in fitted.observations])
    left, df = 1 - fitted.leverages, fitted.class_df[of]
    squares = (fitted.residuals / fitted.scales[of]) ** 2 / np.maximum(left, SAME)
    without = (df * fitted.variance - squares) / np.maximum(df - 1, SAME)
    usable = (left > SAME) & (df > 1)
    errors = np.where(usable, np.sqrt(squares / np.maximum(without, fitted.variance * SAME)), 0.0)
    top = int(errors.argmax())
    p = min(1.0, 2 * float(stdtr(df[top] - 1, -errors[top])) * len(errors))
    if p >= level:
        return None
    same = [int(i) for i in np.flatnonzero(errors >= errors[top] * (1 - SAME)) if i != top]
    return Outlier(
        observations=tuple([fitted.observations[i] for i in (top, *same)]),
        off=float(fitted.residuals[top] / left[top]),
        errors=float(errors[top]),
        p=p,
    )
