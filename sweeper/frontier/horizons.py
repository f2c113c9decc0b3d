"""Would it hold for longer? The configs' orders at branches and at the end, and losses at equal tokens, FLOPs and time.

Every loss here is a cooled one. How far an order at a branch is that at the end is said by pairs: of those that are
told apart at the end, how many are in the same order at the branch by the means. And by what matters of it: what the
config that is lowest at the branch costs at the end (`sweeper.stats.choosing`). Kendall's τ of the means has no
interval: noise alone makes it lower than that of the true orders, and draws about the means lower still.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sweeper.ledger.typed import FinalLine
from sweeper.measurements.measured import loss_of
from sweeper.stats.additive_fit import AdditiveFit, Observation, fit
from sweeper.stats.choosing import Cost, cost_of_choosing
from sweeper.stats.rank import kendall_tau

Quantity = Literal["tokens", "train_flops", "train_seconds"]
QUANTITIES: tuple[Quantity, ...] = ("tokens", "train_flops", "train_seconds")
END = 1.0
"""The fraction of a trial's tokens at which it ends."""


@dataclass(frozen=True, kw_only=True)
class HorizonLoss:
    """A config's mean cooled loss, in nats, at some length, with its 95% interval and its rank among the configs there.

    `tokens` and `train_flops` as of a training of that length; `train_seconds` the mean over its `n` trials.
    """

    config_id: str
    label: str
    tokens: int
    train_flops: int | None
    train_seconds: float | None
    mean: float
    low: float | None
    high: float | None
    n: int
    rank: int


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Config `a` has the lower loss here, `b` later: both differences, in nats, have 95% intervals without zero.

    `before` and `after` are the loss of `b` less that of `a`, so that the first is above zero and the second below.
    """

    a: str
    b: str
    labels: tuple[str, str]
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far an order is that at a later length. `tau` is Kendall's τ-b of the means.

    Of all `pairs` of configs, `reversed` are the other way round there by their means, and `flips` beyond noise. Of
    those that are told apart there, `resolved` (None without an estimate of the noise), `agree` are in the same order
    here. `cost` is what the config with the lowest loss here costs there, in nats; `labels` are those of its configs.
    """

    tau: float | None
    pairs: int
    reversed: int
    resolved: int | None
    agree: int | None
    cost: Cost
    labels: Mapping[str, str]
    flips: tuple[Flip, ...]


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The configs' losses at a `fraction` of their tokens, lowest first; `agreement` with the order at the end."""

    fraction: float
    losses: tuple[HorizonLoss, ...]
    agreement: Agreement | None


@dataclass(frozen=True, kw_only=True)
class EqualLosses:
    """By config id the loss at `at` of a quantity, between its own cooled losses; None where these don't reach it."""

    quantity: Quantity
    at: float
    losses: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Horizons:
    """What branches say on one device type. `horizons` ascend to the end, which is the last.

    `equal` has, of each quantity, what all configs had reached at each horizon. Of `trials` trials `without` lack
    some of the branches that others have.
    """

    horizons: tuple[Horizon, ...]
    equal: tuple[EqualLosses, ...]
    trials: int
    without: int


@dataclass(frozen=True, kw_only=True)
class HeldForLonger:
    """What follow-ups say: the losses of the configs that were trained longer, `before` and `after`, lowest first.

    `before` are those of the same seeds, where the study trained more.
    Ids and labels are those of the study's own configs; `agreement` of the first order with the second.
    """

    before: tuple[HorizonLoss, ...]
    after: tuple[HorizonLoss, ...]
    agreement: Agreement | None


@dataclass(frozen=True, kw_only=True)
class _Cooled:
    """One trial's cooled loss at one length."""

    config_id: str
    seed: int
    loss: float
    tokens: int
    train_flops: int | None
    train_seconds: float | None


def horizons(finals: Sequence[FinalLine], labels: Mapping[str, str]) -> Horizons | None:
    """Of trials that ended ok and may be pooled; None where none of them has a branch.

    `labels` by config id: trials of other configs are left out.
    """
    finals = [record for record in finals if record.config_id in labels]
    taken = {END: [_end(record) for record in finals]}
    for record in finals:
        for branch in record.branches:
            if branch.val_loss is not None:
                cooled = _cooled(record, branch.val_loss, branch.tokens, branch.train_seconds)
                taken.setdefault(branch.fraction, []).append(cooled)
    fractions = sorted(taken)
    if len(fractions) == 1:
        return None
    found = [_horizon(fraction, taken, labels) for fraction in fractions]
    asked = set(fractions) - {END}
    have = [{branch.fraction for branch in record.branches} for record in finals]
    return Horizons(
        horizons=tuple(found),
        equal=tuple(_equal(found)),
        trials=len(finals),
        without=sum(not asked <= own for own in have),
    )


def held_for_longer(
    before: Sequence[FinalLine], after: Sequence[FinalLine], originals: Mapping[str, str], labels: Mapping[str, str]
) -> HeldForLonger | None:
    """Of trials of the study and of follow-ups, whose config ids `originals` takes to the study's; None without any."""
    longer = [replace(_end(record), config_id=originals[record.config_id]) for record in after]
    longer = [one for one in longer if one.config_id in labels]
    both = {(one.config_id, one.seed) for one in longer}
    own = [_end(record) for record in before if (record.config_id, record.seed) in both]
    if not longer:
        return None
    return HeldForLonger(
        before=tuple(horizon_losses(own, labels)),
        after=tuple(horizon_losses(longer, labels)),
        agreement=_agreement_of_trials(own, longer, labels),
    )


def _end(record: FinalLine) -> _Cooled:
    return _cooled(record, loss_of(record), record.tokens, record.seconds.get("train"))


def _cooled(record: FinalLine, loss: float, tokens: int, train_seconds: float | None) -> _Cooled:
    per_token = record.config.flops_per_token
    return _Cooled(
        config_id=record.config_id,
        seed=record.seed,
        loss=loss,
        tokens=tokens,
        train_flops=None if per_token is None else tokens * per_token,
        train_seconds=train_seconds,
    )


def _horizon(fraction: float, taken: Mapping[float, Sequence[_Cooled]], labels: Mapping[str, str]) -> Horizon:
    here, end = taken[fraction], taken[END]
    return Horizon(
        fraction=fraction,
        losses=tuple(horizon_losses(here, labels)),
        agreement=None if fraction == END else _agreement_of_trials(here, end, labels),
    )


def horizon_losses(cooled: Sequence[_Cooled], labels: Mapping[str, str]) -> list[HorizonLoss]:
    """Each config's at one length, lowest first."""
    fitted = _fit(cooled)
    own = {config_id: [one for one in cooled if one.config_id == config_id] for config_id in fitted.treatments}
    means = {config_id: fitted.mean(config_id) for config_id in own}
    losses = []
    for config_id in sorted(own, key=lambda config_id: means[config_id].value):
        seconds = [one.train_seconds for one in own[config_id] if one.train_seconds is not None]
        mean, any_one = means[config_id], own[config_id][0]
        losses.append(
            HorizonLoss(
                config_id=config_id,
                label=labels[config_id],
                tokens=any_one.tokens,
                train_flops=any_one.train_flops,
                train_seconds=sum(seconds) / len(seconds) if seconds else None,
                mean=mean.value,
                low=mean.low,
                high=mean.high,
                n=len(own[config_id]),
                rank=1 + sum(other.value < mean.value for other in means.values()),
            )
        )
    return losses


def _fit(cooled: Sequence[_Cooled]) -> AdditiveFit:
    return fit([Observation(treatment=one.config_id, block=f"seed {one.seed}", value=one.loss) for one in cooled])


def _agreement_of_trials(
    before: Sequence[_Cooled], after: Sequence[_Cooled], labels: Mapping[str, str]
) -> Agreement | None:
    """Of two lengths of the same trials, of those that have both; None with fewer than two configs."""
    later = {(one.config_id, one.seed): one for one in after}
    pairs = [(one, later[one.config_id, one.seed]) for one in before if (one.config_id, one.seed) in later]
    first, second = _fit([one for one, _ in pairs]), _fit([other for _, other in pairs])
    if len(first.treatments) < 2:
        return None
    return agreement(first, second, labels)


def agreement(before: AdditiveFit, after: AdditiveFit, labels: Mapping[str, str]) -> Agreement:
    """Of two fits with the same treatments in the same order."""
    n = len(before.treatments)
    first, second = np.triu_indices(n, k=1)
    gaps = [one.means[second] - one.means[first] for one in (before, after)]
    resolved = [_resolved(one, gap, first, second) for one, gap in zip((before, after), gaps, strict=True)]
    turned = gaps[0] * gaps[1] < 0
    flips = []
    for place in np.flatnonzero(turned & resolved[0] & resolved[1]):
        i, j, sign = int(first[place]), int(second[place]), 1.0
        if gaps[0][place] < 0:
            i, j, sign = j, i, -1.0
        a, b = before.treatments[i], before.treatments[j]
        flips.append(
            Flip(
                a=a,
                b=b,
                labels=(labels[a], labels[b]),
                before=sign * float(gaps[0][place]),
                after=sign * float(gaps[1][place]),
            )
        )
    cost = cost_of_choosing(before.treatments[int(before.means.argmin())], after)
    known = after.variance is not None
    return Agreement(
        tau=kendall_tau(before.means, after.means),
        pairs=len(turned),
        reversed=int(turned.sum()),
        resolved=int(resolved[1].sum()) if known else None,
        agree=int((resolved[1] & (gaps[0] * gaps[1] > 0)).sum()) if known else None,
        cost=cost,
        labels={config_id: labels[config_id] for config_id in dict.fromkeys((cost.chosen, cost.best))},
        flips=tuple(sorted(flips, key=lambda flip: min(-flip.before, flip.after))),
    )


def _resolved(
    one: AdditiveFit, gap: NDArray[np.float64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Of which pairs the interval of the difference leaves out zero; of none without an estimate of the noise."""
    if one.variance is None:
        return np.zeros(len(gap), dtype=bool)
    return np.abs(gap) > one.all_halves(one.treatments)[first, second]


def _equal(found: Sequence[Horizon]) -> list[EqualLosses]:
    """Of each quantity, at what all configs had spent by each horizon."""
    courses: dict[str, list[HorizonLoss]] = {}
    for horizon in found:
        for one in horizon.losses:
            courses.setdefault(one.config_id, []).append(one)
    made = []
    for quantity in QUANTITIES:
        course = {
            config_id: [(spent, one.mean) for one in own if (spent := getattr(one, quantity)) is not None]
            for config_id, own in courses.items()
        }
        budgets = [
            min(spent for one in horizon.losses if (spent := getattr(one, quantity)) is not None)
            for horizon in found
            if any(getattr(one, quantity) is not None for one in horizon.losses)
        ]
        for at in sorted(set(budgets)):
            losses = {config_id: interpolated(own, at) for config_id, own in course.items()}
            made.append(EqualLosses(quantity=quantity, at=at, losses=losses))
    return made


def interpolated(course: Sequence[tuple[float, float]], at: float) -> float | None:
    """The loss at `at` along straight lines through (spent, loss) in log–log; None outside, never extrapolated."""
    known = sorted(course)
    if not known or not known[0][0] <= at <= known[-1][0]:
        return None
    logs = np.log(np.array(known))
    return float(np.exp(np.interp(math.log(at), logs[:, 0], logs[:, 1])))
