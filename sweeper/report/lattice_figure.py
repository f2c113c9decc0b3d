"""The feasible lattice drawn: depth against width, coloured by FFN, or by how many configs share a place.

Takes `plan.json`'s object, so that it can be drawn again from the file.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.errors import UsageError
from sweeper.report.figures import DPI, FAINT, INK, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_INCHES, HEIGHT_INCHES = 4.8, 4.0
MOST_TICKS = 12
MOST_NUMBERS = 120
"""More places than these are drawn without their numbers."""

Place = tuple[int, int]


def lattice_png(plan_json: Mapping[str, Any], path: Path) -> None:
    """Draw the plan's configs to `path`, 960 × 800 pixels: one square for each (d_model, n_layers).

    A square's number and colour are its FFN where every place has one, else the number of configs there. A list that
    was cut, at 10,000 configs, is drawn as far as it goes, and the figure says so. UsageError: `path` can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers, meaning = _numbers(plan_json)
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    lattice = plan_json["lattice"]
    shown = len(plan_json["configs"])
    counted = f"{lattice['feasible']:,} of {lattice['points']:,} points are feasible"
    said = f"{counted}; the first {shown:,} configs are drawn" if plan_json["cut"] else counted
    title = textwrap.shorten(f"{plan_json['study']} · profile {plan_json['profile']}", 58, placeholder=" …")
    figure.text(0.03, 0.98, title, fontsize=9.5, fontweight="bold", color=INK, va="top", parse_math=False)
    figure.text(0.03, 0.925, said, fontsize=7.5, color=FAINT, va="top")
    axes = figure.add_axes((0.12, 0.13, 0.68, 0.72))
    _draw(axes, numbers, meaning)
    try:
        save_png(figure, path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a file that can be written") from None


def _numbers(plan_json: Mapping[str, Any]) -> tuple[dict[Place, int], str]:
    """What stands at each (d_model, n_layers), and what it means."""
    ffns: dict[Place, set[int]] = {}
    counts: dict[Place, int] = {}
    for config in plan_json["configs"]:
        place = config["shape"]["d_model"], config["shape"]["n_layers"]
        ffns.setdefault(place, set()).add(config["shape"]["ffn_hidden"])
        counts[place] = counts.get(place, 0) + 1
    if all(len(sizes) == 1 for sizes in ffns.values()) and len(set.union(*ffns.values())) > 1:
        return {place: next(iter(sizes)) for place, sizes in ffns.items()}, "ffn_hidden"
    return counts, "configs"


def _draw(axes: Axes, numbers: Mapping[Place, int], meaning: str) -> None:
    """Widths and depths stand in order at equal distances, as an axis lists them."""
    widths, depths = ({name: at for at, name in enumerate(sorted(set(names)))} for names in zip(*numbers, strict=True))
    x, y = [widths[width] for width, _ in numbers], [depths[depth] for _, depth in numbers]
    values = list(numbers.values())
    inches = min(0.68 * WIDTH_INCHES / (len(widths) + 1), 0.72 * HEIGHT_INCHES / (len(depths) + 1), 0.6)
    squares = axes.scatter(x, y, c=values, cmap="cividis", marker="s", s=(0.92 * 72 * inches) ** 2, linewidths=0)
    if len(numbers) <= MOST_NUMBERS:
        middle = (min(values) + max(values)) / 2
        for at_x, at_y, value in zip(x, y, values, strict=True):
            colour = "white" if value <= middle else "black"
            size = min(7.0, 26 * inches)
            axes.text(at_x, at_y, f"{value}", ha="center", va="center", fontsize=size, color=colour)
    for names, ticks, labels in (
        (widths, axes.set_xticks, axes.set_xlabel),
        (depths, axes.set_yticks, axes.set_ylabel),
    ):
        step = -(-len(names) // MOST_TICKS)
        ticks(list(names.values())[::step], [f"{name}" for name in list(names)[::step]])
        labels("width (d_model)" if names is widths else "depth (n_layers)", fontsize=8, color=INK)
    axes.set_xlim(-0.6, len(widths) - 0.4)
    axes.set_ylim(-0.6, len(depths) - 0.4)
    axes.tick_params(labelsize=7, colors=FAINT, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = axes.figure.colorbar(squares, ax=axes, cax=axes.figure.add_axes((0.83, 0.13, 0.03, 0.72)))
    bar.set_label(meaning, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=FAINT, length=0)
    bar.outline.set_visible(False)
