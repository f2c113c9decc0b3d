"""What to train: the choice, what is as good, what is ruled out, what is open and what settling that costs.

The first question is what losses are compared at (`By`):

- equal_time: after the training time in which the quickest config is done (`sweeper.stats.equal_time`). The choice has
  the lowest mean.
- equal_tokens: at the end of all trainings. The choice is the fastest that isn't shown to have a higher loss than the
  lowest mean.
- loss_within: the fastest whose mean loss at the end is at most so much above the lowest.

A config is ruled out where its difference to the lowest mean is above zero, by its own interval and by that of
`sweeper.stats.dunnett.above_lowest`: the config that is truly the best is ruled out in 2.5% of studies at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sweeper.frontier.points import Point
from sweeper.stats.additive_fit import AdditiveFit, Difference
from sweeper.stats.dunnett import above_lowest
from sweeper.stats.equal_time import EqualTime

By = Literal["equal_time", "equal_tokens", "loss_within"]


@dataclass(frozen=True, kw_only=True)
class Decide:
    """What an answer's first line goes by; `within` in nats, how far above the lowest loss, is of loss_within alone."""

    by: By = "equal_time"
    within: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Against:
    """A point's loss less the choice's, in nats, with its 95% interval where there is an estimate of the noise."""

    point_id: str
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Open:
    """What isn't settled: which of these points has the lowest loss. At most `at_stake` nats are lost by the choice.

    As many `trials` more, of these points, halve the intervals; `seconds` that they take on one device, None where no
    trial was timed.
    """

    point_ids: tuple[str, ...]
    at_stake: float
    trials: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`by` is what it goes by, as far as was measured: without cooled losses at several lengths by equal tokens.

    `choice` is a point id, None where nothing can be chosen. `as_good` and `ruled_out` are lowest loss first; of
    `not_told` it isn't known, as their shortest cooled length takes longer than the time. `at_time` is the comparison
    at equal time, whatever the decision goes by; None without one. `within` is that of `Decide`; `knows_noise`:
    whether there is an estimate of the losses' noise.
    """

    by: By
    choice: str | None
    as_good: tuple[Against, ...] = ()
    ruled_out: tuple[Against, ...] = ()
    not_told: tuple[str, ...] = ()
    open: Open | None = None
    at_time: EqualTime | None = None
    within: float = 0.0
    knows_noise: bool = False

    @property
    def settled(self) -> bool:
        """Whether all other points are ruled out."""
        return self.choice is not None and bool(self.ruled_out) and not self.as_good and not self.not_told


def decide(
    points: Sequence[Point],
    losses: AdditiveFit,
    at_time: EqualTime | None,
    how: Decide,
    *,
    trial_seconds: float | None,
) -> Decision:
    """Of the points of one device type. `losses` fits those at the end; `trial_seconds` is what a trial takes."""
    fastest = _fastest_of_each(points)
    if not fastest:
        return Decision(by=how.by, choice=None, at_time=at_time)
    if how.by == "equal_time" and at_time is not None:
        found = _by_time(fastest, at_time)
    elif how.by == "loss_within":
        found = _by_loss_within(fastest, losses, how.within)
    else:
        found = _by_tokens(fastest, losses)
    return replace(
        found,
        at_time=at_time,
        open=_open(found, fastest, trial_seconds),
        within=how.within,
        knows_noise=losses.variance is not None,
    )


def _fastest_of_each(points: Sequence[Point]) -> dict[str, Point]:
    """By config id, of several micro-batches the fastest: all have one loss."""
    found: dict[str, Point] = {}
    for point in points:
        known = found.get(point.config_id)
        if known is None or _speed(point) > _speed(known):
            found[point.config_id] = point
    return found


def _speed(point: Point) -> float:
    return point.objectives["tokens_per_s"].mean


def _by_time(points: Mapping[str, Point], at_time: EqualTime) -> Decision:
    told = [one for one in at_time.losses if one.config_id in points]
    against = {
        verdict: tuple(
            _against(points[one.config_id], one.difference)
            for one in told
            if one.verdict == verdict and one.difference is not None
        )
        for verdict in ("as good", "ruled out")
    }
    return Decision(
        by="equal_time",
        choice=points[told[0].config_id].point_id,
        as_good=against["as good"],
        ruled_out=against["ruled out"],
        not_told=tuple(points[one.config_id].point_id for one in told if one.verdict == "not told"),
    )


def _by_tokens(points: Mapping[str, Point], losses: AdditiveFit) -> Decision:
    ordered = sorted(points.values(), key=lambda p: p.objectives["val_loss"].mean)
    lowest, others = ordered[0], ordered[1:]
    out = [p for p in others if _is_above(p, lowest, losses, len(others))]
    kept = [p for p in ordered if p not in out]
    choice = max(kept, key=_speed) if losses.variance is not None else lowest
    return _chosen("equal_tokens", choice, kept, out, losses)


def _is_above(point: Point, lowest: Point, losses: AdditiveFit, comparisons: int) -> bool:
    apart = losses.difference(point.config_id, lowest.config_id)
    if apart.standard_error is None or apart.low is None or apart.low <= 0:
        return False
    low = above_lowest(apart.value, apart.standard_error, comparisons, losses.degrees_of_freedom).low
    return low is not None and low > 0


def _by_loss_within(points: Mapping[str, Point], losses: AdditiveFit, within: float) -> Decision:
    """As good are the faster ones that aren't shown to be further above the lowest than `within`."""
    ordered = sorted(points.values(), key=lambda p: p.objectives["val_loss"].mean)
    lowest = ordered[0].objectives["val_loss"].mean
    choice = max([p for p in ordered if p.objectives["val_loss"].mean <= lowest + within], key=_speed)
    faster = [p for p in ordered if _speed(p) > _speed(choice)]
    differences = {p.point_id: losses.difference(p.config_id, ordered[0].config_id) for p in faster}
    out = [p for p in faster if (low := differences[p.point_id].low) is not None and low > within]
    return _chosen("loss_within", choice, [p for p in faster if p not in out], out, losses)


def _chosen(by: By, choice: Point, kept: Sequence[Point], out: Sequence[Point], losses: AdditiveFit) -> Decision:
    def against(point: Point) -> Against:
        return _against(point, losses.difference(point.config_id, choice.config_id))

    return Decision(
        by=by,
        choice=choice.point_id,
        as_good=tuple(against(p) for p in kept if p is not choice),
        ruled_out=tuple(against(p) for p in out),
    )


def _against(point: Point, difference: Difference) -> Against:
    return Against(point_id=point.point_id, difference=difference.value, low=difference.low, high=difference.high)


def _open(found: Decision, points: Mapping[str, Point], trial_seconds: float | None) -> Open | None:
    """None where nothing is, or nothing is known of the noise."""
    lows = [one.low for one in found.as_good if one.low is not None]
    if not lows or found.choice is None:
        return None
    ids = (found.choice, *(one.point_id for one in found.as_good))
    seeds = {point.point_id: len(point.samples) for point in points.values()}
    trials = 3 * sum(seeds[point_id] for point_id in ids)
    return Open(
        point_ids=ids,
        at_stake=max(0.0, -min(lows)),
        trials=trials,
        seconds=None if trial_seconds is None else trials * trial_seconds,
    )
