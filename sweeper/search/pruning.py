"""Which configs are put last: slower than one that is finished, and hardly likely to reach a lower loss.

Losses of configs that aren't trained yet are predicted by a Gaussian process over the study's axes
(`sweeper.stats.gaussian_process`). It's believed only where it predicts what it was fitted to when each is left out in
turn: with less than half of the variance left, and intervals that hold what they should.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.search.features import features
from sweeper.stats.gaussian_process import (
    LEAST_COVERED,
    LEAST_KNOWN,
    LEAST_PER_FEATURE,
    MOST_UNEXPLAINED,
    fitted,
    left_out,
    unexplained,
)
from sweeper.values.records import Config

if TYPE_CHECKING:
    from numpy import ndarray

UNLIKELY = 0.05
"""Below this chance of a lower loss than a faster config's, a config is put last."""
FASTER = 1.01
"""What a ratio of speeds must be at least to count, as a frontier's margin is 1%."""
AT_ONCE = 500
"""So many configs are predicted together."""


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
        if points is None or len(finished) < max(LEAST_KNOWN, LEAST_PER_FEATURE * points.shape[1]):
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
    model = fitted(points[:n], values)
    covered = left_out(model, values).covered
    if covered < LEAST_COVERED or unexplained(points[:n], values) >= MOST_UNEXPLAINED:
        return None
    chances = []
    for start in range(n, len(points), AT_ONCE):
        mean, covariance = model.predict(np.vstack([points[:n], points[start : start + AT_ONCE]]), return_cov=True)
        variance = np.diag(covariance) - model.kernel_.k2.noise_level
        of_difference = variance[n:, None] + variance[None, :n] - 2 * covariance[n:, :n]
        deviation = np.sqrt(np.clip(of_difference, 1e-12, None))
        chances.append(ndtr((mean[None, :n] - mean[n:, None]) / deviation))
    return np.vstack(chances)
