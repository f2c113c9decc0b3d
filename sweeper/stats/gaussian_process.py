"""A Gaussian process over configs, and how well it predicts each of what it was fitted to when that is left out.

Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: §2.2 the regression, with a Matérn 5/2 kernel, a
length for each feature and a nugget, all by maximum likelihood; §5.4.2 leaving out one at a time.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import ndarray

LEAST_KNOWN, LEAST_PER_FEATURE = 6, 2
"""So many values, and so many for each feature, are known before any is predicted."""
LEAST_COVERED = 0.8
"""Of the values, each predicted from the others: the part that its 90% interval must hold."""
MOST_UNEXPLAINED = 0.5
"""Of the values' variance, the part that may be left when each is predicted from the others."""
MOST_KNOWN = 300
"""The process is fitted to so many at most, as fitting takes their number cubed."""
MOST_FOLDS = 20
"""So often the process is fitted anew to see what it explains."""
NORMAL_90 = 1.6449


@dataclass(frozen=True)
class LeftOut:
    """What is predicted of each value from all others: `errors` and `deviations` (values,), in the values' unit.

    A deviation is that of the value as it was measured, noise included.
    """

    errors: ndarray
    deviations: ndarray

    @property
    def covered(self) -> float:
        """The part of the values that their 90% intervals hold."""
        import numpy as np

        return float((np.abs(self.errors) <= NORMAL_90 * self.deviations).mean())


def fitted(points: ndarray, values: ndarray, *, noise: ndarray | None = None, restarts: int = 0) -> Any:
    """The process fitted to standardised `values` (n,) at `points` (n, features), features scaled to about [0, 1].

    `noise` is the variance of each value where that is known; the nugget is then what configs deviate by from a
    smooth surface. Where it isn't the nugget is noise. Of more than MOST_KNOWN values the first are taken.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    signal = ConstantKernel(1.0, (0.05, 20.0)) * Matern([1.0] * points.shape[1], (0.1, 20.0), nu=2.5)
    nugget = WhiteKernel(0.05, (1e-4, 1.0)) if noise is None else WhiteKernel(0.01, (1e-5, 1.0))
    keep = slice(0, MOST_KNOWN)
    alpha = 1e-10 if noise is None else noise[keep] + 1e-10
    model = GaussianProcessRegressor(signal + nugget, alpha=alpha, random_state=0, n_restarts_optimizer=restarts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a length is at its bound
        return model.fit(points[keep], values[keep])


def left_out(model: Any, values: ndarray) -> LeftOut:
    """Each of the standardised `values` that `model` was fitted to, predicted from the others (eqs. 5.10 to 5.12)."""
    import numpy as np
    from scipy.linalg import cho_solve

    inverse = cho_solve((model.L_, True), np.eye(len(model.L_)))
    variance = 1 / np.diag(inverse)
    return LeftOut(errors=inverse @ values[: len(inverse)] * variance, deviations=np.sqrt(variance))


def unexplained(points: ndarray, values: ndarray, *, noise: ndarray | None = None) -> float:
    """The part of the standardised `values`' variance that is left when each is predicted by a process fitted without.

    Its lengths too are fitted without: with lengths that a value helped to choose, few values seem to explain one
    another whatever they are. Of more than MOST_FOLDS values several are left out together.
    """
    import numpy as np

    n = min(len(values), MOST_KNOWN)
    fold, errors = np.arange(n) % MOST_FOLDS, np.zeros(n)
    for number in range(int(fold.max()) + 1):
        out, rest = fold == number, fold != number
        model = fitted(points[:n][rest], values[:n][rest], noise=None if noise is None else noise[:n][rest])
        errors[out] = values[:n][out] - model.predict(points[:n][out])
    return float((errors**2).mean())
