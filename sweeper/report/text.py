"""The result in sentences: what was found, how sure it is, what is tied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.drift import LEAST, SIGNIFICANT
from sweeper.labels import duration, gibibytes, labels, listed, short
from sweeper.points import MARGINS

if TYPE_CHECKING:
    from sweeper.differences import LossDifference
    from sweeper.drift import Drift
    from sweeper.frontier import DeviceFrontier, Frontier
    from sweeper.points import Point, Standing
    from sweeper.useful import Useful

STANDINGS = {
    "frontier": "frontier",
    "tied": "tied with frontier",
    "dominated": "dominated",
    "unresolved": "off frontier, unsure",
}
"""A standing as a reader sees it."""
OBJECTIVES = {
    "val_loss": "loss",
    "tokens_per_s": "speed",
    "peak_memory_bytes": "memory",
    "params": "parameters",
    "trunk_params": "trunk parameters",
    "kv_bytes_per_token": "KV bytes/token",
    "train_flops_per_token": "FLOPs/token",
}
"""An objective as a reader sees it."""
MEMORY_PLANNED = "predicted for the tensors alone; a trial on a CPU measures that of its whole process"
"""What the plan's memory is the memory of."""


BOTH = {"val_loss", "tokens_per_s"}


def further_objectives(one: DeviceFrontier) -> list[str]:
    """The objectives besides loss, speed and parameters, which every table has."""
    names = one.points[0].objectives if one.points else ()
    return [name for name in names if name not in BOTH | {"params"}]


def objective_cell(name: str, value: float) -> str:
    """A value of one of `further_objectives`."""
    return gibibytes(value) if name == "peak_memory_bytes" else short(value)


def tied_means(margins: Mapping[str, float]) -> str:
    """What the standing "tied" claims."""
    loss = f", nor one in loss below {margins['val_loss']:g} nats" if margins["val_loss"] else "; loss has no margin"
    return (
        "“Tied”: by the means some config is as good in both loss and speed, but none is shown to be "
        "(95%, per comparison), or only within the stated margins; in brackets, in what it isn't. A speed advantage "
        f"that is below {_percent(margins['tokens_per_s'])} at best counts as none{loss}."
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g}%"


def standing_cell(standing: Standing, tied_in: Sequence[str]) -> str:
    """A standing for a table's cell: "tied (loss)", "tied (speed)", "tied (both)", or as in `STANDINGS`."""
    if standing != "tied":
        return STANDINGS[standing]
    return f"tied ({'both' if set(tied_in) == BOTH else listed([OBJECTIVES[name] for name in tied_in])})"


def answer(found: Frontier) -> tuple[str, str]:
    """Two sentences: which points are on the frontier or tied with it, and whether one has the lowest loss for sure.

    A best is only named as one where it is shown to be better than all others at once.
    """
    if not any(one.points for one in found.frontiers):
        return _nothing(found)
    one = main_device(found)
    where = f" On {one.device}:" if len(found.frontiers) > 1 else ""
    return f"{where} {_first(one)}".strip(), _second(one)


def _nothing(found: Frontier) -> tuple[str, str]:
    """The answer where no point can be placed: whether more is to come, and if not, how the jobs ended."""
    none = f"none of the {found.planned} planned points has both a loss and a speed."
    if found.to_do:
        return f"Nothing is known yet: {none}", "`sweeper status` says what is missing, `sweeper run` does it."
    ends = [f"{count} {state.replace('_', ' ')}" for state, count in found.jobs.items()]
    return f"Nothing can be ranked: {none}", f"All {sum(found.jobs.values())} jobs have ended: {listed(ends)}."


def main_device(found: Frontier) -> DeviceFrontier:
    """The kind of device with the most points: the one that the answer is about."""
    return max(found.frontiers, key=lambda one: len(one.points))


def _first(one: DeviceFrontier) -> str:
    kept = [p for p in one.points if p.standing in ("frontier", "tied")]
    counts = [p.params["total"] for p in one.points]
    low, high = short(min(counts)), short(max(counts))
    size = f"{low} parameters" if low == high else f"{low}–{high} parameters"
    if one.horizons is None and one.follow_up is None:
        size += f", at {tokens_text([({**p.recipe, **p.resolved}, p.params) for p in one.points])}"
    of = f"Of {len(one.points)} {_noun(one)} with {size}," if len(one.points) > 1 else f"At {size},"
    if len(kept) == 1:
        return f"{of} one is on the frontier: {_described(kept[0])}."
    n_tied = sum(p.standing == "tied" for p in kept)
    tied = " or tied with it" if n_tied else ""
    lowest = min(kept, key=lambda p: p.objectives["val_loss"].mean)
    means = "" if all(best.surely for best in one.best.values()) else ", by the means"
    if lowest is kept[0]:
        ends = f"{_described(lowest)} is the fastest and the best in loss{means}"
    else:
        ends = f"from {_described(kept[0])} to {_described(lowest)}{means}"
    return f"{of} {len(kept)} are on the quality/speed frontier{tied}: {ends}."


def tokens_text(trained: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """How long trainings were, by their recipes, as resolved, and parameters: "300k tokens (0.92 per parameter)"."""
    tokens = [recipe["tokens"] for recipe, _ in trained]
    ratios = [recipe["tokens"] / params["total"] for recipe, params in trained]
    return f"{_range(tokens)} tokens ({_range(ratios)} per parameter)"


def _range(values: Sequence[float]) -> str:
    low, high = short(min(values)), short(max(values))
    return low if low == high else f"{low}–{high}"


def _noun(one: DeviceFrontier) -> str:
    return "shapes" if len({str(p.shape) for p in one.points}) == len(one.points) else "points"


def _described(point: Point) -> str:
    loss, speed = point.objectives["val_loss"], point.objectives["tokens_per_s"]
    return f"{point.label} ({short(speed.mean)} tokens/s, loss {loss.mean:.3f})"


def _second(one: DeviceFrontier) -> str:
    noise = one.noise["val_loss"]
    n_configs = len({p.config_id for p in one.points})
    seeds = seeds_text([len(point.samples) for point in one.points])
    if n_configs == 1:
        return "A single config has nothing to be compared with."
    if noise.smallest_resolved is None:
        return f"With {seeds} no difference can be told from noise: the order may be chance."
    best, label = one.best["val_loss"], {p.point_id: p.label for p in one.points}
    pair = f"of any two, differences below {noise.smallest_resolved:.3f} nats are within noise at {seeds}"
    if best.surely:
        return f"{best.label} has the lowest loss, shown against all others at once; {pair}."
    others = list(dict.fromkeys(label[point_id] for point_id in best.tied_with))
    names = listed([best.label, *others], most=8)
    return f"Which has the lowest loss is open: judged all at once, {names} can't be told apart in loss; {pair}."


def seeds_text(each: Sequence[int]) -> str:
    """With how many seeds the points were trained: "3 seeds", or "1 to 5 seeds" where they differ."""
    least, most = min(each), max(each)
    return f"{least if least == most else f'{least} to {most}'} seed{'s' if most != 1 else ''}"


def tie_groups(one: DeviceFrontier) -> list[tuple[str, ...]]:
    """Labels of configs of which any two are tied in loss: as large as they get, best loss first.

    Being tied isn't transitive, so one config can stand in several groups.
    """
    tied = {frozenset((tie.a, tie.b)) for tie in one.ties}
    by_loss = sorted({p.config_id: p for p in one.points}.values(), key=lambda p: p.objectives["val_loss"].mean)
    groups: list[list[Point]] = []
    for i, first in enumerate(by_loss):
        group = [first]
        for other in by_loss[i + 1 :]:
            if all(frozenset((p.config_id, other.config_id)) in tied for p in group):
                group.append(other)
        ids = {p.config_id for p in group}
        if len(group) > 1 and not any(ids <= {p.config_id for p in known} for known in groups):
            groups.append(group)
    return [tuple(p.label for p in group) for group in groups]


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
            f"{noise.smallest_resolved or 0:.3f} between two that are compared for their own sake is a tie; "
            f"a true one of {noise.minimum_detectable or 0:.3f} would be found 8 times in 10."
        )
    speed = one.noise["tokens_per_s"]
    if speed.smallest_resolved is not None:
        sentences.append(
            f"Speeds less than {speed.smallest_resolved:.1%} apart are within noise; "
            f"being faster by less than {_percent(margins['tokens_per_s'])} at best counts as no advantage."
        )
    if one.drift is not None:
        sentences.append(drift_sentence(one.drift))
    sentences += tuned_sentences(one)
    sentences.append(one.held_equal)
    return sentences


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
        f"{label[t.config_id]}: "
        + ", ".join(f"{'/'.join(map(_value, level.values.values()))} {level.val_loss:.3f}" for level in t.levels)
        for t in shown
    ]
    more = len(one.tuned) - len(shown)
    return [f"{said}.", f"Loss by {axes}: {'; '.join(each)}{f'; and {more} more' if more > 0 else ''}."]


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


def _rivals_sentence(one: DeviceFrontier) -> list[str]:
    """By whom the points off the frontier are dominated, and how likely."""
    label = {p.point_id: p.label for p in one.points}
    each = [
        f"{p.label} by {', '.join(f'{label[rival.point_id]} {rival.chance:.0%}' for rival in p.dominated_by)}"
        for p in one.points
        if p.dominated_by and not p.on_frontier
    ]
    more = len(each) - MOST_DOMINATED
    said = each[:MOST_DOMINATED] + ([f"and {more} more points (frontier.json has them)"] if more > 0 else [])
    return ["Chance of being dominated: " + "; ".join(said) + "."] if said else []


def _in_what(tied_in: Sequence[str]) -> str:
    # With several dominators each may leave another objective open: what none is shown to do is to beat it in both.
    return f"{'both ' if set(tied_in) == BOTH else ''}{listed([OBJECTIVES[name] for name in tied_in])}"


def resolved_text(resolved: Mapping[str, Any]) -> str:
    """What measuring made of a declaration: "batch 16, fp8, 610 steps"; "" where nothing was resolved."""
    parts = [f"batch {resolved['batch_size']}"] if "batch_size" in resolved else []
    parts += [str(resolved["precision"])] if "precision" in resolved else []
    parts += [f"{resolved['steps']:,} steps"] if "steps" in resolved else []
    return ", ".join(parts)


MOST_PUT_LAST = 6
"""Configs put last that are listed."""


def put_last_sentences(found: Frontier) -> list[str]:
    """Which configs weren't trained as they were put last, and why."""
    said = [
        f"{one['label']} was put last: slower than {one['than_label']} ({short(one['tokens_per_s'])} against "
        f"{short(one['than_tokens_per_s'])} tokens/s), and predicted to have a lower loss with a chance of "
        f"{_chance(one['chance'])}."
        for one in found.put_last[:MOST_PUT_LAST]
    ]
    more = len(found.put_last) - len(said)
    were = "were" if more > 1 else "was"
    return [*said, f"{more} more {were} put last for such reasons (frontier.json has them)."] if more else said


def _chance(chance: float) -> str:
    return f"{chance:.1%}" if chance >= 0.001 else "less than 0.1%"


def useful_sentence(useful: Useful) -> str:
    """What part of the device time was of use, "" where no device was held for a second."""
    if useful.fraction is None or useful.held_s < 1:
        return ""
    size, unit = next((s, u) for s, u in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if useful.held_s >= s)
    return (
        f"Useful fraction {useful.fraction:.0%}: of {useful.held_s / size:.1f} device-{unit} that were held, "
        f"{useful.useful_s / size:.1f} went into trials' own steps and evaluation."
    )


def plan_facts(plan: Mapping[str, Any]) -> list[str]:
    """Of `plan --json`'s object: what is feasible, what was dropped and why, and what all trials cost."""
    lattice, totals, examples = plan["lattice"], plan.get("totals") or {}, plan.get("messages") or {}
    facts = [f"{lattice['feasible']} of {lattice['points']} points of the lattice are feasible."]
    for reason, count in lattice.get("dropped", {}).items():
        example = f" (such as: {examples[reason]})" if reason in examples else ""
        facts.append(f"Dropped {count}: {reason}{example}.")
    if totals:
        facts.append(
            f"{totals['trials']} trials ({totals['configs']} configs × {seeds_text([totals['seeds']])}): "
            f"{short(totals['tokens'])} tokens, {short(totals['train_flops'])} FLOPs, "
            f"about {duration(totals['seconds'])} on one device."
        )
        if totals.get("probes"):
            facts.append(f"At most {totals['probes']} probes of the speed, seconds each, come on top.")
    return [*facts, *plan.get("notes", ())]


def plan_warnings(plan: Mapping[str, Any]) -> list[str]:
    """The configs' warnings, each once with the configs that it is about; without them where it's all."""
    about: dict[str, list[str]] = {}
    for config, label in zip(plan["configs"], labels(plan["configs"]), strict=True):
        for warning in config.get("warnings", ()):
            about.setdefault(warning, []).append(label)
    everyone = len(plan["configs"])
    return [warning if len(names) == everyone else f"{listed(names)}: {warning}" for warning, names in about.items()]
