"""What configs that weren't run would probably come to: their loss and speed, predicted from those that were.

One Gaussian process (`sweeper.stats.gaussian_process`) for the loss, one for log tokens/s. The noise of each mean is
known, from the fit over all trials paired by seed; what seeds have in common shifts all losses alike and is no part of
it, so that a prediction is of the mean at the study's seeds, as the frontier's means are. A process is believed only
where it predicts what it was fitted to when each is left out in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.frontier.points import Point
from sweeper.model.shape import Shape
from sweeper.planning.candidates import Candidates, rows_of
from sweeper.recommend.space import NOWHERE, Space, space
from sweeper.stats.additive_fit import AdditiveFit
from sweeper.stats.gaussian_process import (
    LEAST_COVERED,
    LEAST_KNOWN,
    LEAST_PER_FEATURE,
    MOST_UNEXPLAINED,
    fitted,
    left_out,
    unexplained,
)
from sweeper.study.schema import Study

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

RESTARTS = 1
AT_ONCE = 20_000


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Predicts `metric` from `known` configs in `dimensions`.

    `covered`: of the measured values, the part that the 90% interval holds which the others predict; `explained`: of
    their variance, the part that the others explain. None where nothing could be fitted. `doubt` says why it isn't
    believed, "" where it is.
    """

    metric: str
    known: int
    dimensions: tuple[str, ...]
    covered: float | None
    explained: float | None
    doubt: str
    space: Space
    model: Any = None
    scale: tuple[float, float] = (0.0, 1.0)

    @property
    def believed(self) -> bool:
        """Whether its predictions are to be used."""
        return not self.doubt

    @property
    def degrees_of_freedom(self) -> int:
        """What is left of the measured values beside the process' lengths, signal and nugget, at least 3.

        Intervals are those of Student's t with so many, as the process takes the fitted ones for known.
        """
        features: int = self.model.X_train_.shape[1]
        return max(self.known - features - 2, 3)

    def predict(self, rows: Candidates) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each row's true value: nats, or log tokens/s."""
        mean, spread = self.scale
        features = self.space.of(rows)
        parts = [
            self.model.predict(features[start : start + AT_ONCE], return_std=True)
            for start in range(0, len(rows), AT_ONCE)
        ] or [(np.zeros(0), np.zeros(0))]
        means, deviations = (np.concatenate([part[n] for part in parts]) for n in (0, 1))
        return mean + spread * means, spread * deviations


def surrogate(study: Study, points: Sequence[Point], metric: str, fit: AdditiveFit) -> Surrogate:
    """Fit `metric` of measured points; `fit` is the frontier's, of log tokens/s for speed.

    Points that share a measurement (one training at two micro-batches; learning rates at one speed) count once.
    """
    of_speed = metric == "tokens_per_s"
    one_each = {
        point.probe_id if of_speed else fit.copy_of.get(point.config_id, point.config_id): point for point in points
    }
    place = {treatment: n for n, treatment in enumerate(fit.treatments)}
    at = [place[treatment] for treatment in one_each]
    ours = [point for point in one_each.values() if isinstance(point.config.shape, Shape)]
    measured = rows_of([(point.config, point.batch_size) for point in ours])
    values = fit.means[at]
    found = space(study, measured, of_speed=of_speed) if len(ours) == len(one_each) else NOWHERE
    features = found.of(measured)
    blank = Surrogate(
        metric=metric, known=len(at), dimensions=found.names, covered=None, explained=None, doubt="", space=found
    )
    least = max(LEAST_KNOWN, LEAST_PER_FEATURE * features.shape[1])
    if len(ours) < len(one_each):
        return replace(blank, doubt="only configs of shapes are predicted")
    if study.nuisance:
        doubt = "which value of a nuisance axis is best for a config that wasn't run isn't known"
        return replace(blank, doubt=doubt)
    if not features.shape[1]:
        return replace(blank, doubt="the measured configs differ in no axis")
    if len(at) < least:
        return replace(blank, doubt=f"{len(at)} configs are measured, {least} are needed to predict others")
    mean, spread = float(values.mean()), float(values.std())
    if not spread:
        return replace(blank, doubt="all measured values are the same")
    standardised = (values - mean) / spread
    noise = None if fit.variance is None else np.diag(fit.cofactors)[at] * fit.variance / spread**2
    model = fitted(features, standardised, noise=noise, restarts=RESTARTS)
    covered = left_out(model, standardised).covered
    explained = 1 - unexplained(features, standardised, noise=noise)
    doubt = _doubt(covered, explained)
    return replace(blank, covered=covered, explained=explained, doubt=doubt, model=model, scale=(mean, spread))


def _doubt(covered: float, explained: float) -> str:
    if explained <= 1 - MOST_UNEXPLAINED:
        share = f"{explained:.0%} of the variance" if explained > 0 else "nothing"
        least = f"{1 - MOST_UNEXPLAINED:.0%}"
        return f"left out in turn, configs explain {share} of one another; at least {least} is needed"
    if covered < LEAST_COVERED:
        held = f"{covered:.0%} of what is left out in turn"
        return f"its 90% intervals hold {held}; at least {LEAST_COVERED:.0%} is needed"
    return ""
