"""Loss curves: of every trial as data for the page's script, and of few configs as panels that need none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from sweeper.ledger.typed import FinalLine, Line
from sweeper.measurements.measured import loss_of
from sweeper.values.labels import short

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 220, 140, 34, 8, 8, 20
MOST_PANELS = 16
"""Panels on the page; of more configs those on the frontier, or tied with it, have one."""
MOST_POINTS = 64
"""Of a longer curve so many points are drawn, evenly spread and with its last."""
_SETTLED = 0.1
"""The first tenth of training falls steeply from ln V and would flatten all the rest."""
_TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One scale for all curves: losses from `low` to `high`, tokens from 0 to `end`."""

    low: float
    high: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One config's curves: `lines` are SVG polyline points, one per seed; `ends` held-out losses (x, y)."""

    config_id: str
    label: str
    lines: tuple[str, ...]
    ends: tuple[tuple[float, float], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_end: str


def with_curves(records: Iterable[Line]) -> list[FinalLine]:
    """The outcomes that left a curve, however they ended."""
    return [record for record in records if isinstance(record, FinalLine) and record.curve]


def scale_of(finals: Sequence[FinalLine]) -> Scale | None:
    """The scale on which all settled losses of the trials that ended well can be seen; None without any."""
    done = [record for record in finals if _ended_well(record)]
    values = [loss for record in done for tokens, loss in record.curve
              if tokens >= _SETTLED * record.tokens and _is_loss(loss)]  # fmt: skip
    if not values:
        return None
    return Scale(
        low=min([*values, *map(loss_of, done)]),
        high=max(values),
        end=float(max(record.tokens for record in done)),
    )


def _is_loss(loss: float | None) -> TypeGuard[float]:
    return loss is not None and math.isfinite(loss)


def _ended_well(record: FinalLine) -> bool:
    return record.status == "ok" and _is_loss(record.val_loss)


def curve_data(finals: Sequence[FinalLine], names: Mapping[str, str], scale: Scale) -> dict[str, Any]:
    """What the script draws: `{"curves": {config_id: {"label", "trials"}}, "grids": [[tokens]], "scale"}`.

    A trial is `{"seed", "status", "grid", "losses", "val_loss", "tokens", "end"}`: `losses` at the tokens of
    `grids[grid]`, which trials share, null for what is no number. In the order of `names`, labels by config id.
    """
    grids: dict[tuple[int, ...], int] = {}
    by_config: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(finals, key=lambda record: record.seed):
        points = _thinned(record.curve)
        tokens = tuple([int(at) for at, _ in points])
        ok = _ended_well(record)
        by_config.setdefault(record.config_id, []).append(
            {
                "seed": record.seed,
                "status": record.status,
                "grid": grids.setdefault(tokens, len(grids)),
                "losses": [round(loss, 4) if _is_loss(loss) else None for _, loss in points],
                "val_loss": record.val_loss if ok else None,
                "tokens": record.tokens,
                "end": f"held-out loss {record.val_loss:.4f}" if ok else record.status.replace("_", " "),
            }
        )
    return {
        "curves": {
            config_id: {"label": label, "trials": by_config[config_id]}
            for config_id, label in names.items()
            if config_id in by_config
        },
        "grids": [list(grid) for grid in grids],
        "scale": {
            **vars(scale),
            "y_ticks": [(value, f"{value:.{digits}f}") for digits, value in _ticks(scale.low, scale.high)],
            "x_ticks": [(value, short(value) if value else "0") for _, value in _ticks(0.0, scale.end)],
        },
    }


def _thinned(curve: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    if len(curve) <= MOST_POINTS:
        return list(curve)
    last = len(curve) - 1
    return [curve[round(i * last / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _ticks(low: float, high: float, most: int = 6) -> list[tuple[int, float]]:
    """Round values within [low, high], each with the decimals that it needs."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(s * power for s in _TICK_STEPS if s * power * most >= span)
    digits = max(0, -math.floor(math.log10(step)) + (round(step / power, 1) == 2.5))
    return [(digits, n * step) for n in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def panels(points: Sequence[Mapping[str, Any]], finals: Sequence[FinalLine], scale: Scale) -> list[Panel]:
    """A panel for each config of `points` (of frontier.json), in that order; of many, for those that matter most."""
    shown = {point["config_id"]: point["label"] for point in points}
    if len(shown) > MOST_PANELS:
        best = [point for point in points if point["standing"] in ("frontier", "tied")]
        best.sort(key=lambda point: point["standing"] != "frontier")
        kept = {point["config_id"] for point in best[:MOST_PANELS]}
        shown = {config_id: label for config_id, label in shown.items() if config_id in kept}
    of_config: dict[str, list[FinalLine]] = {}
    for record in finals:
        if _ended_well(record):
            of_config.setdefault(record.config_id, []).append(record)
    return [_panel(config_id, label, of_config.get(config_id, ()), scale) for config_id, label in shown.items()]


def _panel(config_id: str, label: str, finals: Sequence[FinalLine], scale: Scale) -> Panel:
    height = (scale.high - scale.low) or 1.0

    def place(tokens: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * tokens / scale.end
        return round(x, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (scale.high - loss) / height, 1)

    lines = []
    for record in finals:
        shown = [place(t, loss) for t, loss in _thinned(record.curve) if _is_loss(loss)]
        lines.append(" ".join(f"{x},{y}" for x, y in shown if y >= TOP))
    return Panel(
        config_id=config_id,
        label=label,
        lines=tuple(lines),
        ends=tuple(place(r.tokens, loss_of(r)) for r in finals),
        y_ticks=tuple(
            (place(0, loss)[1], f"{loss:.2f}") for loss in (scale.low, (scale.low + scale.high) / 2, scale.high)
        ),
        x_end=short(scale.end),
    )
