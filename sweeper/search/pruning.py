"""Which configs are put last: slower than one that is finished, and hardly likely to reach a lower loss.

Losses of configs that aren't trained yet are predicted by a Gaussian process over the study's axes (Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, §2.2), with a Matérn 5/2 kernel, a length for each axis and
noise, all by maximum likelihood. It's believed only where it predicts what it was fitted to when each is left out in
turn (§5.4.2): with less than half of the variance left, and intervals that hold what they should.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.records import Config
from sweeper.search.features import features

if TYPE_CHECKING:
    from numpy import ndarray

UNLIKELY = 0.05
"""Below this chance of a lower loss than a faster config's, a config is put last."""
LEAST_FINISHED, LEAST_PER_FEATURE = 6, 2
"""So many losses, and so many for each feature, are known before any is predicted."""
LEAST_COVERED = 0.8
"""Of the losses, each predicted from the others: the part that its 90% interval must hold."""
MOST_UNEXPLAINED = 0.5
"""Of the losses' variance, the part that may be left when each is predicted from the others."""
FASTER = 1.01
"""What a ratio of speeds must be at least to count, as a frontier's margin is 1%."""
NORMAL_90 = 1.6449
AT_ONCE = 500
"""So many configs are predicted together."""
MOST_LOSSES = 300
"""The surrogate is fitted to so many at most, as fitting takes their number cubed."""


@dataclass(frozen=True, kw_only=True)
class PutLast:
    """Why a config was put last: `than` is faster, and `chance` is that of a lower loss than that one's."""

    config_id: str
    than: str
    chance: float
    tokens_per_s: float
    than_tokens_per_s: float


class Pruning:
    """Judges configs by the losses of the finished ones; `axes` are what they differ in."""

    def __init__(self, *, axes: Sequence[str]) -> None:
        self.axes = axes
        self._known: tuple[Any, Mapping[str, PutLast]] = (None, {})

    def judge(
        self, configs: Sequence[Config], losses: Mapping[str, float], speeds: Mapping[str, float]
    ) -> Mapping[str, PutLast]:
        """Of the configs without a loss, those put last. `losses` and `speeds` (tokens/s) are by config id."""
        if self._known[0] != (losses, speeds):
            self._known = (losses, speeds), self._judged(configs, losses, speeds)
        return self._known[1]

    def _judged(
        self, configs: Sequence[Config], losses: Mapping[str, float], speeds: Mapping[str, float]
    ) -> dict[str, PutLast]:
        finished = [config for config in configs if config.config_id in losses and config.config_id in speeds]
        waiting = [config for config in configs if config.config_id not in losses and config.config_id in speeds]
        points = features([*finished, *waiting], self.axes) if finished and waiting else None
        if points is None or len(finished) < max(LEAST_FINISHED, LEAST_PER_FEATURE * points.shape[1]):
            return {}
        chances = _chances_of_lower(points, [losses[config.config_id] for config in finished])
        if chances is None:
            return {}
        found = {}
        for row, config in zip(chances, waiting, strict=True):
            own = speeds[config.config_id]
            rivals = [
                (float(chance), rival.config_id)
                for chance, rival in zip(row, finished, strict=True)
                if speeds[rival.config_id] >= FASTER * own and chance < UNLIKELY
            ]
            if rivals:
                chance, than = min(rivals)
                found[config.config_id] = PutLast(
                    config_id=config.config_id,
                    than=than,
                    chance=chance,
                    tokens_per_s=own,
                    than_tokens_per_s=speeds[than],
                )
        return found


def _chances_of_lower(points: ndarray, losses: Sequence[float]) -> ndarray | None:
    """(waiting, finished): the chance that the true loss of a waiting config is below that of a finished one.

    `points` holds the finished configs' features, then the waiting ones'. None where the surrogate isn't believed.
    """
    import numpy as np
    from scipy.special import ndtr

    known = np.array(losses)
    n, spread = len(known), float(known.std())
    if not spread:
        return None
    values = (known - known.mean()) / spread
    model = _fitted(points[:n], values)
    if not _predicts_what_is_left_out(model, values):
        return None
    chances = []
    for start in range(n, len(points), AT_ONCE):
        mean, covariance = model.predict(np.vstack([points[:n], points[start : start + AT_ONCE]]), return_cov=True)
        variance = np.diag(covariance) - model.kernel_.k2.noise_level
        of_difference = variance[n:, None] + variance[None, :n] - 2 * covariance[n:, :n]
        deviation = np.sqrt(np.clip(of_difference, 1e-12, None))
        chances.append(ndtr((mean[None, :n] - mean[n:, None]) / deviation))
    return np.vstack(chances)


def _fitted(points: ndarray, values: ndarray) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    signal = ConstantKernel(1.0, (0.05, 20.0)) * Matern([1.0] * points.shape[1], (0.1, 20.0), nu=2.5)
    kernel = signal + WhiteKernel(0.05, (1e-4, 1.0))
    model = GaussianProcessRegressor(kernel, random_state=0)
    keep = slice(0, MOST_LOSSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a length is at its bound
        return model.fit(points[keep], values[keep])


def _predicts_what_is_left_out(model: Any, values: ndarray) -> bool:
    """Whether each of the standardised `values` is predicted from the others (equations 5.10 to 5.12)."""
    import numpy as np
    from scipy.linalg import cho_solve

    inverse = cho_solve((model.L_, True), np.eye(len(model.L_)))
    variance = 1 / np.diag(inverse)
    error = inverse @ values[: len(inverse)] * variance
    covered = float((np.abs(error) <= NORMAL_90 * np.sqrt(variance)).mean())
    return covered >= LEAST_COVERED and float((error**2).mean()) < MOST_UNEXPLAINED
