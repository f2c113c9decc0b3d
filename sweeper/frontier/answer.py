"""The answer: at most six lines, the decision first.

What to train and why; what is as good; how it stands at equal training time; what is ruled out; what is open and what
settling it costs; for what all this holds. A line that has nothing to say is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.frontier.points import steady
from sweeper.values.labels import duration, listed, short

if TYPE_CHECKING:
    from sweeper.frontier.decision import Against
    from sweeper.frontier.frontiers import DeviceFrontier, Frontier
    from sweeper.frontier.points import Point
    from sweeper.stats.equal_time import LossAtTime

MOST_NAMED = 3
"""Configs that a line names; the rest is counted."""


def answer(found: Frontier) -> tuple[str, ...]:
    """The lines, for the device type with the most points."""
    if not any(one.points for one in found.frontiers):
        return _nothing(found)
    one = main_device(found)
    if one.decision.choice is None:
        return ("Nothing can be chosen: no config has both a loss and a speed.",)
    words = _Words(one)
    lines = (words.choice(), words.as_good(), words.elsewhere(), words.ruled_out(), words.open(), words.holds())
    return tuple(line for line in lines if line)


def _nothing(found: Frontier) -> tuple[str, ...]:
    """The answer where no point can be placed: whether more is to come, and if not, how the jobs ended."""
    none = f"none of the {found.planned} planned points has both a loss and a speed."
    if found.to_do:
        return f"Nothing is known yet: {none}", "`sweeper status` says what is missing, `sweeper run` does it."
    ends = [f"{count} {state.replace('_', ' ')}" for state, count in found.jobs.items()]
    return f"Nothing can be ranked: {none}", f"All {sum(found.jobs.values())} jobs have ended: {listed(ends)}."


def main_device(found: Frontier) -> DeviceFrontier:
    """The device type with the most points: the one that the answer is about."""
    return max(found.frontiers, key=lambda one: len(one.points))


class _Words:
    """The lines of one device type, which has a choice."""

    def __init__(self, one: DeviceFrontier) -> None:
        self._one, self._decision = one, one.decision
        self._points = {point.point_id: point for point in one.points}
        self._choice = self._points[one.decision.choice or ""]
        self._labels = {point.config_id: point.label for point in steady(one.points)}
        self._several = len(self._labels)

    def choice(self) -> str:
        """What to train, and why."""
        label, why = self._choice.label, self._why()
        return f"Train {label}: {why}."

    def _why(self) -> str:
        decision, at = self._decision, self._at()
        if self._several == 1:
            return "the only config that was measured"
        if not decision.knows_noise:
            return f"the lowest loss {at}, though with one seed no difference can be told from noise"
        if decision.by == "loss_within":
            return f"the fastest whose mean loss is at most {decision.within:g} nats above the lowest {at}"
        if decision.settled:
            others = "the other" if self._several == 2 else f"all {self._several - 1} others"
            return f"the lowest loss {at}, shown against {others}"
        fastest = self._is_fastest(self._choice)
        lowest = min(steady(self._one.points), key=_loss).config_id == self._choice.config_id
        if decision.by == "equal_time":
            return f"{'the fastest, and ' if fastest else ''}the lowest mean loss {at}"
        if fastest and lowest:
            return f"the fastest, and the lowest mean loss {at}"
        if fastest:
            return f"the fastest, and none is shown to reach a lower loss {at}"
        return f"the fastest of the {1 + len(decision.as_good)} that none is shown to beat in loss {at}"

    def _at(self) -> str:
        if self._decision.by == "equal_time" and self._decision.at_time is not None:
            return f"after {duration(self._decision.at_time.seconds)} of training"
        return self._at_the_end()

    def _at_the_end(self) -> str:
        tokens = [n for point in self._one.points if (n := _tokens(point)) is not None]
        return f"at {_range(tokens)} tokens" if tokens else "at the end"

    def _is_fastest(self, point: Point) -> bool:
        return _speed(point) >= max(map(_speed, steady(self._one.points)))

    def as_good(self) -> str:
        """What may be as good, with how far its loss may be from the choice's, and its speed."""
        others = self._decision.as_good
        if not others or not self._decision.knows_noise:
            return ""
        named = [f"{self._label(one)} ({_interval(one)}; {self._speed_of(one)})" for one in others[:MOST_NAMED]]
        more = len(others) - len(named)
        return f"May be as good: {listed([*named, *([f'{more} more'] if more else [])])}."

    def elsewhere(self) -> str:
        """How it stands at equal training time; where that is what the decision goes by, at the end of all tokens."""
        at_time = self._decision.at_time
        if self._several == 1:
            return ""
        if at_time is None:
            return "At equal training time nothing is told: it takes `trial.branch_at`, such as [25%, 50%]."
        if self._decision.by == "equal_time":
            return self._at_equal_tokens()
        first = at_time.losses[0]
        told = [one for one in at_time.losses if not one.bound and one is not first]
        own = next((one for one in told if one.config_id == self._choice.config_id), told[0] if told else None)
        if own is None or own.difference is None or own.difference.low is None:
            return ""
        half = own.difference.value - own.difference.low
        lead, other = self._labels[first.config_id], self._labels[own.config_id]
        return (
            f"At equal training time ({duration(at_time.seconds)}) {lead} leads {other} by "
            f"{_nats(own.difference.value, half)} ± {_nats(half, half)} nats."
        )

    def _at_equal_tokens(self) -> str:
        lowest = min(steady(self._one.points), key=_loss)
        if lowest.config_id == self._choice.config_id:
            return ""
        apart = self._one.fits["val_loss"].difference(lowest.config_id, self._choice.config_id)
        if apart.low is None:
            return ""
        half = apart.value - apart.low
        at = self._at_the_end()
        return (
            f"{at[0].upper()}{at[1:]} {lowest.label} has the lowest mean, "
            f"{_nats(-apart.value, half)} ± {_nats(half, half)} nats below {self._choice.label}."
        )

    def ruled_out(self) -> str:
        """What is shown to be worse, and by how much."""
        out = self._decision.ruled_out
        if not out:
            return ""
        named = [f"{self._label(one)}, {_above(one)} nats higher and {self._speed_of(one)}" for one in out[:MOST_NAMED]]
        more = len(out) - len(named)
        return f"Ruled out: {'; '.join([*named, *([f'and {more} more'] if more else [])])}."

    def open(self) -> str:
        """What isn't settled, what is at stake, and what settling it costs."""
        decision, said = self._decision, []
        if (still := decision.open) is not None:
            time = "" if still.seconds is None else f" ({duration(still.seconds)} on one device)"
            said.append(
                f"which of these has the lowest loss; at most {_nats(still.at_stake, still.at_stake)} nats are at "
                f"stake; {still.trials} more trials{time} halve that"
            )
        if decision.not_told and decision.at_time is not None:
            names = listed([self._points[point_id].label for point_id in decision.not_told])
            reached = {self._labels[one.config_id]: one for one in decision.at_time.losses if one.bound}
            shares = [_share(reached[self._points[i].label], self._points[i]) for i in decision.not_told]
            earliest = 100 * min(shares)
            said.append(f"{names}, not told at equal time: a branch at {earliest:.0f}% or earlier tells")
        return f"Open: {'; '.join(said)}." if said else ""

    def holds(self) -> str:
        """For what it holds: size, tokens per parameter, device, how the rate was set."""
        points = self._one.points
        size = _range([point.params["total"] for point in points])
        ratios = [n / point.params["total"] for point in points if (n := _tokens(point)) is not None]
        each = f" at {_range(ratios)} tokens per parameter" if ratios else ""
        return f"Holds for {size} parameters{each} on {self._one.device}{self._rate()}."

    def _rate(self) -> str:
        if any(
            name in level.values for one in self._one.tuned for level in one.levels for name in ("optimizer.lr", "lr")
        ):
            return ", with each shape at its best learning rate"
        optimizers = [recipe.optimizer for point in self._one.points if (recipe := point.config.recipe) is not None]
        rates = {optimizer.lr for optimizer in optimizers}
        if not optimizers:
            return ""
        if all(optimizer.base for optimizer in optimizers):
            return ", with a learning rate scaled to each shape by CompleteP"
        one = f"one learning rate ({next(iter(rates)):g})"
        return f", with {one if len(rates) == 1 else f'{len(rates)} learning rates'}"

    def _label(self, one: Against) -> str:
        return self._points[one.point_id].label

    def _speed_of(self, one: Against) -> str:
        ratio = _speed(self._points[one.point_id]) / _speed(self._choice)
        if abs(ratio - 1) < 0.005:
            return "as fast"
        if ratio >= 1.5:
            return f"{ratio:.1f}× as fast"
        return f"{abs(ratio - 1):.0%} {'faster' if ratio > 1 else 'slower'}"


def _share(one: LossAtTime, point: Point) -> float:
    return one.tokens / (_tokens(point) or one.tokens)


def _loss(point: Point) -> float:
    return point.objectives["val_loss"].mean


def _speed(point: Point) -> float:
    return point.objectives["tokens_per_s"].mean


def _tokens(point: Point) -> int | None:
    """Of one training, as resolved; None of a program, which doesn't say."""
    recipe = point.config.recipe
    tokens: int | None = point.resolved.get("tokens", None if recipe is None else recipe.tokens)
    return tokens


def _nats(value: float, half: float) -> str:
    """`value` with as many digits as an interval of ± `half` allows."""
    digits = 3 if half <= 0 else max(2, min(4, 1 - math.floor(math.log10(half))))
    return f"{value:.{digits}f}"


def _interval(one: Against) -> str:
    """ "0.016 lower; 95%: 0.064 lower to 0.032 higher"."""
    if one.low is None or one.high is None:
        return _side(one.difference, 0.01)
    half = (one.high - one.low) / 2
    return f"{_side(one.difference, half)}; 95%: {_side(one.low, half)} to {_side(one.high, half)}"


def _side(value: float, half: float) -> str:
    return f"{_nats(abs(value), half)} {'lower' if value < 0 else 'higher'}"


def _above(one: Against) -> str:
    if one.low is None or one.high is None:
        return _nats(one.difference, 0.01)
    half = (one.high - one.low) / 2
    return f"{_nats(one.difference, half)} [{_nats(one.low, half)}, {_nats(one.high, half)}]"


def _range(values: Sequence[float]) -> str:
    low, high = short(min(values)), short(max(values))
    return low if low == high else f"{low} to {high}"


def tokens_text(trained: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """How long trainings were, by their recipes, as resolved, and parameters: "300k tokens (0.92 per parameter)"."""
    tokens = [recipe["tokens"] for recipe, _ in trained]
    ratios = [recipe["tokens"] / params["total"] for recipe, params in trained]
    return f"{_range(tokens)} tokens ({_range(ratios)} per parameter)"


def finished_text(point: Point) -> str:
    """Of a point that diverged for some seed: "1 of 3 finished"."""
    finished = len(point.samples)
    return f"{finished} of {finished + point.diverged} finished"


def seeds_text(each: Sequence[int]) -> str:
    """With how many seeds the points were trained: "3 seeds", or "1 to 5 seeds" where they differ."""
    least, most = min(each), max(each)
    return f"{least if least == most else f'{least} to {most}'} seed{'s' if most != 1 else ''}"
