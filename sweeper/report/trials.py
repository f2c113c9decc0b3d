"""Every trial with an outcome as a row of the page's table, and what the script is told of points and curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.labels import duration, gibibytes, labels, short
from sweeper.report import curves
from sweeper.report.tables import loss_interval, percent, speed_interval
from sweeper.report.text import resolved_text, standing_cell
from sweeper.useful import of_own_seconds, own_seconds

if TYPE_CHECKING:
    from sweeper.frontier import Frontier
    from sweeper.points import Point

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the trials' table: what of an outcome it shows (None: missing), and how."""

    header: str
    value: Callable[[Record], Any]
    text: Callable[[Any], str] = str
    hint: str = ""
    numbers: bool = True
    kept: bool = False
    """Whether it is shown where all of it is missing."""


def _speed(name: str) -> Callable[[Record], Any]:
    return lambda record: (record.get("speed") or {}).get(name)


COLUMNS = (
    Column(header="device", value=lambda r: str(r.get("device") or "") or None, numbers=False),
    Column(header="seed", value=lambda r: r["seed"], kept=True),
    Column(header="status", value=lambda r: _status(r), numbers=False, kept=True),
    Column(header="loss", value=lambda r: r.get("val_loss"), text=lambda v: f"{v:.4f}", kept=True),
    Column(header="bits/byte", value=lambda r: r.get("val_bpb"), text=lambda v: f"{v:.4f}"),
    Column(header="tokens/s", value=_speed("tokens_per_s"), text=short, kept=True),
    Column(header="TFLOP/s", value=_speed("tflops_per_s"), text=lambda v: f"{v:.3g}"),
    Column(header="MFU", value=_speed("mfu"), text=lambda v: f"{v:.1%}", hint="of the device's dense bf16 peak"),
    Column(header="tokens", value=lambda r: r.get("tokens"), text=short),
    Column(header="time", value=lambda r: own_seconds(r.get("seconds") or {}) or None, text=duration),
    Column(
        header="useful",
        value=lambda r: of_own_seconds(r.get("seconds") or {}),
        text=lambda v: f"{v:.0%}",
        hint="of the trial's own time: its steps and its evaluation",
    ),
    Column(header="memory", value=lambda r: r.get("peak_memory_bytes"), text=gibibytes),
    Column(
        header="notes", value=lambda r: r.get("error") or "; ".join(r.get("notes") or ()) or None, numbers=False
    ),
)  # fmt: skip
"""All but the config, which comes first."""


def _status(record: Record) -> str:
    return str(record["status"] if record["type"] == "final" else "failed").replace("_", " ")


def config_names(found: Frontier, plan: Mapping[str, Any]) -> dict[str, str]:
    """The label of each planned config by its id: that of its point where it has one of its own."""
    configs = plan["configs"]
    names = dict(zip([config["config_id"] for config in configs], labels(configs), strict=True))
    own = {point.point_id: point.label for one in found.frontiers for point in one.points}
    return names | {config_id: label for config_id, label in own.items() if config_id in names}


def planned_outcomes(plan: Mapping[str, Any], records: Sequence[Record]) -> list[Record]:
    """Of each trial that the study asks for now, the last outcome on each kind of device; without any, its failure.

    In the order of the plan and by seed.
    """
    places = {config["config_id"]: place for place, config in enumerate(plan["configs"])}
    seeds = plan["totals"]["most_seeds"]
    asked = [r for r in records if "trial_id" in r and r["config_id"] in places and r["type"] in ("final", "failed")]
    asked = [r for r in asked if r["seed"] < seeds]
    finals = {(r["trial_id"], str(r.get("device"))): r for r in asked if r["type"] == "final"}
    done = {trial_id for trial_id, _ in finals}
    failed = {r["trial_id"]: r for r in asked if r["trial_id"] not in done}
    return sorted((*finals.values(), *failed.values()), key=lambda r: (places[r["config_id"]], r["seed"]))


def trial_table(outcomes: Sequence[Record], names: Mapping[str, str]) -> dict[str, Any]:
    """`{"columns", "rows"}`: columns that have something to say, and a row per outcome in the order of `outcomes`.

    A row's `cells` are pairs of the value to sort by, "" where it is missing, and its text.
    """
    several = len({str(record.get("device")) for record in outcomes if record["type"] == "final"}) > 1
    columns = [
        column
        for column in COLUMNS
        if column.kept
        or (several if column.header == "device" else any(column.value(record) is not None for record in outcomes))
    ]
    places = {config_id: i for i, config_id in enumerate(names)}
    rows: list[dict[str, Any]] = []
    for record in outcomes:
        config_id, values = record["config_id"], [column.value(record) for column in columns]
        is_first = not rows or rows[-1]["config_id"] != config_id
        rows.append(
            {
                "id": row_id(config_id) if is_first else f"t-{len(rows)}",
                "config_id": config_id,
                "label": names[config_id],
                "place": places[config_id],
                "seed": record["seed"],
                "name": f"seed {record['seed']}{', ' + str(record.get('device')) if several else ''}",
                "trial_id": record["trial_id"],
                "cells": [
                    ("", "" if column.header == "notes" else "–") if value is None else (value, column.text(value))
                    for column, value in zip(columns, values, strict=True)
                ],
            }
        )
    return {"columns": columns, "rows": rows}


def row_id(config_id: str) -> str:
    """The page's id of the config's first trial."""
    return f"c-{config_id}"


def script_data(found: Frontier, outcomes: Sequence[Record], names: Mapping[str, str]) -> dict[str, Any]:
    """What the page's script is told: `points` by "panel-index" with their cards, the curves (none: `{}`), and which
    config's are shown `first`.

    All texts are ready to be shown: the script formats no number.
    """
    points = {
        f"{panel}-{i}": {"title": point.label, "rows": _card(point)}
        for panel, one in enumerate(found.frontiers)
        for i, point in enumerate(one.points)
    }
    finals = curves.with_curves(outcomes)
    scale = curves.scale_of(finals)
    if scale is None:
        return {"points": points, "curves": {}}
    drawn = curves.curve_data(finals, names, scale)
    return {"points": points, "first": _best(found, drawn["curves"]), **drawn}


def _best(found: Frontier, drawn: Mapping[str, Any]) -> str:
    """The config whose curves are shown first: of those with any, the one of the lowest loss."""
    losses = {p.config_id: p.objectives["val_loss"].mean for one in found.frontiers for p in one.points}
    return min(drawn, key=lambda config_id: losses.get(config_id, float("inf")))


def _card(point: Point) -> list[tuple[str, str]]:
    loss, speed = point.objectives["val_loss"], point.objectives["tokens_per_s"]
    chance, seeds = point.p_frontier, [str(sample.seed) for sample in point.samples]
    rows = [
        ("loss", f"{loss_interval(loss)} nats/token"),
        ("speed", f"{speed_interval(speed)} tokens/s"),
        ("parameters", short(point.params["total"])),
        ("off target", percent(point.off_target) if point.off_target is not None else ""),
        ("standing", standing_cell(point.standing, point.tied_in)),
        ("P(on frontier)", "" if chance is None else f"{chance:.0%}"),
        ("seeds", f"{len(seeds)}" if len(seeds) > 8 else ", ".join(seeds)),
        ("resolved", resolved_text(point.resolved)),
    ]
    return [(name, text) for name, text in rows if text]
