"""The environment that trials recorded, as rows of a table: what a reader would compare, in few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeper.ledger.typed import FinalLine


def environment_rows(finals: Sequence[FinalLine]) -> list[tuple[str, list[str]]]:
    """Each thing recorded of the environment with the values it took, most of them one.

    Fractional numbers are rounded, and several of them shown as a range. Of the precision's report, which
    counts matmuls per config, the names and the counts' ranges are shown; of the reference, nothing: that is drift.
    """
    values: dict[str, dict[Any, None]] = {}
    reports = []
    for record in finals:
        environment = {name: value for name, value in record.environment.items() if name != "reference"}
        reports.append(environment.pop("precision", None) or {})
        for name, value in _flat(environment).items():
            values.setdefault(name, {})[value] = None
    rows = [(name, _shown(list(seen))) for name, seen in values.items()]
    return rows + _precision([report for report in reports if report])


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{name} ")
        elif item is not None:
            plain = ", ".join(map(str, item)) if isinstance(item, list | tuple) else item
            flat[prefix + name.replace("_", " ")] = plain
    return flat


def _shown(values: Sequence[Any]) -> list[str]:
    if all(isinstance(value, float) for value in values):
        low, high = _rounded(min(values)), _rounded(max(values))
        return [low if low == high else f"{low}–{high}"]
    return list(dict.fromkeys(_rounded(v) if isinstance(v, float) else str(v) for v in values))


def _rounded(value: float) -> str:
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"


def _precision(reports: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """ "fp32", or "fp8: converted 14–28 of 14–28 matmuls", and the matmuls that were kept out, if any."""
    used, kept_out = [], dict.fromkeys(layer for report in reports for layer in report.get("kept_out", ()))
    for name, emulated in dict.fromkeys((r.get("name"), bool(r.get("emulated"))) for r in reports):
        own = [r for r in reports if (r.get("name"), bool(r.get("emulated"))) == (name, emulated)]
        if not any(r.get("converted") for r in own):
            used.append(str(name))
            continue
        converted, total = (_range(int(r[key]) for r in own) for key in ("converted", "total"))
        used.append(f"{name}{' (emulated)' if emulated else ''}: converted {converted} of {total} matmuls")
    rows = [("precision", used)] if used else []
    return rows + ([("precision kept out", list(kept_out))] if kept_out else [])


def _range(values: Iterable[int]) -> str:
    ordered = sorted(values)
    return str(ordered[0]) if ordered[0] == ordered[-1] else f"{ordered[0]}–{ordered[-1]}"
