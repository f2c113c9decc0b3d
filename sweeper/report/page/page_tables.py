"""Columns of the page's tables: what a cell shows, what it's sorted by, and which columns have anything to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Cell = tuple[Any, str] | None
"""What to sort by and what to show; None where it is missing."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its header, and the cell of a row's item.

    Without `numbers` it holds text: to the left, sorted by what is shown. Only where it is `kept` it is shown though
    all of it is missing. `missing` stands for what isn't there.
    """

    header: str
    cell: Callable[[Any], Cell]
    hint: str = ""
    numbers: bool = True
    kept: bool = False
    missing: str = "–"


def column(header: str, value: Callable[[Any], Any], text: Callable[[Any], str] = str, **settings: Any) -> Column:
    """A column that is sorted by `value` of an item and shows its `text`; None is missing."""

    def cell(item: Any) -> Cell:
        found = value(item)
        return None if found is None else (found, text(found))

    return Column(header=header, cell=cell, **settings)


def with_anything(columns: Iterable[Column], items: Sequence[Any]) -> list[Column]:
    """The columns that are kept, or of which some item has a cell."""
    return [one for one in columns if one.kept or any(one.cell(item) is not None for item in items)]


def cells(columns: Sequence[Column], item: Any) -> list[tuple[Any, str]]:
    """An item's cells; what is missing is sorted by ""."""
    return [one.cell(item) or ("", one.missing) for one in columns]
