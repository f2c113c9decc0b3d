"""Where labels go in a figure: greedily, at the offset that covers least and belongs to its point alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

XY = tuple[float, float]
Segment = tuple[float, float, float, float]
"""x0, y0, x1, y1 of a horizontal or vertical line."""
Box = tuple[float, float, float, float]
"""Left, right, bottom, top."""

FONT_POINTS = 7.5
_RADII_POINTS = (5.5, 10.0, 17.0, 26.0, 38.0)
_LEADER_FROM_POINTS = 15.0
_ANGLES = tuple(range(0, 360, 30))
_MARK_WEIGHT, _LABEL_WEIGHT, _SEGMENT_WEIGHT, _DOT_WEIGHT, _OUTSIDE_WEIGHT = 6.0, 12.0, 2.5, 2.0, 20.0
_DISTANCE_WEIGHT, _AMBIGUITY_WEIGHT = 0.006, 0.8


def place_labels(
    axes: Axes,
    *,
    anchors: Sequence[XY],
    texts: Sequence[str],
    colours: Sequence[str],
    marks: Sequence[XY],
    segments: Sequence[Segment],
    dots: Sequence[XY],
) -> None:
    """Write each text near its anchor, clear of markers, lines, dots and labels where possible.

    All positions are in data coordinates; `marks` are all markers, labelled or not. A label that has to
    stand further away gets a leader line in its colour.
    """
    import numpy as np

    scale = axes.figure.dpi / 72
    to_pixels = [_pixel(axes, xy) for xy in marks]
    all_marks = np.array(to_pixels).reshape(-1, 2)
    obstacles = [
        *((_around(xy, 4.2 * scale), _MARK_WEIGHT) for xy in to_pixels),
        *((_around(_pixel(axes, xy), 1.8 * scale), _DOT_WEIGHT) for xy in dots),
        *((_thick(axes, segment), _SEGMENT_WEIGHT) for segment in segments),
    ]
    for anchor, text, colour in zip(anchors, texts, colours, strict=True):
        x, y = _pixel(axes, anchor)
        box, radius = _best(axes, text, (x, y), all_marks[(all_marks != (x, y)).any(axis=1)], obstacles)
        obstacles.append((box, _LABEL_WEIGHT))
        line: dict[str, Any] = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            text,
            anchor,
            xytext=((box[0] - x) / scale, (box[2] - y) / scale),
            textcoords="offset points",
            fontsize=FONT_POINTS,
            color="#222222",
            va="bottom",
            ha="left",
            zorder=6,
            arrowprops=line if radius >= _LEADER_FROM_POINTS else None,
            parse_math=False,
        )


def _best(
    axes: Axes, text: str, own: XY, others: NDArray[np.float64], obstacles: Sequence[tuple[Box, float]]
) -> tuple[Box, float]:
    """The cheapest place for `text` near `own`, and its distance in points."""
    scale, size, window = axes.figure.dpi / 72, _size(axes, text), axes.get_window_extent()
    inside = (window.x0, window.x1, window.y0, window.y1)
    reach = _around(own, _RADII_POINTS[-1] * scale + max(size))
    obstacles = [(other, weight) for other, weight in obstacles if _overlap(other, reach) > 0]

    def cost(place: tuple[Box, float]) -> float:
        box, radius = place
        strayed = _DISTANCE_WEIGHT * radius + _AMBIGUITY_WEIGHT * _ambiguity(box, own, others)
        return _cost(box, obstacles, inside) + size[0] * size[1] * strayed

    places = [(_box(*own, size, radius * scale, angle), radius) for radius, angle in product(_RADII_POINTS, _ANGLES)]
    return min(places, key=cost)


def _pixel(axes: Axes, xy: XY) -> XY:
    x, y = axes.transData.transform(xy)
    return float(x), float(y)


def _thick(axes: Axes, segment: Segment) -> Box:
    (x0, y0), (x1, y1) = _pixel(axes, segment[:2]), _pixel(axes, segment[2:])
    return min(x0, x1) - 2, max(x0, x1) + 2, min(y0, y1) - 2, max(y0, y1) + 2


def _size(axes: Axes, text: str) -> tuple[float, float]:
    """Width and height of `text` in pixels."""
    probe = axes.text(0, 0, text, fontsize=FONT_POINTS, parse_math=False)
    extent = probe.get_window_extent(axes.figure.canvas.get_renderer())  # type: ignore[attr-defined]
    probe.remove()
    return extent.width, extent.height


def _box(x: float, y: float, size: tuple[float, float], radius: float, angle: int) -> Box:
    """A label whose nearest edge or corner is about `radius` from (x, y) in direction `angle` (degrees)."""
    centre_x = x + math.cos(math.radians(angle)) * (radius + size[0] / 2)
    centre_y = y + math.sin(math.radians(angle)) * (radius + size[1] / 2)
    return centre_x - size[0] / 2, centre_x + size[0] / 2, centre_y - size[1] / 2, centre_y + size[1] / 2


def _around(xy: XY, radius: float) -> Box:
    return xy[0] - radius, xy[0] + radius, xy[1] - radius, xy[1] + radius


def _cost(box: Box, obstacles: Sequence[tuple[Box, float]], inside: Box) -> float:
    area = (box[1] - box[0]) * (box[3] - box[2])
    covered = sum(weight * _overlap(box, other) for other, weight in obstacles)
    return covered + _OUTSIDE_WEIGHT * (area - _overlap(box, inside))


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[1], b[1]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[2], b[2])
    return width * height if width > 0 and height > 0 else 0.0


def _ambiguity(box: Box, own: XY, others: NDArray[np.float64]) -> float:
    """How far another point competes for a label: 0 where the nearest is over twice as far as its own."""
    import numpy as np

    nearest = float(_distances(box, others).min()) if len(others) else math.inf
    return max(0.0, 2 - nearest / max(float(_distances(box, np.array([own]))[0]), 1e-9))


def _distances(box: Box, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the box to each of `points` [n, 2]."""
    import numpy as np

    x, y = points[:, 0], points[:, 1]
    dx = np.maximum(np.maximum(box[0] - x, x - box[1]), 0.0)
    dy = np.maximum(np.maximum(box[2] - y, y - box[3]), 0.0)
    return np.hypot(dx, dy)
