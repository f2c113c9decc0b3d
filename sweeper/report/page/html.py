"""The report: one page that needs nothing else, and the files beside it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from sweeper.frontier.answer import answer, main_device
from sweeper.ledger.typed import FinalLine, Line
from sweeper.report.comparison import legend, page_pairs, side_text
from sweeper.report.facts import noise_sentences
from sweeper.report.figures import frontier_png, frontier_svg, standalone
from sweeper.report.horizons import TITLE, section
from sweeper.report.page import curves, heatmaps
from sweeper.report.page.environment import environment_rows
from sweeper.report.page.linked_figure import linked_svg
from sweeper.report.page.side_results import ladder_table, precision_tables
from sweeper.report.page.trials import (
    config_names,
    longer_names,
    planned_outcomes,
    point_table,
    row_id,
    script_data,
    trial_table,
)
from sweeper.report.tables import percent
from sweeper.report.text import (
    MEMORY_PLANNED,
    plan_facts,
    plan_warnings,
    put_last_sentences,
    tied_means,
    utilization_sentence,
)
from sweeper.values.labels import duration, gibibytes, labels, listed, short
from sweeper.values.run_folder import RunFolder, write_atomically

if TYPE_CHECKING:
    import jinja2

    from sweeper.compare.comparison import Comparison
    from sweeper.frontier.frontiers import DeviceFrontier, Frontier

MOST_PLAN_ROWS = 200
"""Configs in the plan's table; trials and points are all in theirs."""
MOST_OPEN_ROWS = 30
"""A longer table scrolls within its box."""


def write_report(
    folder: RunFolder,
    *,
    frontier: Frontier,
    plan_json: Mapping[str, Any],
    study: Mapping[str, Any],
    records: Sequence[Line],
    command: str = "",
    comparison: Comparison | None = None,
) -> None:
    """Write `frontier.json`, `frontier.png`, `frontier.svg` and `report.html` into `folder`, each whole or not at all.

    `study` is the resolved YAML document. `command` is what reproduces the run; left out, it names the
    study. `comparison` gets a section of its own.
    """
    from sweeper.report.frontier_json import frontier_json

    plain = frontier_json(frontier)
    question = str(study.get("question") or "")
    svg = frontier_svg(plain)
    page = _render(
        frontier,
        plain=plain,
        svg=svg,
        plan_json=plan_json,
        study=study,
        records=records,
        command=command or f"sweeper run {folder.study.name} --profile {frontier.profile}",
        comparison=comparison,
    )
    write_atomically(folder.frontier, json.dumps(plain, indent=1, allow_nan=False) + "\n")
    frontier_png(plain, folder.figure, question=question)
    write_atomically(folder.vector_figure, standalone(svg))
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
    records: Sequence[Line],
    command: str,
    comparison: Comparison | None = None,
) -> str:
    """The page as text. Every string of the study or the ledger is escaped."""
    from sweeper.report.frontier_json import frontier_json

    plain = frontier_json(found)
    return _render(
        found,
        plain=plain,
        svg=frontier_svg(plain),
        plan_json=plan_json,
        study=study,
        records=records,
        command=command,
        comparison=comparison,
    )


def _render(
    found: Frontier,
    *,
    plain: Mapping[str, Any],
    svg: str,
    plan_json: Mapping[str, Any],
    study: Mapping[str, Any],
    records: Sequence[Line],
    command: str,
    comparison: Comparison | None,
) -> str:
    """`render`, of what `frontier_json` and `frontier_svg` made."""
    import yaml

    names = config_names(found, plan_json)
    all_names, most_seeds = names | longer_names(found, names), plan_json["totals"]["most_seeds"]
    outcomes = planned_outcomes(names, most_seeds, records)
    finals = [record for record in outcomes if isinstance(record, FinalLine)]
    script = _script()
    return _template("report.html.j2").render(
        found=found,
        policy=_policy(script),
        script=script,
        data=script_data(found, outcomes, names),
        question=study.get("question") or found.study,
        answer=answer(found),
        svg=linked_svg(svg, plain, {config_id: row_id(config_id) for config_id in names}) if found.frontiers else "",
        tied_means=tied_means(found.margins),
        sections=[
            _section(one, plain_one, found.margins)
            for one, plain_one in zip(found.frontiers, plain["frontiers"], strict=True)
        ],
        most_open_rows=MOST_OPEN_ROWS,
        heat=heatmaps,
        panels=_panels(found, plain, finals),
        curve=curves,
        plan=plan_json,
        plan_facts=plan_facts(plan_json),
        plan_warnings=plan_warnings(plan_json),
        plan_rows=_plan_rows(plan_json),
        memory_planned=MEMORY_PLANNED,
        memory_measured=_memory_measured(finals),
        trials=trial_table(planned_outcomes(all_names, most_seeds, records), all_names),
        horizons_title=TITLE,
        horizons=[
            (one.device, *section(one))
            for one in found.frontiers
            if one.horizons is not None or one.follow_up is not None
        ],
        useful=utilization_sentence(found.useful),
        put_last=put_last_sentences(found),
        environment=environment_rows(finals),
        command=command,
        **_compared(comparison),
        study_yaml=yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True),
    )


def _section(one: DeviceFrontier, plain: Mapping[str, Any], margins: Mapping[str, float]) -> dict[str, Any]:
    """What the page shows of one device type beside its points."""
    return {
        "one": one,
        "noise": noise_sentences(one, margins),
        "points": point_table(one),
        "incomplete": listed(one.incomplete, most=MOST_OPEN_ROWS) if one.incomplete else "",
        "heat": heatmaps.heat_maps(plain),
        "precisions": precision_tables(one),
        "ladder": ladder_table(one),
    }


def _panels(found: Frontier, plain: Mapping[str, Any], finals: Sequence[FinalLine]) -> list[curves.Panel]:
    """Those of the device type that the answer is about."""
    scale = curves.scale_of(drawn := curves.with_curves(finals))
    if not found.frontiers or scale is None:
        return []
    device = main_device(found).device
    return curves.panels(next(one["points"] for one in plain["frontiers"] if one["device"] == device), drawn, scale)


def _script() -> str:
    return resources.files("sweeper").joinpath("report/page/templates/page.js").read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """The page's Content-Security-Policy: nothing is loaded from anywhere, and no script runs but its own.

    Figures carry their colours in style attributes, so styles need to be allowed.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'; style-src 'unsafe-inline'"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _template(name: str) -> jinja2.Template:
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("sweeper", "report/page/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    templates.filters |= {
        "short": short,
        "percent": percent,
        "duration": duration,
        "gibibytes": gibibytes,
    }
    return templates.get_template(name)


def _plan_rows(plan: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    configs = plan["configs"][:MOST_PLAN_ROWS]
    return list(zip(labels(configs), configs, strict=True))


def _memory_measured(finals: Sequence[FinalLine]) -> str:
    """What the trials' memory is the memory of, for the device types that measured it."""
    on_cuda = {r.environment.get("driver") is not None for r in finals}
    own = {
        False: "peak resident memory of the process, libraries included (CPU)",
        True: "peak reserved on the device, and what lies beside it: context, kernels, libraries (CUDA)",
    }
    return "; ".join(own[kind] for kind in sorted(on_cuda))
