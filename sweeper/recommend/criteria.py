"""What makes one config better than another for a use, and how surely: weighted differences of loss and log speed.

A score is  w_speed · log(tokens/s) − w_loss · loss. Its difference between two measured points has the variance
w_speed² · Var(difference of log speeds) + w_loss² · Var(difference of losses), each as the frontier's own fit has it,
paired by seed, and the degrees of freedom of Welch and Satterthwaite (Satterthwaite, Biometrics Bulletin 2, 1946). Of a
single objective that is the frontier's own comparison.

The balanced choice is the knee: the point with the greatest distance from the chord between the fastest and the best
in loss, both scaled to the chord's ends (Das, On characterizing the "knee" of the Pareto curve based on
normal-boundary intersection, Structural Optimization 18, 1999). The ends are taken as they were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.frontier.points import Point
from sweeper.stats.additive_fit import CONFIDENCE, AdditiveFit, Difference, t_quantile
from sweeper.stats.welch import summed
from sweeper.values.objectives import MARGINS


@dataclass(frozen=True)
class Criterion:
    """The weights of a loss in nats, the lower the better, and of log tokens/s, the higher the better."""

    loss: float
    speed: float

    def score(self, loss: float, log_speed: float) -> float:
        """The higher the better."""
        return self.speed * log_speed - self.loss * loss


QUALITY, SPEED = Criterion(1.0, 0.0), Criterion(0.0, 1.0)


def knee(fastest: Point, best: Point) -> Criterion:
    """The distance from the chord between two points, but for a constant; in units of the square that they span."""
    losses = fastest.objectives["val_loss"].mean - best.objectives["val_loss"].mean
    speeds = math.log(fastest.objectives["tokens_per_s"].mean / best.objectives["tokens_per_s"].mean)
    return Criterion(1 / (losses * math.sqrt(2)), 1 / (speeds * math.sqrt(2)))


@dataclass(frozen=True, kw_only=True)
class Lead:
    """By how much one config's score is above another's, with its 95% interval; None without a noise estimate."""

    value: float
    standard_error: float | None
    degrees_of_freedom: float
    low: float | None
    high: float | None

    @property
    def sure(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low is not None and self.low > 0

    @property
    def reversed(self) -> bool:
        """Whether the interval lies below zero."""
        return self.high is not None and self.high < 0


def lead(criterion: Criterion, a: Point, b: Point, fits: Mapping[str, AdditiveFit]) -> Lead:
    """Of measured point `a` over `b`."""
    parts = [
        (weight, _difference(fits[metric], ids))
        for weight, metric, ids in (
            (-criterion.loss, "val_loss", (a.config_id, b.config_id)),
            (criterion.speed, "tokens_per_s", (a.probe_id, b.probe_id)),
        )
        if weight
    ]
    value = sum(weight * found.value for weight, found in parts)
    if len(parts) == 1:
        return _of_one(*parts[0], df=fits["val_loss" if criterion.loss else "tokens_per_s"].degrees_of_freedom)
    variances = [None if d.standard_error is None else (weight * d.standard_error) ** 2 for weight, d in parts]
    dfs = [fits[metric].degrees_of_freedom for metric in ("val_loss", "tokens_per_s")]
    used = [df for df, weight in zip(dfs, (criterion.loss, criterion.speed), strict=True) if weight]
    if any(variance is None for variance in variances):
        return Lead(value=value, standard_error=None, degrees_of_freedom=0, low=None, high=None)
    return of_variances(value, [(variance or 0.0, df) for variance, df in zip(variances, used, strict=True)])


def _of_one(weight: float, found: Difference, *, df: float) -> Lead:
    """The frontier's own difference, with the interval that it has there."""
    if found.low is None or found.high is None or found.standard_error is None:
        return Lead(value=weight * found.value, standard_error=None, degrees_of_freedom=0, low=None, high=None)
    low, high = sorted((weight * found.low, weight * found.high))
    return Lead(
        value=weight * found.value,
        standard_error=abs(weight) * found.standard_error,
        degrees_of_freedom=df,
        low=low,
        high=high,
    )


def of_variances(value: float, variances: list[tuple[float, float]]) -> Lead:
    """A lead whose variance is the sum of several, each with its degrees of freedom."""
    whole, df = summed(variances)
    error = math.sqrt(whole)
    half = t_quantile(0.5 + CONFIDENCE / 2, df) * error
    return Lead(value=value, standard_error=error, degrees_of_freedom=df, low=value - half, high=value + half)


def _difference(fit: AdditiveFit, ids: tuple[str, str]) -> Difference:
    if ids[0] == ids[1]:
        return Difference(value=0.0, standard_error=0.0, low=0.0, high=0.0)
    return fit.difference(*ids)


def is_tie(criterion: Criterion, found: Lead) -> bool:
    """Whether it isn't shown that one is better, or at best by less than the margin of a speed."""
    if not (found.sure or found.reversed):
        return True
    most = max(abs(found.low or 0.0), abs(found.high or 0.0))
    return not criterion.loss and math.expm1(most) < MARGINS["tokens_per_s"]


def at_stake(found: Lead) -> float | None:
    """What may be lost by a choice that has this lead over another: the 95% interval's end against it, zero at least.

    None without a noise estimate. Over several rivals the most of it is what the choice costs at worst, in at least
    19 studies of 20 (benchmarks/results/decisions.json): no guess of what is true of them is needed, as a number of
    seeds that would settle it would be.
    """
    return None if found.low is None else max(0.0, -found.low)
