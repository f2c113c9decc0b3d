"""What is said of one device type's frontier: ties, rivals, noise, drift, what was held equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sweeper.frontier.noise_words import class_sentences
from sweeper.measurements.drift import LEAST, SIGNIFICANT
from sweeper.report.text import BOTH, OBJECTIVES, fraction_text, tie_groups
from sweeper.values.labels import listed, short
from sweeper.values.objectives import MARGINS

if TYPE_CHECKING:
    from sweeper.frontier.differences import LossDifference
    from sweeper.frontier.frontiers import DeviceFrontier, Noise
    from sweeper.measurements.drift import Drift

MOST_TIES = 4
"""Groups of ties that are listed, those of the lowest losses."""
MOST_TIED = 8
"""Points tied with the frontier of which it is said with which and in what, the fastest."""


def noise_sentences(one: DeviceFrontier, margins: Mapping[str, float] = MARGINS) -> list[str]:
    """The gap, the ties, the noise and the minimum detectable difference, one sentence or two each."""
    noise, sentences = one.noise["val_loss"], []
    gap = one.gap
    if gap is not None and gap.standard_error:
        sentences.append(_gap_sentence(gap))
    if groups := tie_groups(one):
        said = [listed(group, most=8) for group in groups[:MOST_TIES]]
        more = len(groups) - len(said)
        said += [f"and {more} more such {'groups' if more > 1 else 'group'} with higher losses"] if more else []
        sentences.append("Tied in loss, two by two: " + "; ".join(said) + ".")
    sentences += [*_within_margin(one, margins), *_tied_with_frontier(one), *_rivals_sentence(one)]
    if one.points:
        sentences.append(_hypervolume_sentence(one))
    if noise.residual_sd is not None:
        sentences.append(
            f"Noise: a trial's loss scatters by {noise.residual_sd:.3f} nats (sd, "
            f"{noise.degrees_of_freedom} degrees of freedom). A difference below "
            f"{noise.smallest_resolved or 0:.3f}{_for_some_pairs(noise)} is a tie; "
            f"a true one of {noise.minimum_detectable or 0:.3f} would be found 8 times in 10."
        )
    speed = one.noise["tokens_per_s"]
    if speed.smallest_resolved is not None:
        sentences.append(
            f"Speeds less than {speed.smallest_resolved:.1%} apart are within noise; "
            f"being faster by less than {fraction_text(margins['tokens_per_s'])} at best counts as no advantage."
        )
    sentences += class_sentences(one.noise_classes)
    if one.drift is not None:
        sentences.append(drift_sentence(one.drift))
    sentences += [*tuned_sentences(one), *_elsewhere_sentence(one), one.held_equal]
    return sentences


def _for_some_pairs(noise: Noise) -> str:
    least, most = noise.smallest_resolved or 0.0, noise.largest_tie or 0.0
    return f" (for some pairs {most:.3f})" if most > 1.05 * least else ""


def _elsewhere_sentence(one: DeviceFrontier) -> list[str]:
    """Which trials another device type has run."""
    trials = {(p.config_id, sample.seed): sample.device for p in one.points for sample in p.samples}
    others = sorted({device for device in trials.values() if device is not None})
    count = sum(device is not None for device in trials.values())
    said = f"{count} of the {len(trials)} trials ran on {listed(others)}: their losses count, their speeds don't."
    return [said] if others else []


def _within_margin(one: DeviceFrontier, margins: Mapping[str, float]) -> list[str]:
    """The pairs that are tied because no more than the margin lies between them, though noise tells them apart."""
    pairs = [" and ".join(tie.labels) for tie in one.ties if tie.within_margin and (tie.low or 0) > 0]
    more = len(pairs) - MOST_TIES
    listed_pairs = pairs[:MOST_TIES] + ([f"and {more} more {'pairs' if more > 1 else 'pair'}"] if more > 0 else [])
    within = f"Tied within the stated margin of {margins['val_loss']:g} nats, though told apart: "
    return [f"{within}{'; '.join(listed_pairs)}."] if pairs else []


def _hypervolume_sentence(one: DeviceFrontier) -> str:
    """The hypervolume, its interval, and from where it is measured."""
    interval, names = one.hypervolume_interval, list(one.reference)
    between = f", 95% interval {short(interval.low)} to {short(interval.high)}" if interval else ""
    units = " nats × tokens/s" if set(names) == BOTH else ""
    worst = ", ".join(f"{OBJECTIVES[name]} {short(one.reference[name], 4)}" for name in names)
    return f"Hypervolume {short(one.hypervolume)}{units}{between}: from the frontier to the worst of each ({worst})."


def _gap_sentence(gap: LossDifference) -> str:
    said = (
        f"Best to worst: {gap.labels[0]} is {gap.difference:.3f} ± {gap.standard_error or 0:.3f} nats below "
        f"{gap.labels[1]} (± standard error, paired by seed)"
    )
    interval = f"95% interval {gap.low or 0:.3f} to {gap.high or 0:.3f} for all pairs at once, as these two are picked"
    if gap.within_margin:
        return f"{said}; {interval}: all of it within the stated margin."
    if (gap.low or 0) > 0:
        return f"{said}; {interval}."
    return f"{said}, which noise alone can make of equal configs ({interval})."


def drift_sentence(drift: Drift) -> str:
    """How far the reference config's speed moved, and what became of that."""
    if drift.p is None:
        return "Drift: the reference config was measured once, so that nothing is known of any; nothing is corrected."
    devices = "1 device" if drift.devices == 1 else f"{drift.devices} devices"
    ran = (
        f"Drift: the reference config was measured {drift.measurements} times on {devices} and ran between "
        f"{abs(drift.low):.1%} slower and {drift.high:.1%} faster than its mean"
    )
    if drift.corrected:
        return f"{ran}; speeds are corrected for it."
    if not drift.moved:
        within = "what its windows explain" if drift.p >= SIGNIFICANT else f"{LEAST:.1%}, which is too little to matter"
        return f"{ran}, within {within}; nothing is corrected."
    return f"{ran}, but without a course that its measurements share; nothing is corrected."


MOST_TUNED = 8
"""Shapes whose losses at all values of the nuisance axes are listed."""


def tuned_sentences(one: DeviceFrontier) -> list[str]:
    """That each shape is judged at its best value of the nuisance axes, and what its loss is at each of them."""
    if not one.tuned:
        return []
    label = {p.config_id: p.label for p in one.points}
    shown = [t for p in one.points for t in one.tuned if t.config_id == p.config_id][:MOST_TUNED]
    axes = listed(list(one.tuned[0].levels[0].values))
    gains = [t.optimism for t in one.tuned if t.optimism is not None]
    said = f"{len(one.tuned)} shapes are judged at their best {axes}"
    if gains:
        said += (
            f", chosen for each seed by the others: the plain means of the best are {sum(gains) / len(gains):.3f} nats "
            "lower, for having been picked"
        )
    each = [
        f"{label[t.config_id]} ("
        + ", ".join(f"{'/'.join(map(_value, level.values.values()))}: {level.val_loss:.3f}" for level in t.levels)
        + ")"
        for t in shown
    ]
    more = len(one.tuned) - len(shown)
    return [f"{said}.", f"Loss by {axes}: {', '.join(each)}{f' and {more} more' if more > 0 else ''}."]


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tied_with_frontier(one: DeviceFrontier) -> list[str]:
    label = {p.point_id: p.label for p in one.points}
    tied = [p for p in one.points if p.standing == "tied"]
    said = [
        f"{p.label} is tied with the frontier: {listed([label[i] for i in p.tied_with])} "
        f"{'are' if len(p.tied_with) > 1 else 'is'} not shown to beat it in {_in_what(p.tied_in)}."
        for p in tied[:MOST_TIED]
    ]
    return said + ([f"{len(tied) - len(said)} more are tied with the frontier."] if len(tied) > len(said) else [])


MOST_DOMINATED = 6
"""Points whose rivals are listed."""
SURE = 0.99
"""A point that another dominates with at least this chance needs no sentence: its standing says so."""


def _rivals_sentence(one: DeviceFrontier) -> list[str]:
    """By whom the points off the frontier may be dominated, and how likely, where that isn't sure."""
    label = {p.point_id: p.label for p in one.points}
    each = [
        f"{p.label} by {', '.join(f'{label[rival.point_id]} {rival.chance:.0%}' for rival in p.dominated_by)}"
        for p in one.points
        if p.dominated_by and not p.on_frontier and max(rival.chance for rival in p.dominated_by) < SURE
    ]
    more = len(each) - MOST_DOMINATED
    said = each[:MOST_DOMINATED] + ([f"and {more} more points (frontier.json has them)"] if more > 0 else [])
    return ["Chance of being dominated, where it isn't sure: " + "; ".join(said) + "."] if said else []


def _in_what(tied_in: Sequence[str]) -> str:
    # With several dominators each may leave another objective open: what none is shown to do is to beat it in both.
    return f"{'both ' if set(tied_in) == BOTH else ''}{listed([OBJECTIVES[name] for name in tied_in])}"
