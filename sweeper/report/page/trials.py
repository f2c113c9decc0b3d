"""Points and trials as rows of the page's tables, and what its script is told of points and curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sweeper.ledger.typed import FailedLine, FinalLine, Line
from sweeper.measurements.speeds import speed_of
from sweeper.measurements.utilization import of_own_seconds, own_seconds
from sweeper.report.page import curves
from sweeper.report.page.page_tables import Cell, Column, cells, column, with_anything
from sweeper.report.tables import loss_interval, percent, speed_interval
from sweeper.report.text import BAR, OBJECTIVES, further_objectives, objective_cell, point_standing, resolved_text
from sweeper.values.events import SpeedSummary
from sweeper.values.labels import duration, gibibytes, labels, short

if TYPE_CHECKING:
    from sweeper.frontier.frontiers import DeviceFrontier, Frontier
    from sweeper.frontier.points import Estimate, Point


Trial = FinalLine | FailedLine


def _of_final(value: Callable[[FinalLine], Any]) -> Callable[[Trial], Any]:
    return lambda trial: value(trial) if isinstance(trial, FinalLine) else None


def _uncontended(final: FinalLine) -> float | None:
    found = speed_of(final)
    return found.speed if found and found.low is not None else None


def _speed(value: Callable[[SpeedSummary], float | None]) -> Callable[[Trial], Any]:
    return _of_final(lambda final: value(final.speed) if final.speed else None)


def _status(trial: Trial) -> str:
    return trial.status.replace("_", " ") if isinstance(trial, FinalLine) else "failed"


def _notes(trial: Trial) -> str | None:
    return trial.error if isinstance(trial, FailedLine) else "; ".join(trial.notes) or None


COLUMNS = (
    column("seed", lambda trial: trial.seed, kept=True),
    column("status", _status, numbers=False, kept=True),
    column("loss", _of_final(lambda final: final.val_loss), "{:.4f}".format, kept=True),
    column("bits/byte", _of_final(lambda final: final.val_bpb), "{:.4f}".format),
    column("tokens/s", _speed(lambda speed: speed.tokens_per_s), short, kept=True, hint="the median of its windows"),
    column("uncontended", _of_final(_uncontended), short, hint="tokens/s, estimated for a machine without other work"),
    column("TFLOP/s", _speed(lambda speed: speed.tflops_per_s), "{:.3g}".format),
    column("MFU", _speed(lambda speed: speed.mfu), "{:.1%}".format, hint="of the device's dense bf16 peak"),
    column("GPU busy", _speed(lambda speed: speed.busy), "{:.0%}".format,
           hint="the share of the timed steps in which a kernel ran"),
    column("tokens", _of_final(lambda final: final.tokens), short),
    column("time", _of_final(lambda final: own_seconds(final.seconds) or None), duration),
    column("useful", _of_final(lambda final: of_own_seconds(final.seconds)), "{:.0%}".format,
           hint="of the trial's own time: its steps and its evaluation"),
    column("memory", _of_final(lambda final: final.memory_needed), gibibytes),
    column("notes", _notes, numbers=False, missing=""),
)  # fmt: skip
"""Of the trials' table, all but the config, which comes first, and where there are several the device."""
DEVICE = column("device", lambda trial: trial.device or None, numbers=False)


def config_names(found: Frontier, plan: Mapping[str, Any]) -> dict[str, str]:
    """The label of each planned config by its id: that of its point where it has one of its own.

    In the order of the plan, which lists so many at most; then those with a point that it doesn't list.
    """
    configs = plan["configs"]
    names = dict(zip([config["config_id"] for config in configs], labels(configs), strict=True))
    points = [point for one in found.frontiers for point in one.points]
    own = {point.config_id: point.label for point in points if point.point_id == point.config_id}
    return names | {point.config_id: point.label for point in points if point.config_id not in names} | own


def longer_names(found: Frontier, names: Mapping[str, str]) -> dict[str, str]:
    """The labels of what is trained longer of those configs that have one of `names`, by its own config id."""
    return {i: f"{names[own]}, for longer" for i, own in found.follow_ups.items() if own in names}


def planned_outcomes(names: Mapping[str, str], most_seeds: int, records: Sequence[Line]) -> list[Trial]:
    """Of each trial that the study asks for now, the last outcome on each device type; without any, its failure.

    In the order of `names`, of the planned configs, and by seed.
    """
    places = {config_id: place for place, config_id in enumerate(names)}
    trials = [r for r in records if isinstance(r, FinalLine | FailedLine) and r.trial_id and r.config_id in places]
    trials = [r for r in trials if r.seed < most_seeds]
    finals = {(r.trial_id, r.device): r for r in trials if isinstance(r, FinalLine)}
    done = {trial_id for trial_id, _ in finals}
    failed = {r.trial_id: r for r in trials if r.trial_id not in done}
    return sorted((*finals.values(), *failed.values()), key=lambda r: (places[r.config_id], r.seed))


def trial_table(outcomes: Sequence[Trial], names: Mapping[str, str]) -> dict[str, Any]:
    """`{"columns", "rows"}`: columns that have something to say, and a row per outcome in the order of `outcomes`."""
    several = len({record.device for record in outcomes if isinstance(record, FinalLine)}) > 1
    columns = with_anything((DEVICE, *COLUMNS) if several else COLUMNS, outcomes)
    places = {config_id: i for i, config_id in enumerate(names)}
    rows: list[dict[str, Any]] = []
    for record in outcomes:
        config_id = record.config_id
        is_first = not rows or rows[-1]["config_id"] != config_id
        rows.append(
            {
                "id": row_id(config_id) if is_first else f"t-{len(rows)}",
                "config_id": config_id,
                "label": names[config_id],
                "place": places[config_id],
                "seed": record.seed,
                "name": f"seed {record.seed}{', ' + str(record.device) if several else ''}",
                "trial_id": record.trial_id,
                "cells": cells(columns, record),
            }
        )
    return {"columns": columns, "rows": rows}


def row_id(config_id: str) -> str:
    """The page's id of the config's first trial."""
    return f"c-{config_id}"


def _estimate(name: str, text: Callable[[Estimate], str]) -> Callable[[Point], Cell]:
    return lambda point: (point.objectives[name].mean, text(point.objectives[name]))


POINT_COLUMNS = (
    column("P(frontier)", lambda point: point.p_frontier, "{:.0%}".format,
           hint="in what share of joint draws of the true means no other is as good in all and better in one"),
    column("median tokens/s", lambda point: point.median_tokens_per_s, short,
           hint="of the windows as they came, other work and all"),
    column("seeds", lambda point: point.objectives["val_loss"].n),
    column("resolved", lambda point: resolved_text(point.resolved) or None, numbers=False),
    column("params", lambda point: point.params["total"], short),
    column("trunk", lambda point: point.params["trunk"], short),
    column("off target", lambda point: point.off_target, percent),
    column("layers", lambda point: point.config.shape.fields().get("n_layers")),
    column("width", lambda point: point.config.shape.fields().get("d_model")),
    column("FFN", lambda point: point.config.shape.fields().get("ffn_hidden")),
)  # fmt: skip
"""Of the points' table, what comes after the config, its objectives and its standing."""


def point_table(one: DeviceFrontier) -> dict[str, Any]:
    """`{"columns", "rows"}`: a row per point, in their order."""
    further = [
        Column(header=OBJECTIVES[name], cell=_estimate(name, partial(_objective_text, name)))
        for name in further_objectives(one)
    ]
    columns = with_anything(
        (
            Column(header="loss, nats/token", cell=_estimate("val_loss", partial(loss_interval, part=BAR))),
            Column(header="tokens/s", cell=_estimate("tokens_per_s", partial(speed_interval, part=BAR))),
            *further,
            column("standing", point_standing, numbers=False),
            *POINT_COLUMNS,
        ),
        one.points,
    )
    return {"columns": columns, "rows": [{"point": point, "cells": cells(columns, point)} for point in one.points]}


def _objective_text(name: str, estimate: Estimate) -> str:
    return objective_cell(name, estimate.mean)


def script_data(found: Frontier, outcomes: Sequence[Trial], names: Mapping[str, str]) -> dict[str, Any]:
    """What the page's script is told: `points` by "panel-index" with their cards, the curves (none: `{}`), and which
    config's are shown `first`.

    All texts are ready to be shown: the script formats no number.
    """
    points = {
        f"{panel}-{i}": {"title": point.label, "rows": _card(point, further_objectives(one))}
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


def _card(point: Point, further: Sequence[str]) -> list[tuple[str, str]]:
    loss, speed = point.objectives["val_loss"], point.objectives["tokens_per_s"]
    chance, seeds = point.p_frontier, [str(sample.seed) for sample in point.samples]
    rows = [
        ("loss", f"{loss_interval(loss, part=BAR)} nats/token"),
        ("speed", f"{speed_interval(speed, part=BAR)} tokens/s"),
        *((OBJECTIVES[name], objective_cell(name, point.objectives[name].mean)) for name in further),
        ("parameters", short(point.params["total"])),
        ("off target", percent(point.off_target) if point.off_target is not None else ""),
        ("standing", point_standing(point)),
        ("P(on frontier)", "" if chance is None else f"{chance:.0%}"),
        ("seeds", f"{len(seeds)}" if len(seeds) > 8 else ", ".join(seeds)),
        ("resolved", resolved_text(point.resolved)),
    ]
    return [(name, text) for name, text in rows if text]
