"""Which config has the lowest loss after equal training time, on one device type.

T is the shortest of all configs' whole trainings: tokens ÷ the config's own speed, never clock time. A config's loss
at T is read in log–log along the parabola through the three cooled losses (branches, the end, a follow-up) nearest to
its tokens at T, or the line through two. With L = exp(Σ w log μ) over these lengths, w being Lagrange's, and the
speeds' errors moving those tokens, the variance of a difference follows from the first derivatives: of the losses
through `sweeper.stats.repeated_measures` (lengths, configs and seeds together), of the speeds through their own fit;
its degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946).

Where the shortest cooled length takes longer than T, the loss there is a lower bound of that at T, as more tokens make
a lower loss: such a config may be ruled out, and is not told otherwise.

Differences are to the lowest that is told, with the intervals of `sweeper.stats.dunnett.above_lowest`; a config is
ruled out where its interval is above zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sweeper.stats.additive_fit import CONFIDENCE, AdditiveFit, Difference, t_quantile
from sweeper.stats.dunnett import above_lowest
from sweeper.stats.repeated_measures import RepeatedFit, fit_repeated

ROUNDING = 1e-9
SURELY = 4.0
"""So many standard errors below its shortest length a config surely hasn't reached it."""
MOST_LENGTHS = 3
"""Through so many cooled losses at most a config's curve is drawn."""
Verdict = Literal["lowest", "as good", "ruled out", "not told"]


@dataclass(frozen=True, kw_only=True)
class CooledTrial:
    """One trial of a config: its cooled losses in nats, by tokens."""

    config_id: str
    seed: int
    losses: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class LossAtTime:
    """A config's loss, in nats, after the training time in which it passes `tokens` tokens.

    `bound`: its shortest cooled length takes longer, and `mean` is the loss there, below which that at the time
    can't be. `difference` is its loss less the lowest, None of the lowest itself, and where `bound` a lower bound too.
    """

    config_id: str
    tokens: float
    mean: float
    low: float | None
    high: float | None
    bound: bool
    difference: Difference | None
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class EqualTime:
    """Losses after `seconds` of training on this device type, lowest first; those that are bounds come last."""

    seconds: float
    losses: tuple[LossAtTime, ...]


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A config's loss at T and its derivatives: by its means [lengths], and by the log of its speed.

    The speed is over that of the training which is done first.
    """

    config: int
    tokens: float
    loss: float
    by_means: NDArray[np.float64]
    by_log_speed: float
    bound: bool


def equal_time(trials: Sequence[CooledTrial], speeds: AdditiveFit, probe_ids: Mapping[str, str]) -> EqualTime | None:
    """Of the configs in `probe_ids`, whose speeds `speeds`, of log tokens/s, has by these probe ids.

    Lengths count that every config has as many of; trials that lack some are left out. None where fewer than two
    configs are left, or there is but one length.
    """
    kept = _complete([one for one in trials if one.config_id in probe_ids])
    if len({one.config_id for one in kept}) < 2 or len(kept[0].losses) < 2:
        return None
    fitted, lengths = _fitted(kept)
    log_speeds = np.array([speeds.mean(probe_ids[config_id]).value for config_id in fitted.treatments])
    log_seconds = np.log(lengths[:, -1]) - log_speeds
    pace = int(np.argmin(log_seconds))
    reached = np.exp(log_seconds[pace] + log_speeds)
    reached[pace] = lengths[pace, -1]
    probes = [probe_ids[config_id] for config_id in fitted.treatments]
    errors = [speeds.difference(probe, probes[pace]).standard_error or 0.0 for probe in probes]
    readings = [
        _reading(config, float(n), lengths[config], fitted.means[config], log_tokens_error=errors[config])
        for config, n in enumerate(reached)
    ]
    return EqualTime(
        seconds=math.exp(log_seconds[pace]), losses=_judged(readings, _Errors(fitted, speeds, probes, pace))
    )


def equal_minutes(trials: Sequence[CooledTrial], seconds: float) -> EqualTime | None:
    """Of trials that all trained for `seconds`: compared at their ends. None of fewer than two configs."""
    ends = [CooledTrial(config_id=t.config_id, seed=t.seed, losses=dict([max(t.losses.items())])) for t in trials]
    if len({one.config_id for one in ends}) < 2:
        return None
    fitted, lengths = _fitted(ends)
    readings = [
        _Reading(
            config=config,
            tokens=float(n),
            loss=float(fitted.means[config, 0]),
            by_means=np.ones(1),
            by_log_speed=0.0,
            bound=False,
        )
        for config, n in enumerate(lengths[:, -1])
    ]
    return EqualTime(seconds=seconds, losses=_judged(readings, _Errors(fitted, None, [], 0)))


def _complete(trials: Sequence[CooledTrial]) -> list[CooledTrial]:
    """Those that have all lengths of their config, of the configs that have the most."""
    lengths: dict[str, set[int]] = {}
    for one in trials:
        lengths.setdefault(one.config_id, set()).update(one.losses)
    most = max(map(len, lengths.values()), default=0)
    return [t for t in trials if len(t.losses) == most and set(t.losses) == lengths[t.config_id]]


def _fitted(trials: Sequence[CooledTrial]) -> tuple[RepeatedFit, NDArray[np.float64]]:
    """The fit and, in the order of its treatments, the lengths [configs, lengths] in tokens, ascending."""
    values = np.array([[one.losses[n] for n in sorted(one.losses)] for one in trials])
    fitted = fit_repeated([one.config_id for one in trials], [f"seed {one.seed}" for one in trials], values)
    lengths = {one.config_id: sorted(one.losses) for one in trials}
    return fitted, np.array([lengths[config_id] for config_id in fitted.treatments], dtype=np.float64)


def _reading(
    config: int, tokens: float, lengths: NDArray[np.float64], means: NDArray[np.float64], *, log_tokens_error: float
) -> _Reading:
    """At `tokens`, which speeds tell with `log_tokens_error`: a few of these below the shortest length may be at it."""
    if tokens < lengths[0] * math.exp(-SURELY * log_tokens_error - ROUNDING):
        by_means = np.eye(len(means))[0]
        return _Reading(
            config=config, tokens=tokens, loss=float(means[0]), by_means=by_means, by_log_speed=0.0, bound=True
        )
    near = np.sort(np.argsort(np.abs(np.log(lengths / tokens)), kind="stable")[:MOST_LENGTHS])
    weights, by_log_tokens = _lagrange(np.log(lengths[near]), math.log(min(tokens, float(lengths[-1]))))
    logs = np.log(means[near])
    loss = float(np.exp(weights @ logs))
    by_means = np.zeros(len(means))
    by_means[near] = loss * weights / means[near]
    slope = loss * float(by_log_tokens @ logs)
    return _Reading(
        config=config,
        tokens=tokens,
        loss=loss,
        by_means=by_means,
        by_log_speed=slope,
        bound=False,
    )


def _lagrange(places: NDArray[np.float64], at: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of values at `places` the weights that make the polynomial's value at `at`, and those of its slope there."""
    powers = np.arange(len(places))
    solved = np.linalg.inv(np.vander(places - at, increasing=True))
    return solved[0], solved[1] if len(powers) > 1 else np.zeros(1)


@dataclass(frozen=True)
class _Errors:
    """Standard errors of readings and of their differences. Without `speeds` the losses alone are uncertain."""

    fitted: RepeatedFit
    speeds: AdditiveFit | None
    probes: Sequence[str]
    pace: int

    def of(self, a: _Reading, b: _Reading | None = None) -> tuple[float, float] | None:
        """The standard error of `a`, or of `a` less `b`, and its degrees of freedom; None without an estimate."""
        loss, speed = self._of_losses(a, b), self._of_speeds(a, b)
        if loss is None or speed is None:
            return None
        seeds = 0.0 if b is None else self._of_seeds(a, b)
        parts = [(loss, self.fitted.degrees_of_freedom), (seeds, self.fitted.blocks - 1)]
        parts += [] if self.speeds is None else [(speed, self.speeds.degrees_of_freedom)]
        variance = loss + seeds + speed
        if variance == 0:
            return 0.0, float(self.fitted.degrees_of_freedom)
        return math.sqrt(variance), variance**2 / sum(part**2 / df for part, df in parts if part)

    def _of_seeds(self, a: _Reading, b: _Reading) -> float:
        """What seeds do at one length more than at another doesn't cancel between configs that are read at both."""
        apart = a.by_means - b.by_means
        return float(apart @ self.fitted.of_blocks @ apart) / self.fitted.blocks

    def _of_losses(self, a: _Reading, b: _Reading | None) -> float | None:
        noise = self.fitted.covariance
        if noise is None:
            return None
        signed = [(1.0, a)] if b is None else [(1.0, a), (-1.0, b)]
        variance = sum(
            p * q * self.fitted.cofactor(x.config, y.config) * float(x.by_means @ noise @ y.by_means)
            for p, x in signed
            for q, y in signed
        )
        return max(variance, 0.0)

    def _of_speeds(self, a: _Reading, b: _Reading | None) -> float | None:
        """Weights that sum to zero, so that variances of differences give theirs: −½ Σ vᵢ vⱼ Var(xᵢ − xⱼ)."""
        if self.speeds is None:
            return 0.0
        weights: dict[str, float] = {}
        for sign, one in ((1.0, a),) if b is None else ((1.0, a), (-1.0, b)):
            for place, part in ((one.config, 1.0), (self.pace, -1.0)):
                probe = self.probes[place]
                weights[probe] = weights.get(probe, 0.0) + sign * part * one.by_log_speed
        variance = 0.0
        for (probe, own), (other, others) in combinations(weights.items(), 2):
            if own and others:
                error = self.speeds.difference(probe, other).standard_error
                if error is None:
                    return None
                variance -= own * others * error**2
        return max(variance, 0.0)


def _judged(readings: Sequence[_Reading], errors: _Errors) -> tuple[LossAtTime, ...]:
    ordered = sorted(readings, key=lambda one: (one.bound, one.loss))
    return tuple(_loss(one, ordered[0], errors, comparisons=len(ordered) - 1) for one in ordered)


def _loss(one: _Reading, lowest: _Reading, errors: _Errors, *, comparisons: int) -> LossAtTime:
    own = _interval(one.loss, errors.of(one))
    difference: Difference | None = None
    verdict: Verdict = "lowest"
    if one is not lowest:
        error, apart = errors.of(one, lowest), one.loss - lowest.loss
        difference = _interval(apart, None) if error is None else above_lowest(apart, error[0], comparisons, error[1])
        out = difference.low is not None and difference.low > 0
        verdict = "ruled out" if out else "not told" if one.bound or error is None else "as good"
    return LossAtTime(
        config_id=errors.fitted.treatments[one.config],
        tokens=one.tokens,
        mean=own.value,
        low=own.low,
        high=own.high,
        bound=one.bound,
        difference=difference,
        verdict=verdict,
    )


def _interval(value: float, error: tuple[float, float] | None) -> Difference:
    if error is None:
        return Difference(value=value, standard_error=None, low=None, high=None)
    half = t_quantile(0.5 + CONFIDENCE / 2, error[1]) * error[0]
    return Difference(value=value, standard_error=error[0], low=value - half, high=value + half)
