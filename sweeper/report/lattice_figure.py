"""The feasible lattice drawn: depth against width, coloured by FFN, or by how many configs share a place."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sweeper.planning.plan import Plan, PlannedConfigs
from sweeper.report.figures import DPI, FAINT, INK, save_png
from sweeper.values.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_INCHES, HEIGHT_INCHES = 4.8, 4.0
MOST_TICKS = 12
LEAST_POINTS = 4.0
"""Numbers that would have to be smaller, in typographic points, are left out."""

FAR_APART = 20
"""Values are coloured by their logarithm where the largest is more than so many times the smallest."""

Place = tuple[int, int]


def lattice_png(plan: Plan, path: Path) -> None:
    """Draw all of the plan's configs to `path`, 960 × 800 pixels: a cell for each (d_model, n_layers).

    A cell's number and colour are its FFN where every place has one, else the number of configs there.
    UsageError: `path` can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers, meaning = _numbers(plan)
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    said = f"{plan.lattice.feasible:,} of {plan.lattice.points:,} points are feasible"
    title = textwrap.shorten(f"{plan.study} · profile {plan.profile}", 58, placeholder=" …")
    figure.text(0.03, 0.98, title, fontsize=9.5, fontweight="bold", color=INK, va="top", parse_math=False)
    figure.text(0.03, 0.925, said, fontsize=7.5, color=FAINT, va="top")
    axes = figure.add_axes((0.12, 0.13, 0.68, 0.72))
    _draw(axes, numbers, meaning)
    try:
        save_png(figure, path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a file that can be written") from None


def _numbers(plan: Plan) -> tuple[dict[Place, int], str]:
    """What stands at each (d_model, n_layers), and what it means."""
    found = np.unique(_shapes(plan), axis=0, return_counts=True)
    rows, of_rows = found[0].tolist(), found[1].tolist()
    counts: dict[Place, int] = {}
    for (d_model, n_layers, _), count in zip(rows, of_rows, strict=True):
        counts[d_model, n_layers] = counts.get((d_model, n_layers), 0) + count
    ffns = {(d_model, n_layers): ffn_hidden for d_model, n_layers, ffn_hidden in rows}
    if len(counts) == len(rows) and len(set(ffns.values())) > 1:
        return ffns, "ffn_hidden"
    return counts, "configs"


def _shapes(plan: Plan) -> np.ndarray:
    """(configs, 3): d_model, n_layers and ffn_hidden of each."""
    if not isinstance(plan.configs, PlannedConfigs):
        shapes = [planned.config.ours[0] for planned in plan.configs]
        return np.array([(shape.d_model, shape.n_layers, shape.ffn_hidden) for shape in shapes])
    columns = []
    for group in plan.configs.groups:
        shape, n = group.shapes.shape, len(group)
        own = [np.broadcast_to(column, n) for column in (shape.d_model, shape.n_layers, shape.ffn_hidden)]
        columns.append(np.stack(own, axis=1))
    return np.concatenate(columns)


def _draw(axes: Axes, numbers: Mapping[Place, int], meaning: str) -> None:
    """Widths and depths stand in order at equal distances, as an axis lists them."""
    widths, depths = ({name: at for at, name in enumerate(sorted(set(names)))} for names in zip(*numbers, strict=True))
    cells = np.full((len(depths), len(widths)), np.nan)
    for (width, depth), value in numbers.items():
        cells[depths[depth], widths[width]] = value
    low, high = min(numbers.values()), max(numbers.values())
    scale = "log" if high > FAR_APART * low else "linear"
    squares = axes.imshow(cells, cmap="cividis", norm=scale, aspect="auto", origin="lower", interpolation="nearest")
    across, down = 0.68 * WIDTH_INCHES * 72 / len(widths), 0.72 * HEIGHT_INCHES * 72 / len(depths)
    digits = len(str(high))
    size = min(7.0, 1.3 * across / max(digits, 2), 0.7 * down)
    if size >= LEAST_POINTS:
        middle = math.sqrt(low * high) if scale == "log" else (low + high) / 2
        for (width, depth), value in numbers.items():
            colour = "white" if value <= middle else "black"
            axes.text(widths[width], depths[depth], f"{value}", ha="center", va="center", fontsize=size, color=colour)
    for names, ticks, labels in (
        (widths, axes.set_xticks, axes.set_xlabel),
        (depths, axes.set_yticks, axes.set_ylabel),
    ):
        step = -(-len(names) // MOST_TICKS)
        ticks(list(names.values())[::step], [f"{name}" for name in list(names)[::step]])
        labels("width (d_model)" if names is widths else "depth (n_layers)", fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=FAINT, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = axes.figure.colorbar(squares, ax=axes, cax=axes.figure.add_axes((0.83, 0.13, 0.03, 0.72)))
    bar.set_label(meaning, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=FAINT, length=0)
    bar.outline.set_visible(False)
