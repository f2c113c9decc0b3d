"""Configs that may be recommended: those that were measured, and those whose loss and speed are predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.frontier.frontiers import DeviceFrontier
from sweeper.frontier.points import Point, steady
from sweeper.model.shape import Shape
from sweeper.planning.candidates import Candidates, foreign_points, of_plan
from sweeper.recommend.criteria import Criterion, Lead, lead, of_variances
from sweeper.recommend.limits import Limits
from sweeper.recommend.surrogate import Surrogate, surrogate
from sweeper.stats.additive_fit import CONFIDENCE, t_quantile
from sweeper.values.errors import UsageError
from sweeper.values.events import memory_needed
from sweeper.values.labels import labels
from sweeper.values.records import Config

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sweeper.planning.plan import Plan
    from sweeper.study.schema import Study

    Vector = NDArray[np.float64]

METRICS = ("val_loss", "tokens_per_s")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A mean and its 95% interval, None where a single seed gives none."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Option:
    """A config at a micro-batch. `point` is what was measured of it, None where it's predicted.

    `memory_bytes` is what the device must have: the highest measured peak, or else the predicted one, and what lies
    beside it. `variances` are those of the loss and of log tokens/s, of a predicted config alone.
    """

    config: Config
    batch_size: int
    val_loss: Figure
    tokens_per_s: Figure
    memory_bytes: int
    memory_measured: bool
    point: Point | None = None
    variances: tuple[float, float] = (0.0, 0.0)

    @cached_property
    def params(self) -> int:
        """All parameters."""
        return self.config.shape.params.total

    def score(self, criterion: Criterion) -> float:
        """By its means."""
        return criterion.score(self.val_loss.mean, math.log(self.tokens_per_s.mean))

    def missed(self, limits: Limits) -> float:
        """By how much it misses `limits` by its means, 0 where it keeps them."""
        return float(limits.missed(self.params, self.tokens_per_s.mean, self.memory_bytes))


@dataclass(frozen=True, kw_only=True)
class Options:
    """All that may be recommended on one device type.

    `predicted` are the unmeasured configs of the lattice that are believed, with the mean and standard deviation of
    their loss and log tokens/s; `feasible` counts the lattice's configs at their micro-batches, `outside` those that
    lie beyond the measured ones, `unseen` those that weren't looked at for their number. `extrapolated`: whether
    `predicted` has those outside too.
    """

    one: DeviceFrontier
    measured: tuple[Option, ...]
    surrogates: Mapping[str, Surrogate]
    predicted: Candidates
    losses: tuple[Vector, Vector]
    log_speeds: tuple[Vector, Vector]
    feasible: int
    outside: int
    unseen: int
    extrapolated: bool

    @property
    def believed(self) -> bool:
        """Whether both loss and speed are predicted well enough to be used."""
        return all(one.believed for one in self.surrogates.values())

    def keeping(self, limits: Limits) -> NDArray[np.int64]:
        """The rows of `predicted` that keep `limits` by their means."""
        missed = limits.missed(self.predicted.params, np.exp(self.log_speeds[0]), self.predicted.memory_bytes)
        return np.flatnonzero(missed == 0)

    def predicted_option(self, row: int) -> Option:
        """A row of `predicted`."""
        loss, log_speed = self.losses[0][row], self.log_speeds[0][row]
        deviations = float(self.losses[1][row]), float(self.log_speeds[1][row])
        off = [
            t_quantile(0.5 + CONFIDENCE / 2, self.surrogates[name].degrees_of_freedom) * deviation
            for name, deviation in zip(METRICS, deviations, strict=True)
        ]
        return Option(
            config=self.predicted.config(row),
            batch_size=int(self.predicted.batch_size[row]),
            val_loss=Figure(mean=float(loss), low=float(loss - off[0]), high=float(loss + off[0])),
            tokens_per_s=Figure(
                mean=math.exp(log_speed), low=math.exp(log_speed - off[1]), high=math.exp(log_speed + off[1])
            ),
            memory_bytes=int(self.predicted.memory_bytes[row]),
            memory_measured=False,
            variances=(deviations[0] ** 2, deviations[1] ** 2),
        )

    def lead(self, criterion: Criterion, a: Option, b: Option) -> Lead:
        """Of `a` over `b`: of measured ones paired; a predicted one's error is taken as its own."""
        if a.point is not None and b.point is not None:
            return lead(criterion, a.point, b.point, self.one.fits)
        parts: list[tuple[float, float]] = []
        for option in (a, b):
            for n, weight in enumerate((criterion.loss, criterion.speed)):
                if weight:
                    found = self._variance(option, n)
                    if found is None:
                        value = a.score(criterion) - b.score(criterion)
                        return Lead(value=value, standard_error=None, degrees_of_freedom=0, low=None, high=None)
                    parts.append((weight**2 * found[0], found[1]))
        return of_variances(a.score(criterion) - b.score(criterion), parts)

    def _variance(self, option: Option, n: int) -> tuple[float, float] | None:
        """Of the loss (0) or log speed (1), with its degrees of freedom; None without a noise estimate."""
        if option.point is None:
            return option.variances[n], self.surrogates[METRICS[n]].degrees_of_freedom
        fit = self.one.fits[METRICS[n]]
        error = fit.mean(option.point.probe_id if n else option.point.config_id).standard_error
        return None if error is None else (error**2, fit.degrees_of_freedom)

    def label(self, option: Option) -> str:
        """What tells it from the measured ones, as the frontier names these."""
        if option.point is not None:
            return option.point.label
        several = len({o.batch_size for o in self.measured}) > 1
        rows = [
            o.config.to_dict() | ({"batch_size": o.batch_size} if several else {}) for o in (*self.measured, option)
        ]
        return labels(rows)[-1]


def options(study: Study, plan: Plan, one: DeviceFrontier, *, extrapolate: bool) -> Options:
    """What the frontier of one device type has, and what can be predicted from it."""
    points = steady(one.points)
    measured = tuple([_measured(point, plan) for point in points])
    surrogates = {name: surrogate(study, points, name, one.fits[name]) for name in METRICS}
    lattice, unseen = of_plan(plan)
    others = lattice.without([(p.config, p.batch_size) for p in one.points], at_any_batch=bool(ladder_of(study)))
    among = np.ones(len(others), dtype=bool)
    for model in surrogates.values():
        among &= model.space.among_measured(others)
    believed = all(model.believed for model in surrogates.values())
    predicted = others.take(np.flatnonzero(among | extrapolate) if believed else np.zeros(0, dtype=np.int64))
    predicted = replace(predicted, memory_bytes=predicted.memory_bytes + _beside(one.points, plan))
    figures = [
        surrogates[name].predict(predicted) if len(predicted) else (np.zeros(0), np.zeros(0)) for name in METRICS
    ]
    return Options(
        one=one,
        measured=measured,
        surrogates=surrogates,
        predicted=predicted,
        losses=figures[0],
        log_speeds=figures[1],
        feasible=len(lattice) + unseen + foreign_points(plan),
        outside=int((~among).sum()),
        unseen=unseen,
        extrapolated=extrapolate,
    )


def ladder_of(study: Study) -> Sequence[int]:
    """The micro-batches of which the study takes the fastest, () where it has no ladder."""
    given: Any = study.trial.batch_size
    rungs = getattr(given, "fastest", None)
    return tuple(sorted(rungs)) if rungs else ()


def _beside(points: Sequence[Point], plan: Plan) -> int:
    """What lies on the device beside a config's tensors, in bytes: as measured there, or else as the plan assumes."""
    known = (point.beside_memory_bytes for point in points if point.beside_memory_bytes is not None)
    return next(known, plan.calibration.beside_bytes)


def _measured(point: Point, plan: Plan) -> Option:
    from sweeper.planning.estimates import memory_of

    if not isinstance(point.config.shape, Shape) and point.peak_memory_bytes is None:
        raise UsageError(f"{point.label}: nothing is known of its memory: measure it on a device that tells")
    config = point.config
    loss, speed = (point.objectives[name] for name in METRICS)
    needed = memory_needed(point.peak_memory_bytes, point.beside_memory_bytes)
    return Option(
        config=config,
        batch_size=point.batch_size,
        val_loss=Figure(mean=loss.mean, low=loss.low, high=loss.high),
        tokens_per_s=Figure(mean=speed.mean, low=speed.low, high=speed.high),
        memory_bytes=memory_of(config, point.batch_size) + _beside([point], plan) if needed is None else needed,
        memory_measured=needed is not None,
        point=point,
    )
