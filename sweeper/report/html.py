"""The report: one page that needs nothing else, and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.labels import duration, gibibytes, labels, short
from sweeper.report import curves
from sweeper.report.comparison import legend, page_pairs, side_text
from sweeper.report.environment import environment_rows
from sweeper.report.figures import frontier_png, frontier_svg
from sweeper.report.tables import loss_interval, percent, speed_interval
from sweeper.report.text import (
    MEMORY_PLANNED,
    OBJECTIVES,
    answer,
    further_objectives,
    main_device,
    noise_sentences,
    objective_cell,
    plan_facts,
    plan_warnings,
    put_last_sentences,
    resolved_text,
    standing_cell,
    tied_means,
    useful_sentence,
)
from sweeper.run_folder import RunFolder, write_atomically
from sweeper.useful import of_own_seconds, own_seconds

if TYPE_CHECKING:
    import jinja2

    from sweeper.compare import Comparison
    from sweeper.frontier import Frontier

MOST_PLAN_ROWS = 200


def write_report(
    folder: RunFolder,
    *,
    frontier: Frontier,
    plan_json: Mapping[str, Any],
    study: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    command: str = "",
    comparison: Comparison | None = None,
) -> None:
    """Write `frontier.json`, `frontier.png` and `report.html` into `folder`, each whole or not at all.

    `study` is the resolved YAML document. `command` is what reproduces the run; left out, it names the
    study. `comparison` gets a section of its own.
    """
    from sweeper.frontier import frontier_json

    plain = frontier_json(frontier)
    question = str(study.get("question") or "")
    page = render(
        frontier,
        plan_json=plan_json,
        study=study,
        records=records,
        command=command or f"sweeper run {folder.study.name} --profile {frontier.profile}",
        comparison=comparison,
    )
    write_atomically(folder.frontier, json.dumps(plain, indent=1, allow_nan=False) + "\n")
    frontier_png(plain, folder.figure, question=question)
    write_atomically(folder.report, page)


def write_comparison(folder: RunFolder, found: Comparison, *, notes: Sequence[str], command: str) -> None:
    """Write a `report.html` of nothing but the comparison; `notes` are sentences on what is compared."""
    page = _template("comparison_page.html.j2").render(
        title=" and ".join(dict.fromkeys(side.study for side in found.sides)), notes=notes, command=command,
        **_compared(found),
    )  # fmt: skip
    write_atomically(folder.report, page)


def _compared(found: Comparison | None) -> dict[str, Any]:
    """What the section on the comparison shows, `pairs` empty without one."""
    if found is None:
        return {"pairs": []}
    return {
        "pairs": page_pairs(found),
        "sides": [(side.name, side_text(side)) for side in found.sides],
        "legend": legend(found),
    }


def render(
    found: Frontier,
    *,
    plan_json: Mapping[str, Any],
    study: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    command: str,
    comparison: Comparison | None = None,
) -> str:
    """The page as text. Every string of the study or the ledger is escaped."""
    import yaml

    from sweeper.frontier import frontier_json

    plain = frontier_json(found)
    finals = _planned_finals(plan_json, records)
    return _template("report.html.j2").render(
        found=found,
        question=study.get("question") or found.study,
        answer=answer(found),
        svg=frontier_svg(plain) if found.frontiers else "",
        standing=standing_cell,
        further=further_objectives,
        objective_names=OBJECTIVES,
        objective_cell=objective_cell,
        tied_means=tied_means(found.margins),
        noise={one.device: noise_sentences(one, found.margins) for one in found.frontiers},
        panels=curves.panels(_json_points(found, plain), finals),
        curve=curves,
        plan=plan_json,
        plan_facts=plan_facts(plan_json),
        plan_warnings=plan_warnings(plan_json),
        plan_rows=_plan_rows(plan_json),
        memory_planned=MEMORY_PLANNED,
        memory_measured=_memory_measured(finals),
        trials=_trials(plan_json, records),
        useful=useful_sentence(found.useful),
        put_last=put_last_sentences(found),
        resolved=resolved_text,
        environment=environment_rows(finals),
        command=command,
        **_compared(comparison),
        study_yaml=yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True),
    )


def _template(name: str) -> jinja2.Template:
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("sweeper", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "short": short,
        "percent": percent,
        "loss": loss_interval,
        "speed": speed_interval,
        "duration": duration,
        "gibibytes": gibibytes,
    }
    return templates.get_template(name)


def _json_points(found: Frontier, plain: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if not found.frontiers:
        return []
    device = main_device(found).device
    return next(list(one["points"]) for one in plain["frontiers"] if one["device"] == device)


def _plan_rows(plan: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    configs = plan["configs"][:MOST_PLAN_ROWS]
    return list(zip(labels(configs), configs, strict=True))


def _planned_finals(plan: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The outcomes of trials of a config and a seed that the study asks for now."""
    planned = {config["config_id"] for config in plan["configs"]}
    seeds = plan["totals"]["most_seeds"]
    return [r for r in records if r["type"] == "final" and r["config_id"] in planned and r["seed"] < seeds]


def _memory_measured(finals: Sequence[Mapping[str, Any]]) -> str:
    """What the trials' memory is the memory of, for the kinds of device that measured it."""
    on_cuda = {r["environment"].get("driver") is not None for r in finals}
    own = {
        False: "peak resident memory of the process, libraries included (CPU)",
        True: "peak reserved on the device (CUDA)",
    }
    return "; ".join(own[kind] for kind in sorted(on_cuda))


def _trials(plan: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per planned trial with an outcome, the latest of each, in the order of the plan."""
    order = {config["config_id"]: label for label, config in _plan_rows(plan)}
    seeds = plan["totals"]["most_seeds"]
    latest = {
        r["trial_id"]: r
        for r in records
        if r["type"] in ("final", "failed") and "trial_id" in r and r["config_id"] in order and r["seed"] < seeds
    }
    places = {config_id: i for i, config_id in enumerate(order)}
    rows = sorted(latest.values(), key=lambda r: (places[r["config_id"]], r["seed"]))
    return [
        {
            "label": order[r["config_id"]],
            "place": places[r["config_id"]],
            "seed": r["seed"],
            "status": (r["status"] if r["type"] == "final" else "failed").replace("_", " "),
            "why": r.get("error") or "; ".join(r.get("notes") or ()),
            "val_loss": r.get("val_loss"),
            "val_bpb": r.get("val_bpb"),
            "tokens_per_s": (r.get("speed") or {}).get("tokens_per_s"),
            "tflops_per_s": (r.get("speed") or {}).get("tflops_per_s"),
            "mfu": (r.get("speed") or {}).get("mfu"),
            "tokens": r.get("tokens"),
            "useful": of_own_seconds(r.get("seconds") or {}),
            "seconds": own_seconds(r.get("seconds") or {}) or None,
            "peak_memory_bytes": r.get("peak_memory_bytes"),
            "trial_id": r["trial_id"],
        }
        for r in rows
    ]
