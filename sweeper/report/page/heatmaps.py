"""Heat maps of loss and speed over two quantities of the shape: coordinates and colours for inline SVG.

Takes a frontier of `frontier.json`. Colours are matplotlib's cividis, even to the colour-blind; brighter is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sweeper.values.kinds import kind_fields
from sweeper.values.labels import short

WIDTH, LEFT, RIGHT, TOP, AXIS = 420.0, 46.0, 4.0, 4.0, 34.0
LEAST_CELLS, MOST_PLACES, LEAST_FILLED = 4, 40, 0.08
"""A map has so many cells at least, no more places along an axis, and measured so large a share of its grid."""
FAR_APART = 20
"""Values are coloured by their logarithm where the largest is more than so many times the smallest."""
_MAP_HEIGHT, _LEAST_ROW, _MOST_ROW, _CHARACTER, _LEAST_TICK = 260.0, 18.0, 34.0, 6.4, 24.0
QUANTITIES = {
    "n_layers": ("depth (layers)", "L"), "d_model": ("width (d_model)", "d"), "ffn_hidden": ("FFN (ffn_hidden)", "f"),
    "n_kv_heads": ("KV heads", "kv"), "n_heads": ("heads", "h"), "head_dim": ("head size", "hd"),
    "vocab_size": ("vocabulary", "V"),
}  # fmt: skip
"""Quantities of a shape with their names, those that make a map first."""

Point = Mapping[str, Any]
Place = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A rectangle: coloured, with `text` where there is room, of the point `index`; all None where nothing is known."""

    x: float
    y: float
    title: str
    text: str
    fill: str | None = None
    ink: str | None = None
    index: int | None = None
    config_id: str | None = None
    standing: str | None = None


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """One map. `ticks` are (x, y, text, anchor), `stops` the colours of its key from worst to best."""

    name: str
    height: float
    cell_width: float
    cell_height: float
    cells: tuple[Cell, ...]
    ticks: tuple[tuple[float, float, str, str], ...]
    across: str
    down: str
    two_way: bool
    stops: tuple[str, ...]
    worst: str
    best: str


@dataclass(frozen=True, kw_only=True)
class HeatMaps:
    """The maps of one device type, over the same places, and what a reader has to know of them."""

    title: str
    note: str
    maps: tuple[HeatMap, ...]


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Where each point stands: its place (column, row) by position in the list of points."""

    names: tuple[str, ...]
    columns: tuple[Place, ...]
    rows: tuple[Place, ...]
    place: Mapping[int, tuple[int, int]]


def heat_maps(one: Mapping[str, Any]) -> HeatMaps | None:
    """The maps of a frontier's points, None where they make no map: fewer than four cells, or nearly all empty."""
    grid = _grid(one["points"])
    if grid is None:
        return None
    sharing: dict[tuple[int, int], list[int]] = {}
    for index, place in grid.place.items():
        sharing.setdefault(place, []).append(index)
    most = max(map(len, sharing.values()))
    across, down = (QUANTITIES[name][0].partition(" (")[0] for name in grid.names)
    notes = ["Brighter is better; framed: on the frontier, with dashes: tied with it."]
    if most > 1:
        notes.append(f"Up to {most} results share a cell, which shows the best of them, each map for itself.")
    if len(grid.rows) > 1 and len(sharing) < len(grid.columns) * len(grid.rows):
        notes.append("Crossed out: no result.")
    maps = [
        _map("loss, nats/token", "val_loss", one["points"], grid, sharing, lambda value: f"{value:.3f}", lower=True),
        _map("tokens/s", "tokens_per_s", one["points"], grid, sharing, short, lower=False),
    ]
    title = f"{down} × {across}" if len(grid.rows) > 1 else f"{across} and {down}"
    return HeatMaps(title=title[0].upper() + title[1:], note=" ".join(notes), maps=tuple(maps))


def _grid(points: Sequence[Point]) -> _Grid | None:
    """Depth against width where both differ freely, else the two quantities that have the most pairs.

    Where each value of one goes with a single one of the other, as under a solved axis, the map is one row of pairs.
    """
    varying = [name for name in QUANTITIES if len({kind_fields(point).get(name) for point in points}) > 1]
    pairs = {names: {_values(point, names) for point in points} for names in combinations(varying, 2)}
    if not pairs:
        return None
    crossed = {names: found for names, found in pairs.items() if len(found) > max(_sizes(found))}
    if not crossed:
        return _row(points, max(pairs, key=lambda names: len(pairs[names])))
    most = max(crossed, key=lambda names: len(crossed[names]))
    return _crossed(points, ("n_layers", "d_model") if ("n_layers", "d_model") in crossed else most)


def _row(points: Sequence[Point], names: tuple[str, str]) -> _Grid | None:
    """Each pair of values a column of one row."""
    columns = sorted({_values(point, names) for point in points})
    if not LEAST_CELLS <= len(columns) <= MOST_PLACES:
        return None
    place = {i: (columns.index(_values(point, names)), 0) for i, point in enumerate(points)}
    return _Grid(names=names, columns=tuple(columns), rows=((),), place=place)


def _crossed(points: Sequence[Point], names: tuple[str, str]) -> _Grid | None:
    """The first quantity down, the second across."""
    values = [_values(point, names) for point in points]
    rows, columns = (sorted({(pair[i],) for pair in values}) for i in (0, 1))
    filled, size = len(set(values)), len(rows) * len(columns)
    if filled < LEAST_CELLS or max(len(rows), len(columns)) > MOST_PLACES or filled < LEAST_FILLED * size:
        return None
    place = {i: (columns.index((across,)), rows.index((down,))) for i, (down, across) in enumerate(values)}
    return _Grid(names=(names[1], names[0]), columns=tuple(columns), rows=tuple(rows), place=place)


def _values(point: Point, names: Sequence[str]) -> Place:
    return tuple([int(kind_fields(point)[name]) for name in names])


def _sizes(found: set[Place]) -> tuple[int, int]:
    return len({pair[0] for pair in found}), len({pair[1] for pair in found})


def _map(
    name: str,
    objective: str,
    points: Sequence[Point],
    grid: _Grid,
    sharing: Mapping[tuple[int, int], Sequence[int]],
    text: Callable[[float], str],
    *,
    lower: bool,
) -> HeatMap:
    def value(index: int) -> float:
        return float(points[index]["objectives"][objective]["mean"])

    best_of = {place: (min if lower else max)(found, key=value) for place, found in sharing.items()}
    values = [value(index) for index in best_of.values()]
    worst, best = (max(values), min(values)) if lower else (min(values), max(values))
    colour = _colours(min(values), max(values), lower=lower)
    width = (WIDTH - LEFT - RIGHT) / len(grid.columns)
    height = min(_MOST_ROW, max(_LEAST_ROW, _MAP_HEIGHT / len(grid.rows)))

    def cell(column: int, row: int) -> Cell:
        x, y = round(LEFT + column * width, 1), round(TOP + (len(grid.rows) - 1 - row) * height, 1)
        where = " ".join(_parts(grid, column, row))
        index = best_of.get((column, row))
        if index is None:
            return Cell(x=x, y=y, title=f"{where}: no result", text="")
        said, (fill, ink) = text(value(index)), colour(value(index))
        return Cell(
            x=x,
            y=y,
            title=f"{where}: {said} {name.rpartition(', ')[2]} ({points[index]['label']})",
            text=said if len(said) <= (width - 4) / _CHARACTER else "",
            fill=fill,
            ink=ink,
            index=index,
            config_id=points[index]["config_id"],
            standing=points[index]["standing"],
        )

    bottom = TOP + len(grid.rows) * height
    return HeatMap(
        name=name,
        height=round(bottom + AXIS, 1),
        cell_width=round(width, 2),
        cell_height=round(height, 2),
        cells=tuple(
            cell(column, row) for row in reversed(range(len(grid.rows))) for column in range(len(grid.columns))
        ),
        ticks=tuple(_ticks(grid, width, height, bottom)),
        across=QUANTITIES[grid.names[0]][0],
        down=QUANTITIES[grid.names[1]][0],
        two_way=len(grid.rows) > 1,
        stops=tuple(_cividis(i / 8)[0] for i in range(9)),
        worst=text(worst),
        best=text(best),
    )


def _parts(grid: _Grid, column: int, row: int) -> list[str]:
    values = (*grid.columns[column], *grid.rows[row])
    return [f"{QUANTITIES[name][1]}{value}" for name, value in zip(grid.names, values, strict=True)]


def _ticks(grid: _Grid, width: float, height: float, bottom: float) -> list[tuple[float, float, str, str]]:
    every = math.ceil(_LEAST_TICK / width)
    found = []
    for column in range(0, len(grid.columns), every):
        x = round(LEFT + (column + 0.5) * width, 1)
        for line, value in enumerate(grid.columns[column]):
            found.append((x, round(bottom + 13 + 12 * line, 1), f"{value}", "middle"))
    if len(grid.rows) == 1:
        for line, name in enumerate(grid.names):
            found.append((LEFT - 5, round(bottom + 13 + 12 * line, 1), QUANTITIES[name][0].partition(" (")[0], "end"))
    else:
        every = math.ceil(_LEAST_ROW / height)
        for row in range(0, len(grid.rows), every):
            y = TOP + (len(grid.rows) - 1 - row + 0.5) * height + 3.5
            found.append((LEFT - 5, round(y, 1), f"{grid.rows[row][0]}", "end"))
    return found


def _colours(low: float, high: float, *, lower: bool) -> Callable[[float], tuple[str, str]]:
    """A value's colour and that of text on it."""
    logarithmic = low > 0 and high > FAR_APART * low

    def of(value: float) -> float:
        return math.log(value) if logarithmic else value

    span = (of(high) - of(low)) or 1.0

    def colour(value: float) -> tuple[str, str]:
        share = (of(value) - of(low)) / span
        return _cividis(1 - share if lower else share)

    return colour


def _cividis(share: float) -> tuple[str, str]:
    """The colour at `share` from dark to bright, and black or white for text on it, as is the easier to read."""
    from matplotlib import colormaps

    red, green, blue, _ = colormaps["cividis"](share)
    fill = "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))
    return fill, "#000000" if _luminance(red, green, blue) > 0.179 else "#ffffff"


def _luminance(*rgb: float) -> float:
    """Relative luminance by WCAG 2.1; black text is the easier to read above 0.179."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
