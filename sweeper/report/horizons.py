"""Would it hold for longer? What branches say, as tables of text and sentences, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.values.labels import duration, listed, short

if TYPE_CHECKING:
    from sweeper.frontier.frontiers import DeviceFrontier
    from sweeper.frontier.horizons import Agreement, EqualLosses, HeldForLonger, HorizonLoss, Horizons

TITLE = "Would it hold for longer?"
MOST_FLIPS = 3
"""Pairs of configs that change places beyond noise and are named, of each length."""


@dataclass(frozen=True, kw_only=True)
class HorizonTable:
    """Cells as text; the first column names configs."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def horizon_tables(found: Horizons, *, brief: bool = False) -> list[HorizonTable]:
    """The losses and ranks at each length, then the losses at equal tokens, FLOPs and time.

    `brief`: without intervals, and of equal amounts only the largest that all configs reached.
    """
    end = found.horizons[-1].losses
    equal = [one for one in found.equal if not brief or one.at == _largest(found, one)]
    at_lengths = HorizonTable(
        caption="Cooled losses at fractions of each config's tokens, in nats; in brackets the rank.",
        headers=("config", *(_at(one.fraction) for one in found.horizons)),
        rows=tuple(
            (one.label, *(_cell(_of(horizon.losses, one.config_id), brief=brief) for horizon in found.horizons))
            for one in end
        ),
    )
    at_equal = HorizonTable(
        caption="Cooled losses at equal tokens, FLOPs and training time, along a config's own cooled losses (straight "
        "lines in log–log); blank where it has none on both sides.",
        headers=("config", *(_amount(one) for one in equal)),
        rows=tuple(
            (one.label, *("" if (loss := amount.losses[one.config_id]) is None else f"{loss:.3f}" for amount in equal))
            for one in end
        ),
    )
    return [at_lengths, at_equal]


def _largest(found: Horizons, one: EqualLosses) -> float:
    return max(other.at for other in found.equal if other.quantity == one.quantity)


def _of(losses: Sequence[HorizonLoss], config_id: str) -> HorizonLoss | None:
    return next((one for one in losses if one.config_id == config_id), None)


def _cell(one: HorizonLoss | None, *, brief: bool) -> str:
    if one is None:
        return ""
    interval = "" if brief or one.high is None else f" ± {one.high - one.mean:.3f}"
    return f"{one.mean:.3f}{interval} ({one.rank})"


def _at(fraction: float) -> str:
    return "the end" if fraction == 1 else f"{100 * fraction:.3g}%"


def _amount(one: EqualLosses) -> str:
    if one.quantity == "train_seconds":
        return duration(one.at) if one.at >= 10 else f"{one.at:.2g} s"
    return f"{short(one.at)} {'tokens' if one.quantity == 'tokens' else 'FLOPs'}"


def section(one: DeviceFrontier, *, brief: bool = False) -> tuple[list[HorizonTable], list[str]]:
    """All that branches and follow-ups of a device type say; nothing where it has none."""
    tables: list[HorizonTable] = []
    said: list[str] = []
    if one.follow_up is not None:
        tables.append(_follow_up_table(one.follow_up, brief=brief))
        if one.follow_up.agreement is not None:
            said += agreement_sentences(
                one.follow_up.agreement, here="at the study's length", later="after training for longer"
            )
    if one.horizons is not None:
        tables += horizon_tables(one.horizons, brief=brief)
        said += horizon_sentences(one.horizons)
    if one.tuned and tables:
        axes = listed(list(one.tuned[0].levels[0].values))
        said.append(f"Losses here are plain means; the frontier's are corrected for having picked the best {axes}.")
    return tables, said


def _follow_up_table(found: HeldForLonger, *, brief: bool) -> HorizonTable:
    return HorizonTable(
        caption="Configs that were trained for longer: losses of the same seeds, in brackets the rank among them.",
        headers=("config", *(_tokens(losses) for losses in (found.before, found.after))),
        rows=tuple(
            (one.label, *(_cell(_of(losses, one.config_id), brief=brief) for losses in (found.before, found.after)))
            for one in found.after
        ),
    )


def _tokens(losses: Sequence[HorizonLoss]) -> str:
    low, high = (short(end(one.tokens for one in losses)) for end in (min, max))
    return f"{low if low == high else f'{low}–{high}'} tokens"


def horizon_sentences(found: Horizons) -> list[str]:
    """How the order at each branch agrees with that at the end, who changes places, and what is missing."""
    said = []
    for horizon in found.horizons:
        if horizon.agreement is not None:
            said += agreement_sentences(
                horizon.agreement, here=f"at {_at(horizon.fraction)} of the tokens", later="at the end"
            )
    if found.without:
        ran = "trial ran" if found.without == 1 else "trials ran"
        said.append(
            f"{found.without} of {found.trials} {ran} without all of these branches: `sweeper run` trains what the "
            "study asks for again."
        )
    return said


def agreement_sentences(one: Agreement, *, here: str, later: str) -> list[str]:
    """How far the order `here` is that `later`, what choosing here costs, and who changes places beyond noise."""
    if one.resolved is None:
        turned = f"{one.reversed} of {one.pairs} pairs {'is' if one.reversed == 1 else 'are'} the other way round"
        said = [f"{turned} {later} than {here}, by the means; nothing is known of the noise."]
    elif not one.resolved:
        said = [f"No pair of configs is told apart {later}."]
    else:
        pairs = "1 pair that is" if one.resolved == 1 else f"{one.resolved} pairs that are"
        agree = f"{one.agree} {'is' if one.agree == 1 else 'are'}"
        flips = len(one.flips)
        turned = f"; {flips} {'is' if flips == 1 else 'are'} the other way round beyond noise" if flips else ""
        said = [f"Of {pairs} told apart {later}, {agree} so ordered {here} too{turned}."]
    said.append(_cost_sentence(one, here=here, later=later))
    said += [
        f"{flip.labels[0]} is {flip.before:.3f} nats below {flip.labels[1]} {here}, and {-flip.after:.3f} above it "
        f"{later}, beyond noise both times."
        for flip in one.flips[:MOST_FLIPS]
    ]
    if (more := len(one.flips) - MOST_FLIPS) > 0:
        said.append(f"{more} more such {'pairs are' if more > 1 else 'pair is'} in frontier.json.")
    return said


def _cost_sentence(one: Agreement, *, here: str, later: str) -> str:
    """What choosing the lowest loss `here` costs `later`."""
    cost, chosen = one.cost, one.labels[one.cost.chosen]
    if cost.value == 0:
        most = "" if cost.high is None else f"; another may be up to {cost.high:.3f} nats lower (95%)"
        return f"Choosing {here} takes {chosen}, which has the lowest loss {later} too{most}."
    interval = "" if cost.low is None else f" (95%: {cost.low:.3f} to {cost.high:.3f})"
    return (
        f"Choosing {here} takes {chosen}, which costs {cost.value:.3f} nats {later}{interval} against "
        f"{one.labels[cost.best]}."
    )
