"""A table for terminals of any width, whose numbers are whole or absent. Nothing is printed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

LEAST_LABEL = 8
WHY = "why"


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenTable:
    """`columns` maps each header to its alignment; the first holds labels.

    Labels, and reasons in the column "why", fold between words. Where that isn't enough, the columns of `may_go` go one
    after another, and a line says which. Where that isn't either, each row stands as lines below its label.
    """

    title: str
    columns: Mapping[str, JustifyMethod]
    may_go: Sequence[str] = ()
    rows: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def add_row(self, *cells: str | Text, style: str = "") -> None:
        """A row: a cell for each column, and the style of all of them."""
        self.rows.append((tuple(cell.plain if isinstance(cell, Text) else cell for cell in cells), style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, style="bold")
        for gone in range(len(self.may_go) + 1):
            left_out = [name for name in self.columns if name in self.may_go[:gone]]
            kept = [name for name in self.columns if name not in left_out]
            if (table := self._fitted(kept, console, options)) is not None:
                yield table
                if left_out:
                    yield Text(f"(no room for {', '.join(left_out)})", style="dim")
                return
        yield from self._stacked(options.max_width)

    def _fitted(self, names: Sequence[str], console: Console, options: ConsoleOptions) -> Table | None:
        """The table of these columns, None where there is no room for them."""
        needed = {name: self._least(name) for name in names}
        wide = options.update(max_width=2**16)
        room = options.max_width - Measurement.get(console, wide, self._table(needed)).maximum
        if room < 0:
            return None
        for name in names:
            more = min(room, max(0, self._longest(name) - needed[name]))
            needed[name] += more
            room -= more
        return self._table(needed)

    def _table(self, widths: Mapping[str, int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1), collapse_padding=True)
        for name, width in widths.items():
            table.add_column(Text(name), justify=self.columns[name], width=width, overflow="fold")
        places = [list(self.columns).index(name) for name in widths]
        for cells, style in self.rows:
            table.add_row(*(Text(cells[place]) for place in places), style=style)
        return table

    def _cells(self, name: str) -> Iterator[str]:
        place = list(self.columns).index(name)
        yield name
        yield from (cells[place] for cells, _ in self.rows)

    def _longest(self, name: str) -> int:
        return max(Text(line).cell_len for cell in self._cells(name) for line in cell.splitlines() or [""])

    def _least(self, name: str) -> int:
        """The width below which something that stays whole would not."""
        if name != next(iter(self.columns)) and name != WHY:
            return self._longest(name)
        words = [Text(word).cell_len for cell in self._cells(name) for word in cell.split()]
        return max(*words, LEAST_LABEL)

    def _stacked(self, width: int) -> Iterator[Text]:
        """Each row as its label, and below it a line for each column, wrapped between words."""
        _, *headers = self.columns
        for (label, *cells), style in self.rows:
            lines = [wrapped(label, width)]
            lines += [
                wrapped(f"{header} {cell}", width, by="  ") for header, cell in zip(headers, cells, strict=True) if cell
            ]
            yield Text("\n".join(lines), style=style, no_wrap=True, overflow="ignore")


def wrapped(line: str, width: int, *, by: str = "") -> str:
    """`line` wrapped between words and indented. A word that is longer than `width` stays whole."""
    return textwrap.fill(
        line, width, initial_indent=by, subsequent_indent=by, break_long_words=False, break_on_hyphens=False
    )
