"""The result in sentences: what was found, how sure it is, what is tied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.frontier.answer import seeds_text
from sweeper.values.labels import duration, gibibytes, labels, listed, short

if TYPE_CHECKING:
    from sweeper.frontier.frontiers import DeviceFrontier, Frontier
    from sweeper.frontier.points import Point, Standing
    from sweeper.measurements.utilization import Utilization

STANDINGS = {
    "frontier": "frontier",
    "tied": "tied with frontier",
    "dominated": "dominated",
    "unresolved": "off frontier, unsure",
    "unstable": "unstable",
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
MEMORY_PLANNED = (
    "predicted for the tensors, plus 0.6 GiB for context and kernels on a GPU; "
    "a trial on a CPU measures that of its whole process"
)
"""What the plan's memory is the memory of."""


BAR = 0.5**0.5
"""A bar ÷ half of a 95% interval: of two alike it is half of their least significant difference, √2 times as wide."""
BARS = "± is half of the least significant difference: where two overlap, the difference is within noise."
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
        "“Tied”: by the means some config is as good in both loss and speed, but the chance that one really is stays "
        "below 95%; in brackets, in what none is shown to be. A speed advantage "
        f"below {fraction_text(margins['tokens_per_s'])} counts as none{loss}."
    )


def fraction_text(fraction: float) -> str:
    """0.015 → "1.5%"."""
    return f"{100 * fraction:g}%"


def standing_cell(standing: Standing, tied_in: Sequence[str], *, diverged: int, finished: int) -> str:
    """A standing for a table's cell: "tied (loss)", "tied (speed)", "tied (both)", or as in `STANDINGS`.

    Of one that is unstable also how many of its trials `finished`, beside those that `diverged`.
    """
    if standing == "unstable":
        return f"unstable ({finished} of {finished + diverged} finished)"
    if standing != "tied":
        return STANDINGS[standing]
    return f"tied ({'both' if set(tied_in) == BOTH else listed([OBJECTIVES[name] for name in tied_in])})"


def point_standing(point: Point) -> str:
    """`standing_cell` of a point."""
    return standing_cell(point.standing, point.tied_in, diverged=point.diverged, finished=len(point.samples))


MOST_COMPARED = 100
"""Configs whose ties are looked for: in pairs they grow as the square."""


def tie_groups(one: DeviceFrontier) -> list[tuple[str, ...]]:
    """Labels of configs of which any two are tied in loss: as large as they get, best loss first.

    Being tied isn't transitive, so one config can stand in several groups. Of the MOST_COMPARED of the lowest losses.
    """
    tied = {frozenset((tie.a, tie.b)) for tie in one.ties}
    by_loss = sorted({p.config_id: p for p in one.points}.values(), key=lambda p: p.objectives["val_loss"].mean)
    by_loss = by_loss[:MOST_COMPARED]
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


def utilization_sentence(useful: Utilization) -> str:
    """What part of the device time was of use, "" where no device was held for a second."""
    if useful.fraction is None or useful.held_s < 1:
        return ""
    size, unit = next((s, u) for s, u in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if useful.held_s >= s)
    return (
        f"Utilization {useful.fraction:.0%}: of {useful.held_s / size:.1f} device-{unit} that were held, "
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
