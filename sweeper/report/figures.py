"""The frontier drawn: validation loss against speed, as a PNG and as SVG with its text as text.

Takes `frontier.json`'s object, so that it can be drawn again from the file. Colours are Okabe and Ito's,
which the colour-blind can tell apart; markers differ too.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.frontier.answer import seeds_text, tokens_text
from sweeper.report.placement import Segment, place_labels
from sweeper.report.text import BAR, STANDINGS, standing_cell
from sweeper.values.labels import short
from sweeper.values.run_folder import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES, TITLE_INCHES, PANEL_INCHES, DPI = 4.8, 0.6, 3.6, 200
MOST_LABELS = 12
"""Of more points than these, only those on the frontier or tied with it are named."""
MOST_BARS = 60
"""Of more points than these, those that are dominated are small and without bars."""
INK, FAINT, BAND = "#222222", "#666666", "#009E73"
_LOOKS = {
    "frontier": ("#0072B2", "o", True),
    "tied": ("#E69F00", "D", True),
    "dominated": ("#767676", "X", True),
    "unresolved": ("#CC79A7", "s", False),
    "unstable": ("#D55E00", "X", False),
}
"""Standing → colour, marker, filled."""


def frontier_png(frontier_json: Mapping[str, Any], path: Path, *, question: str = "") -> None:
    """Draw `frontier.json`'s object to `path`: 960 pixels wide, 120 + 720 per device type high."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        save_png(_draw(frontier_json, question or frontier_json["study"]), path)


def save_png(figure: Figure, path: Path) -> None:
    """Write `figure` to `path`, whole or not at all. Raises CantWrite."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # names may hold what the font lacks
        figure.savefig(buffer, format="png", dpi=DPI)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def frontier_svg(frontier_json: Mapping[str, Any]) -> str:
    """The same figure without its title, as an `<svg>` element to stand in a page.

    Text is text, and each point has a tooltip (`<title>`).
    """
    import matplotlib

    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with (
        warnings.catch_warnings(action="ignore", category=UserWarning),
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sweeper"}),
    ):
        figure = _draw(frontier_json, "")
        figure.savefig(buffer, format="svg", metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1)
    svg = svg.replace("xlink:href", "href")
    for gid, title in _tooltips(frontier_json).items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(title)}</title>')
    return svg


def standalone(svg: str) -> str:
    """The text of an SVG file, of `frontier_svg`'s element: as wide as a column of text, letters as letters."""
    size = re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', svg)
    assert size is not None, "frontier_svg gives a viewBox, in points"
    names = f'xmlns="http://www.w3.org/2000/svg" width="{size[1]}pt" height="{size[2]}pt" font-family="sans-serif"'
    return svg.replace("<svg ", f"<svg {names} ", 1)


def _tooltips(frontier_json: Mapping[str, Any]) -> dict[str, str]:
    titles = {}
    for panel, one in enumerate(frontier_json["frontiers"]):
        for i, point in enumerate(one["points"]):
            loss, speed = point["objectives"]["val_loss"], point["objectives"]["tokens_per_s"]
            standing = standing_cell(
                point["standing"], point["tied_in"], diverged=point["diverged"], finished=len(point["samples"])
            )
            titles[f"point-{panel}-{i}"] = (
                f"{point['label']}: loss {loss['mean']:.3f}, {short(speed['mean'])} tokens/s, "
                f"{short(point['params']['total'])} parameters, {standing}"
            )
    return titles


def _draw(frontier_json: Mapping[str, Any], title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(i, one) for i, one in enumerate(frontier_json["frontiers"]) if one["points"]]
    lines = textwrap.wrap(title, 58, max_lines=3, placeholder=" …")
    title_inches = TITLE_INCHES if lines else 0.0
    height = title_inches + PANEL_INCHES * max(1, len(panels))
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.03,
        1 - 0.08 / height,
        "\n".join(lines),
        fontsize=9.5,
        fontweight="bold",
        color=INK,
        va="top",
        parse_math=False,
    )
    if not panels:
        figure.text(0.5, 0.5, "nothing measured yet", ha="center", color=FAINT)
    unused = title_inches - 0.165 * len(lines) - 0.1 if lines else 0.0
    for row, (number, one) in enumerate(panels):
        # A short title leaves its room to the first panel.
        top = 1 - (title_inches - (unused if row == 0 else 0) + row * PANEL_INCHES + 0.52) / height
        bottom = 1 - (title_inches + (row + 1) * PANEL_INCHES - 0.5) / height
        _panel(figure.add_axes((0.135, bottom, 0.835, top - bottom)), one, number)
    return figure


def _panel(axes: Axes, one: Mapping[str, Any], number: int) -> None:
    points = one["points"]
    speeds = [p["objectives"]["tokens_per_s"]["mean"] for p in points]
    if max(speeds) > 8 * min(speeds):
        axes.set_xscale("log")
    small = [point for point in points if _is_small(point, points)]
    _crowd(axes, small)
    for i, point in enumerate(points):
        if not _is_small(point, points):
            _point(axes, point, f"point-{number}-{i}")
    _limits(axes, points)
    _band(axes, one["attainment"])
    steps = _attained(axes, [p for p in points if p["on_frontier"]])
    _furniture(axes, one)
    named = sorted(points, key=lambda p: list(STANDINGS).index(p["standing"]))
    if len(points) > MOST_LABELS:
        named = [p for p in named if p["standing"] in ("frontier", "tied")][:MOST_LABELS]
    place_labels(
        axes,
        anchors=[_centre(p) for p in named],
        texts=[p["label"] for p in named],
        colours=[_LOOKS[p["standing"]][0] for p in named],
        marks=[_centre(p) for p in points],
        segments=[*(bar for p in points if not _is_small(p, points) for bar in _bar_segments(p)), *steps],
        dots=[dot for p in points if not _is_small(p, points) for dot in _dots(p)],
    )


def _centre(point: Mapping[str, Any]) -> tuple[float, float]:
    return point["objectives"]["tokens_per_s"]["mean"], point["objectives"]["val_loss"]["mean"]


def _bars(point: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of the bars, which overlap where a difference is within noise; else the mean."""
    ends = []
    for name in ("tokens_per_s", "val_loss"):
        mean, *interval = (point["objectives"][name][end] for end in ("mean", "low", "high"))
        ends += [mean if end is None else mean + BAR * (end - mean) for end in interval]
    return ends[0], ends[1], ends[2], ends[3]


def _bar_segments(point: Mapping[str, Any]) -> list[Segment]:
    (x, y), (left, right, bottom, top) = _centre(point), _bars(point)
    return [(left, y, right, y), (x, bottom, x, top)]


def _dots(point: Mapping[str, Any]) -> list[tuple[float, float]]:
    speed = point["objectives"]["tokens_per_s"]["mean"]
    return [(sample["tokens_per_s"] or speed, sample["val_loss"]) for sample in point["samples"]]


def _is_small(point: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> bool:
    return len(points) > MOST_BARS and point["standing"] == "dominated"


def _crowd(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Many dominated points, as small markers of one line: none has a name, bars or a tooltip of its own."""
    colour, marker, _ = _LOOKS["dominated"]
    x, y = ([_centre(point)[end] for point in points] for end in (0, 1))
    axes.plot(
        x, y, linestyle="none", marker=marker, color=colour, markersize=4.0, markeredgecolor="white",
        markeredgewidth=0.6, zorder=3.5,
    )  # fmt: skip


def _point(axes: Axes, point: Mapping[str, Any], gid: str) -> None:
    colour, marker, filled = _LOOKS[point["standing"]]
    x, y = _centre(point)
    left, right, bottom, top = _bars(point)
    if len(point["samples"]) > 1:
        dots = _dots(point)
        axes.plot(
            [d[0] for d in dots], [d[1] for d in dots], ".", color=colour, alpha=0.4, markersize=3.5,
            markeredgewidth=0, zorder=2,
        )  # fmt: skip
    axes.plot([left, right], [y, y], color=colour, linewidth=1.0, zorder=3)
    axes.plot([x, x], [bottom, top], color=colour, linewidth=1.0, zorder=3)
    axes.plot(
        [x],
        [y],
        marker=marker,
        color=colour,
        markersize=6.5,
        markerfacecolor=colour if filled else "white",
        markeredgecolor="white" if filled else colour,
        markeredgewidth=0.6 if filled else 1.2,
        zorder=4,
        gid=gid,
    )


def _limits(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Room for all bars, dots and labels."""
    import numpy as np

    bars, dots = [_bars(p) for p in points], [dot for p in points for dot in _dots(p)]
    x = np.array([b[0] for b in bars] + [b[1] for b in bars] + [d[0] for d in dots])
    y = np.array([b[2] for b in bars] + [b[3] for b in bars] + [d[1] for d in dots])
    if axes.get_xscale() == "log":
        ratio = (x.max() / x.min()) ** 0.1
        axes.set_xlim(x.min() / ratio, x.max() * ratio)
    else:
        room = 0.1 * ((x.max() - x.min()) or x.max())
        axes.set_xlim(x.min() - room, x.max() + room)
    room = 0.1 * ((y.max() - y.min()) or 0.1 * y.max())
    axes.set_ylim(y.min() - room, y.max() + room)


def _attained(axes: Axes, best: Sequence[Mapping[str, Any]]) -> list[Segment]:
    """Draw the frontier as steps: at each speed, the lowest loss that some point attains. Shaded: attained.

    Returns the steps' lines.
    """
    corners = sorted(_centre(p) for p in best)
    (left, _), (_, top) = axes.get_xlim(), axes.get_ylim()
    # At a speed between two points only the faster one keeps up: the step's height is that of its right end.
    x = [left, *(speed for speed, _ in corners), corners[-1][0]]
    y = [corners[0][1], *(loss for _, loss in corners), top]
    axes.step(x, y, where="pre", color="#0072B2", linewidth=1.3, alpha=0.75, zorder=1.5)
    axes.fill_between(x[:-1], y[:-1], top, step="pre", color="#0072B2", alpha=0.07, linewidth=0, zorder=1)
    flat = [(x[i], y[i + 1], x[i + 1], y[i + 1]) for i in range(len(x) - 1)]
    steep = [(x[i], y[i], x[i], y[i + 1]) for i in range(len(x) - 1)]
    return [*flat, *steep]


def _band(axes: Axes, surfaces: Sequence[Mapping[str, Any]]) -> None:
    """Shade what lies between the surfaces that 2.5% and 97.5% of the drawn frontiers attain."""
    if not surfaces:
        return
    outer, inner = (surfaces[end]["vertices"] for end in (0, -1))
    (left, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    speeds = sorted({left, right, *(min(max(speed, left), right) for _, speed in (*outer, *inner))})
    low, high = ([min(_lowest_loss(vertices, speed), top) for speed in speeds] for vertices in (outer, inner))
    axes.fill_between(speeds, low, high, step="pre", color=BAND, alpha=0.10, linewidth=0, zorder=1.2)


def _lowest_loss(vertices: Sequence[Sequence[float]], speed: float) -> float:
    """What a surface of corners (val_loss, tokens_per_s) attains at a speed: infinite beyond its fastest."""
    return min((loss for loss, other in vertices if other >= speed), default=float("inf"))


def _furniture(axes: Axes, one: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    log = axes.get_xscale() == "log"
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if log else MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: re.sub(r"\.0+(?=\D|$)", "", short(value))))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=8, colors=INK, length=3)
    bars = " · bars that overlap: within noise" if any(len(point["samples"]) > 1 for point in one["points"]) else ""
    axes.set_xlabel(f"training speed, tokens/s (faster →){bars}", fontsize=8.5, color=INK)
    axes.set_ylabel("validation loss, nats/token (↓ better)", fontsize=8.5, color=INK)
    axes.grid(color="#e6e6e6", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.annotate(
        textwrap.shorten(_subtitle(one), 92, placeholder=" …"),
        (0, 1),
        xycoords="axes fraction",
        xytext=(-36, 23),
        textcoords="offset points",
        fontsize=7.5,
        color=FAINT,
        parse_math=False,
    )
    _legend(axes, {point["standing"] for point in one["points"]}, band=bool(one["attainment"]))


def _legend(axes: Axes, standings: set[str], *, band: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for standing, (colour, marker, filled) in _LOOKS.items():
        if standing in standings:
            face = colour if filled else "white"
            look: dict[str, Any] = {
                "marker": marker,
                "color": colour,
                "markerfacecolor": face,
                "markersize": 5.5,
            }
            handles.append(Line2D([], [], linestyle="none", label=STANDINGS[standing], **look))
    handles.append(Patch(color="#0072B2", alpha=0.15, linewidth=0, label="attained"))
    if band:
        handles.append(Patch(color=BAND, alpha=0.2, linewidth=0, label="95% of frontiers"))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.128, 0.995),
        ncols=len(handles),
        fontsize=7.5,
        frameon=False,
        handlelength=1.2,
        handletextpad=0.4,
        columnspacing=1.4,
        borderpad=0.1,
    )


def _subtitle(one: Mapping[str, Any]) -> str:
    of_ours = [point for point in one["points"] if "recipe" in point]
    trained = [({**point["recipe"], **point["resolved"]}, point["params"]) for point in of_ours]
    seeds = [len(point["samples"]) for point in one["points"]]
    return " · ".join([one["device"], *([tokens_text(trained)] if trained else []), seeds_text(seeds)])
