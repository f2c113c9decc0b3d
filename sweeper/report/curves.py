"""Loss curves as small panels, one per config, all on one scale: coordinates for the page's inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.labels import short

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 220, 140, 34, 8, 8, 20
_SETTLED = 0.1
"""The first tenth of training falls steeply from ln V and would flatten all the rest."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One config's curves: `lines` are SVG polyline points, one per seed; `ends` held-out losses (x, y)."""

    label: str
    lines: tuple[str, ...]
    ends: tuple[tuple[float, float], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_end: str


def panels(points: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """A panel per config of `points` (of frontier.json) from the finals among `records`, in that order."""
    config_labels = {point["config_id"]: point["label"] for point in points}
    finals = {
        r["trial_id"]: r
        for r in records
        if r["type"] == "final" and r["status"] == "ok" and r["config_id"] in config_labels and r["curve"]
    }.values()
    values = [
        loss
        for record in finals
        for tokens, loss in record["curve"]
        if tokens >= _SETTLED * record["tokens"] and loss is not None and math.isfinite(loss)
    ]
    if not values:
        return []
    scale = min([*values, *(r["val_loss"] for r in finals)]), max(values), max(r["tokens"] for r in finals)
    return [
        _panel(label, [r for r in finals if r["config_id"] == config_id], scale)
        for config_id, label in config_labels.items()
    ]


def _panel(label: str, finals: Sequence[Mapping[str, Any]], scale: tuple[float, float, float]) -> Panel:
    low, high, end = scale
    height = (high - low) or 1.0

    def place(tokens: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * tokens / end
        return round(x, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / height, 1)

    lines = []
    for record in finals:
        shown = [place(t, loss) for t, loss in record["curve"] if loss is not None and low <= loss <= high]
        lines.append(" ".join(f"{x},{y}" for x, y in shown))
    return Panel(
        label=label,
        lines=tuple(lines),
        ends=tuple(place(r["tokens"], r["val_loss"]) for r in finals),
        y_ticks=tuple((place(0, loss)[1], f"{loss:.2f}") for loss in (low, (low + high) / 2, high)),
        x_end=short(end),
    )
