"""Short names of points: what differs among them, and nothing else. And numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.values.kinds import kind_fields

_ABBREVIATIONS = {
    "d_model": "d", "n_layers": "L", "ffn_hidden": "f", "n_heads": "h", "n_kv_heads": "kv",
    "head_dim": "hd", "vocab_size": "V", "seq_len": "T", "batch_size": "b",
}  # fmt: skip
_FOLLOWS_FROM_OTHERS = (
    "n_heads", "n_kv_heads", "head_dim", "tokens", "tokens_per_step", "eval_tokens", "momentum", "fp8_backend",
    "fp8_filter", "base",
)  # fmt: skip
"""Fields that usually follow from the others: shown only where the rest can't tell two points apart."""
_ALONE = ("d_model", "n_layers", "ffn_hidden")
"""What names a point where nothing tells it from others; another kind than a shape is named by its axes."""
_SCALED = ("lr", "weight_decay")
"""What planning scales with tokens_per_step."""


def labels(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """One label per point, like "L6 f352", "d512 L8", "L6 f352 lr 0.003" or "L6 f352 b16".

    A point is what `sweeper.values.records.Config.to_dict` makes, with `"batch_size"` where the micro-batch is part of
    it. What a point hasn't got, as AdamW no momentum, its label leaves out.
    """
    shown = differing(points)
    return [label(point, shown) for point in points]


def differing(points: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The fields that tell `points` apart; width, depth and FFN where none does."""
    rows = [_flat(point) for point in points]
    names = dict.fromkeys(name for row in rows for name in row)
    varying = [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]
    follow = {*_FOLLOWS_FROM_OTHERS, *(name for name in _SCALED if _scaled(name, rows))}
    if follow & set(_SCALED) & set(varying):
        follow.discard("tokens_per_step")
    shown = [name for name in varying if name not in follow]
    for name in varying:
        if name not in shown and _distinct(rows, [*shown, name]) > _distinct(rows, shown):
            shown.append(name)
    return tuple(shown) or _ALONE


def label(point: Mapping[str, Any], shown: Sequence[str]) -> str:
    """A point's label of the fields `shown`."""
    row = _flat(point)
    if shown == _ALONE and not set(_ALONE) & row.keys():
        shown = tuple(kind_fields(point))
    return " ".join(_part(name, row[name]) for name in shown if row.get(name) is not None)


def _flat(point: Mapping[str, Any]) -> dict[str, Any]:
    shape, recipe = kind_fields(point), dict(point.get("recipe", {}))
    optimizer = dict(recipe.pop("optimizer", {}))
    recipe.pop("steps", None)
    optimizer = {("optimizer" if name == "name" else name): value for name, value in optimizer.items()}
    if optimizer:
        optimizer["parametrization"] = "completep" if optimizer.get("base") else "standard"
    ordered = {name: shape[name] for name in _ABBREVIATIONS if name in shape}
    return {**ordered, **shape, **recipe, **optimizer, "batch_size": point.get("batch_size")}


def _scaled(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether `name` has one value for each tokens_per_step, and those differ."""
    steps = _distinct(rows, ["tokens_per_step"])
    return 1 < steps == _distinct(rows, ["tokens_per_step", name])


def _distinct(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> int:
    return len({tuple(str(row.get(name)) for name in names) for row in rows})


def _part(name: str, value: Any) -> str:
    if name == "tie_embeddings":
        return "tied" if value else "untied"
    if name in ("precision", "optimizer", "data", "parametrization", "program", "architecture"):
        return str(value)
    if name in _ABBREVIATIONS:
        return f"{_ABBREVIATIONS[name]}{value}"
    if name == "minutes":
        return f"{value:g} min"
    if isinstance(value, Mapping):
        return f"{name} {'/'.join(str(item) for item in value.values())}"
    if isinstance(value, list | tuple):
        return f"{name} {'/'.join(f'{item:g}' for item in value)}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{name} {short(value)}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def short(value: float, digits: int = 3) -> str:
    """`value` to `digits` significant digits with k, M, G, T, P or E: 1234567 → "1.23M", 38200 → "38.2k"."""
    number = float(f"{value:.{digits}g}")
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            scaled = number / size
            return f"{scaled:.{max(0, digits - len(str(int(abs(scaled)))))}f}{unit}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    """`seconds` as "45 s", "12 min" or "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gibibytes(value: float) -> str:
    """`value` bytes as "512 MiB" or "7.5 GiB"."""
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def listed(items: Sequence[str], *, most: int = 6) -> str:
    """ "a", "a and b", "a, b and c"; beyond `most` the rest is counted."""
    if len(items) > most:
        items = [*items[: most - 1], f"{len(items) - most + 1} others"]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else "none"
