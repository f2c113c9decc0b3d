"""Terminal tables as rich renderables: what is planned, what is done, what was found. Nothing is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.text import Text

from sweeper.frontier.answer import answer
from sweeper.model.shape import Shape
from sweeper.report.facts import noise_sentences
from sweeper.report.horizons import TITLE, section
from sweeper.report.open_table import WHY, OpenTable
from sweeper.report.text import (
    BAR,
    BARS,
    MEMORY_PLANNED,
    OBJECTIVES,
    further_objectives,
    objective_cell,
    plan_facts,
    plan_warnings,
    point_standing,
    put_last_sentences,
    resolved_text,
    utilization_sentence,
)
from sweeper.values.labels import duration, gibibytes, labels, listed, short
from sweeper.values.records import SCHEMA

if TYPE_CHECKING:
    from sweeper.frontier.frontiers import DeviceFrontier, Frontier
    from sweeper.frontier.points import Estimate
    from sweeper.ledger.typed import Line
    from sweeper.measurements.measured import PlannedPoint, Seeds
    from sweeper.recommend.options import Figure

WIDE = 110
MOST_ROWS = 60
MOST_CAVEATS = 3
"""Caveats that are shown without details."""
_STYLES = {"frontier": "bold green", "tied": "cyan", "dominated": "dim", "unresolved": "yellow", "unstable": "red"}


def frontier_table(one: DeviceFrontier, *, width: int = 80) -> OpenTable:
    """The points of one device type, fastest first. From 110 columns shapes have columns of their own."""
    wide = width >= WIDE and any(isinstance(point.config.shape, Shape) for point in one.points)
    shape: tuple[str, ...] = ("layers", "width", "FFN", "trunk") if wide else ()
    further = further_objectives(one)
    table = OpenTable(
        title=one.device,
        columns={
            "config": "left", **dict.fromkeys((*shape, "params", "off", "val loss", "seeds", "tokens/s"), "right"),
            **{OBJECTIVES[name]: "right" for name in further},
            "P": "right", "standing": "left",
            **({"resolved": "left"} if any(point.resolved for point in one.points) else {}),
        },
        may_go=("off", "trunk", "FFN", "width", "layers", "seeds", "params", "resolved"),
    )  # fmt: skip
    for point in one.points:
        loss, speed = point.objectives["val_loss"], point.objectives["tokens_per_s"]
        own = point.config.shape.fields()
        fields = [str(own.get(name, "–")) for name in ("n_layers", "d_model", "ffn_hidden")]
        standing = point_standing(point)
        table.add_row(
            Text(point.label),
            *([*fields, short(point.params["trunk"])] if wide else []),
            short(point.params["total"]),
            percent(point.off_target),
            loss_interval(loss, part=BAR),
            str(loss.n),
            speed_interval(speed, part=BAR),
            *(objective_cell(name, point.objectives[name].mean) for name in further),
            "–" if point.p_frontier is None else f"{point.p_frontier:.2f}",
            Text(standing if wide else standing.replace("off frontier, unsure", "unsure")),
            *([resolved_text(point.resolved)] if any(point.resolved for point in one.points) else []),
            style=_STYLES[point.standing],
        )
    return table


@dataclass(frozen=True, kw_only=True)
class _Summary:
    found: Frontier
    details: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        found = self.found
        if found.question:
            yield Text(found.question, style="dim")
        decision, *others = answer(found)
        yield Text(decision, style="bold")
        yield sentences(others)
        for one in found.frontiers:
            yield Text()
            yield frontier_table(one, width=options.max_width)
            yield Text(f"{BARS} P: the chance of being on the frontier.", style="dim")
            if one.incomplete:
                yield sentences([f"Without a result: {listed(one.incomplete)}."])
            yield from self._details(one) if self.details else ()
        if self.details:
            yield from self._of_the_study()
        yield from self._caveats()

    def _details(self, one: DeviceFrontier) -> Iterator[RenderableType]:
        yield Text()
        yield sentences(noise_sentences(one, self.found.margins))
        if one.horizons is not None or one.follow_up is not None:
            yield _horizons(one)

    def _of_the_study(self) -> Iterator[RenderableType]:
        if self.found.frontiers and self.found.useful.fraction is not None:
            yield Text(utilization_sentence(self.found.useful))
            if self.found.put_last:
                yield sentences(put_last_sentences(self.found))

    def _caveats(self) -> Iterator[RenderableType]:
        """All with details, else the first few."""
        all_of_them = [*self.found.doubts, *(doubt for one in self.found.frontiers for doubt in one.doubts)]
        shown = all_of_them if self.details else all_of_them[:MOST_CAVEATS]
        if shown:
            yield sentences(shown, bullet="! ", style="yellow")
        if more := len(all_of_them) - len(shown):
            yield sentences([f"{more} more: `sweeper report --details`, or the page."], bullet="! ", style="yellow")


def _horizons(one: DeviceFrontier) -> Group:
    """What branches and follow-ups say: tables, then sentences."""
    tables, said = section(one, brief=True)
    parts: list[RenderableType] = [Text(), Text(TITLE, style="bold")]
    for made in tables:
        columns: dict[str, JustifyMethod] = {header: "right" if n else "left" for n, header in enumerate(made.headers)}
        table = OpenTable(title="", columns=columns)
        for row in made.rows:
            table.add_row(*map(Text, row))
        parts += [Text(made.caption, style="dim"), table, Text()]
    return Group(*parts, sentences(said))


def summary(found: Frontier, *, details: bool = False) -> RenderableType:
    """The answer and a table per device type, as wide as the console; with `details` all else that the page has."""
    return _Summary(found=found, details=details)


def sentences(said: Sequence[str], *, bullet: str = "", style: str = "") -> Text:
    """Each sentence on a line of its own."""
    return Text("\n".join(bullet + sentence for sentence in said), style=style)


def loss_interval(loss: Estimate | Figure, *, part: float = 1.0) -> str:
    """ "1.562 ± 0.021", the mean and `part` of half of its 95% interval; "1.562" without one."""
    return f"{loss.mean:.3f}" if loss.high is None else f"{loss.mean:.3f} ± {part * (loss.high - loss.mean):.3f}"


def speed_interval(speed: Estimate | Figure, *, part: float = 1.0) -> str:
    """ "38.2k ± 0.9k" tokens/s; the 95% interval is nearly symmetric, the wider side is shown."""
    if speed.low is None or speed.high is None:
        return short(speed.mean)
    half, mean = part * max(speed.high - speed.mean, speed.mean - speed.low), short(speed.mean)
    unit = mean[-1] if mean[-1].isalpha() else ""
    size = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}.get(unit, 1.0)
    decimals = len(mean.rstrip(unit).partition(".")[2])
    return f"{mean} ± {half / size:.{decimals}f}{unit}"


def percent(fraction: float | None) -> str:
    """ "+1.2%", or "–" for None."""
    return "–" if fraction is None else f"{100 * fraction:+.1f}%"


def plan_table(plan: Mapping[str, Any]) -> Group:
    """What `plan --json` holds: the feasible configs (beyond 60 the rest is counted), totals, what was dropped."""
    configs = plan["configs"]
    table = OpenTable(
        title=f"{plan['study']} · profile {plan['profile']}",
        columns={
            "config": "left", "params": "right", "trunk": "right", "off": "right", "FLOPs/token": "right",
            "memory": "right", "time/trial": "right",
        },
        may_go=("trunk", "FLOPs/token", "off", "memory"),
    )  # fmt: skip
    names = labels(configs)
    for config, label in list(zip(configs, names, strict=True))[:MOST_ROWS]:
        memory, seconds, flops = (config.get(name) for name in ("memory_bytes", "seconds", "train_flops_per_token"))
        table.add_row(
            Text(label),
            short(config["params"]["total"], 4),
            short(config["params"]["trunk"], 4),
            percent(config.get("off_target")),
            "–" if flops is None else short(flops),
            "–" if memory is None else gibibytes(memory),
            "–" if seconds is None else duration(seconds),
        )
    if len(configs) > MOST_ROWS:
        table.add_row(f"… {len(configs) - MOST_ROWS} more", *[""] * 6)
    facts = [*plan_facts(plan), f"Memory is {MEMORY_PLANNED}.", *(f"! {warning}" for warning in plan_warnings(plan))]
    return Group(table, Text(), Text("\n".join(facts)))


def status_json(
    records: Iterable[Line],
    planned: Sequence[PlannedPoint],
    *,
    seeds: Seeds = None,
    live: bool = True,
    to_propose: int = 0,
) -> dict[str, Any]:
    """What is done, running, failed and missing of every planned config, and why.

    `{"schema": 1, "live", "jobs": {state: count}, "to_propose", "configs": [{"config_id", "label", "done", "running",
    "failed", "missing", "why": [one line a reason]}]}`. `live` says whether a Driver is at work: what was
    asked without an outcome is "running" then; else it is "interrupted", under a key of that name instead.
    `seeds` is how many each config should have, None to go by what was asked; `to_propose` how many trainings there
    will be of configs that the search has yet to choose. A speed job that several
    configs share counts for the first of them.
    """
    from sweeper.search.job_states import job_states

    configs = list({point.config.config_id: point.config for point in planned}.values())
    states = job_states(records, planned, seeds)
    names = labels([config.to_dict() for config in configs])
    rows = []
    for config, label in zip(configs, names, strict=True):
        own = [state for state in states if state.config_id == config.config_id]
        n = Counter(state.state for state in own)
        failed = [s for s in own if s.state not in ("ok", "asked", "missing")]
        reasons = Counter((s.why or s.state.replace("_", " ")).splitlines()[0][:160] for s in failed)
        rows.append(
            {
                "config_id": config.config_id,
                "label": label,
                "done": n["ok"],
                "running" if live else "interrupted": n["asked"],
                "failed": len(failed),
                "missing": n["missing"],
                "why": [reason if k == 1 else f"{reason} (×{k})" for reason, k in reasons.items()],
            }
        )
    jobs = dict(Counter(state.state for state in states))
    return {"schema": SCHEMA, "live": live, "jobs": jobs, "to_propose": to_propose, "configs": rows}


def status_table(status: Mapping[str, Any]) -> OpenTable:
    """The object of `status_json`, a line per config."""
    done, jobs = status["jobs"].get("ok", 0), sum(status["jobs"].values()) + status["to_propose"]
    columns = ("done", "running" if status["live"] else "interrupted", "failed", "missing")
    table = OpenTable(
        title=f"{done} of {jobs} jobs done",
        columns={"config": "left", **dict.fromkeys(columns, "right"), WHY: "left"},
    )
    for row in status["configs"]:
        cells = [str(row[name] or "·") for name in columns]
        table.add_row(Text(row["label"]), *cells, Text("; ".join(row["why"])), style="red" if row["failed"] else "")
    return table
