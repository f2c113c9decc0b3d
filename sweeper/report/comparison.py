"""Results side by side: as terminal tables, and as the cells and sentences that the page shows too."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.text import Text

from sweeper.report.open_table import OpenTable
from sweeper.report.tables import WIDE, sentences, summary
from sweeper.report.text import resolved_text
from sweeper.values.labels import listed, short

if TYPE_CHECKING:
    from sweeper.compare.comparison import Comparison, LossPair, Pair, Row, Side, SpeedPair
    from sweeper.compare.joint_report import JointReport
    from sweeper.frontier.frontiers import Frontier

MOST_ROWS = 60


def side_text(side: Side) -> str:
    """What stands behind a side's letter: folder, device, how much of it there is."""
    n, seeds = len(side.losses), [str(seed) for seed in side.found.seeds]
    parts = [side.folder, side.found.device, f"{n} config{'s' if n != 1 else ''}",
             f"seed{'s' if len(seeds) != 1 else ''} {listed(seeds)}"]  # fmt: skip
    return " · ".join(part for part in parts if part)


def headers(pair: Pair) -> dict[str, tuple[str, JustifyMethod]]:
    """The columns of a pair's table: by the name of the cell, the header and its alignment."""
    a, b = pair.a, pair.b
    return {
        "config": ("config", "left"),
        "loss_a": (f"loss {a}", "right"),
        "loss_b": (f"loss {b}", "right"),
        "difference": (f"{b} − {a}", "right"),
        "lower": ("lower", "left"),
        "speed_a": (f"tokens/s {a}", "right"),
        "speed_b": (f"tokens/s {b}", "right"),
        "ratio": (f"{b} ÷ {a}", "right"),
        "faster": ("faster", "left"),
        "frontier": ("frontier", "left"),
    }


def cells(row: Row) -> dict[str, str]:
    """A row's cells, by the names of `headers`."""
    loss, speed = row.val_loss, row.tokens_per_s
    means = ["–", "–"] if loss is None else [f"{mean:.3f}" for mean in loss.means]
    return {
        "config": row.label,
        "loss_a": means[0],
        "loss_b": means[1],
        "difference": _difference(loss),
        "lower": "–" if loss is None else _verdict(loss.tie, (row.a, row.b)[loss.difference < 0]),
        "speed_a": short(speed.means[0]),
        "speed_b": short(speed.means[1]),
        "ratio": _ratio(speed),
        "faster": _verdict(speed.tie, (row.a, row.b)[speed.ratio > 1]),
        "frontier": _standings(row),
    }


def _difference(loss: LossPair | None) -> str:
    if loss is None:
        return "–"
    unpaired = "" if loss.paired else " *"
    difference = f"{round(loss.difference, 3) or 0.0:+.3f}"  # no negative zero
    if loss.high is None:
        return f"{difference}{unpaired}"
    return f"{difference} ± {loss.high - loss.difference:.3f}{unpaired}"


def _ratio(speed: SpeedPair) -> str:
    if speed.low is None or speed.high is None:
        return f"{speed.ratio:.2f}"
    return f"{speed.ratio:.2f} ({speed.low:.2f}–{speed.high:.2f})"


def _verdict(tie: bool | None, better: str) -> str:
    return "?" if tie is None else "tie" if tie else better


def _standings(row: Row) -> str:
    said = {"frontier": "{}", "tied": "{} tied"}
    on = [said[how].format(name) for name, how in zip((row.a, row.b), row.standing, strict=True) if how in said]
    return ", ".join(on) or "neither"


def pair_sentences(pair: Pair) -> list[str]:
    """What the table of a pair comes to."""
    n_a, n_b = pair.only
    alone = f"With results in {pair.a} alone: {n_a} config{'s' if n_a != 1 else ''}; in {pair.b} alone: {n_b}."
    if not n_a + n_b:
        alone = "Every config with results is in both."
    if not pair.rows:
        return [f"No config has results in both. {alone}", *pair.notes]
    return [
        *filter(None, (_losses_sentence(pair), _speeds_sentence(pair))),
        alone,
        *_resolved_sentences(pair),
        *pair.notes,
    ]


def _losses_sentence(pair: Pair) -> str:
    losses = list({row.config_id: row.val_loss for row in pair.rows if row.val_loss is not None}.values())
    if not losses:
        return ""
    return f"Loss: {_counted(pair, losses, 'lower in', lambda d: d < 0)}; {_order(pair, 'val_loss')}."


def _speeds_sentence(pair: Pair) -> str:
    speeds = [row.tokens_per_s for row in pair.rows]
    return f"Speed: {_counted(pair, speeds, 'faster in', lambda d: d > 0)}; {_order(pair, 'tokens_per_s')}."


def _counted(pair: Pair, found: Sequence[LossPair | SpeedPair], how: str, better: Any) -> str:
    ties = [one.tie for one in found]
    resolved = [_signed(one) for one in found if one.tie is False]
    in_b = sum(better(value) for value in resolved)
    counts = [(len(resolved) - in_b, f"{how} {pair.a}"), (in_b, f"{how} {pair.b}"), (ties.count(True), "tied")]
    said = [f"{n} {what}" for n, what in counts if n]
    if unknown := ties.count(None):
        said.append(f"{unknown} unknown (“?”: too few measurements for an interval)")
    noun = "point" if len({row.config_id for row in pair.rows}) < len(found) else "config"
    return f"of {len(found)} {noun}{'s' if len(found) != 1 else ''}, {listed(said)}"


def _signed(one: Any) -> float:
    return float(one.difference if hasattr(one, "difference") else one.ratio - 1)


def _order(pair: Pair, objective: str) -> str:
    tau = pair.kendall_tau[objective]
    if tau.tau is None:
        return "too few to compare their order"
    return f"Kendall's tau of the two orders is {tau.tau:+.2f} ({tau.n} of them, by their means)"


def _resolved_sentences(pair: Pair) -> list[str]:
    """Configs that measuring gave another micro-batch, precision or length on the two sides."""
    found = []
    for row in pair.rows:
        said = [resolved_text(one) or f"batch {size}" for one, size in zip(row.resolved, row.batch_size, strict=True)]
        if row.resolved[0] != row.resolved[1] or row.batch_size[0] != row.batch_size[1]:
            found.append(f"{row.label} ({said[0]} in {row.a}, {said[1]} in {row.b})")
    return [f"Resolved differently: {listed(found, most=4)}."] if found else []


def legend(found: Comparison) -> str:
    """How to read the tables, in a sentence or a few."""
    rows = [row for pair in found.pairs for row in pair.rows]
    losses = [row.val_loss for row in rows if row.val_loss is not None]
    paired = ", paired by seed over the seeds that both have" if any(loss.paired for loss in losses) else ""
    star = " *: no seed in common, so not paired." if any(not loss.paired for loss in losses) else ""
    return (
        f"± and brackets: 95% intervals, of losses{paired}. “tie”: the interval holds zero (of a ratio, one). "
        f"“frontier”: whose own frontier the config is on.{star}"
    )


@dataclass(frozen=True, kw_only=True)
class _Tables:
    found: Comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        yield Text("Side by side", style="bold")
        yield Text("\n".join(f"{side.name}  {side_text(side)}" for side in self.found.sides))
        for pair in self.found.pairs:
            for columns in _columns(pair, options.max_width) if pair.rows else ():
                yield Text()
                yield _table(pair, columns)
            yield Text()
            yield sentences(pair_sentences(pair))
        if any(pair.rows for pair in self.found.pairs):
            yield sentences([legend(self.found)], style="dim")


def _columns(pair: Pair, width: int) -> list[list[str]]:
    """All columns in one table where there is room, else losses (where there are any) and speeds apart."""
    names = list(headers(pair))
    of_loss, of_speed = names[:5], [names[0], *names[5:]]
    if all(row.val_loss is None for row in pair.rows):
        return [of_speed]
    return [names] if width >= WIDE else [of_loss, of_speed]


def _table(pair: Pair, columns: Sequence[str]) -> RenderableType:
    heads = headers(pair)
    table = OpenTable(title="", columns=dict(heads[name] for name in columns))
    for row in pair.rows[:MOST_ROWS]:
        of_row = cells(row)
        table.add_row(*[Text(of_row[name]) for name in columns])
    if len(pair.rows) > MOST_ROWS:
        table.add_row(f"… {len(pair.rows) - MOST_ROWS} more", *[""] * (len(columns) - 1))
    return table


def comparison_tables(found: Comparison) -> RenderableType:
    """The sides, a table for each pair and what it comes to, as wide as the console."""
    return _Tables(found=found)


def report_text(found: Frontier, comparison: Comparison | None, *, details: bool = False) -> RenderableType:
    """A study's result, and its device types side by side where there are several."""
    return Group(
        summary(found, details=details), *(() if comparison is None else (Text(), comparison_tables(comparison)))
    )


@dataclass(frozen=True, kw_only=True)
class _Joint:
    found: JointReport
    written: str | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console, options
        found = self.found
        if found.notes:
            yield sentences(found.notes)
            yield Text()
        if found.merged is not None:
            yield summary(found.merged)
            yield Text()
        if found.comparison is not None:
            yield comparison_tables(found.comparison)
            yield Text()
        yield sentences([self._end()])

    def _end(self) -> str:
        if self.written:
            return f"report: {self.written}"
        nothing = "Nothing was written: --out DIR writes this as report.html"
        if self.found.merged is None:
            return f"{nothing}."
        merge = shlex.join(["sweeper", "merge", *self.found.folders])
        return f"{nothing}; `{merge} --out DIR` makes a run folder that can go on."


def joint_text(found: JointReport, *, written: str | None) -> RenderableType:
    """All that several folders have to say; `written` is the page that was written."""
    return _Joint(found=found, written=written)


def page_pairs(found: Comparison) -> list[dict[str, Any]]:
    """What the page shows of each pair: `tables`, losses and speeds apart as a phone has no room, and `sentences`.

    A table is `{"caption", "headers", "rows"}`, headers with whether they stand left.
    """
    return [
        {"tables": _page_tables(pair) if pair.rows else [], "sentences": pair_sentences(pair)} for pair in found.pairs
    ]


def _page_tables(pair: Pair) -> list[dict[str, Any]]:
    heads, rows = headers(pair), [cells(row) for row in pair.rows]
    return [
        {
            "caption": "Loss, nats/token" if "difference" in columns else "Speed",
            "headers": [(heads[name][0], heads[name][1] == "left") for name in columns],
            "rows": [[row[name] for name in columns] for row in rows],
        }
        for columns in _columns(pair, width=0)
    ]
