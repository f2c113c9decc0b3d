"""What the rows come to: what is green, what isn't and why, measured beside expected and aimed at. Stdlib only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

TOKENS_PER_S, MFU, TO_PLAIN = 300_000, 0.5, 1.0
"""Aimed at for 32 × 768 at sequence length 1024 on a card of the H200's class. None is a ratio to Hugging Face's Llama,
which computes the hidden half of attention when it's compiled (`benchmarks/peers.py`)."""


def summary(steps: Mapping[str, Any], *, device_type: str) -> dict[str, Any]:
    """Statuses of the steps, rows that are red or failed or couldn't be had; what was expected and came out.

    On CUDA the flagship beside its aims. `sources` counts rows by the code that they were found by.
    """
    found: dict[str, Any] = {"steps": {name: step["status"] for name, step in steps.items()}}
    for sign in ("error", "unavailable", "not_run"):
        found[sign] = {f"{name}: {label}": row[sign] for name, label, row in _rows(steps) if sign in row}
    found["error"] |= {name: step["error"] for name, step in steps.items() if "error" in step}
    found["red"] = [f"{name}: {label}" for name, label, row in _rows(steps) if not row.get("green", True)]
    found["green"] = sum(1 for _, _, row in _rows(steps) if row.get("green") is True)
    found["expected"] = {f"{name}: {label}": pair for name, label, row in _rows(steps) for pair in _pairs(row)}
    found["sources"] = dict(Counter(row["source"] for _, _, row in _rows(steps) if "source" in row))
    return found | ({"flagship": _flagship(steps)} if device_type == "cuda" else {})


def _rows(steps: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for name, step in steps.items():
        for label, row in step.get("rows", {}).items():
            yield name, label, row


def _pairs(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Tokens/s of a row beside what was expected of it."""
    if "expected" in row and "measured_to_expected" in row:
        measured = row.get("tokens_per_s")
        yield {"expected": row["expected"], "measured": measured, "ratio": row["measured_to_expected"]}


def _flagship(steps: Mapping[str, Any]) -> dict[str, Any]:
    rows = steps.get("flagship", {}).get("rows", {})
    untied = {label: row for label, row in rows.items() if "tokens_per_s" in row and "tied" not in label}
    best = max(untied, key=lambda label: untied[label]["tokens_per_s"], default=None)
    side_by_side = steps.get("peers", {}).get("rows", {}).get("side by side", {})
    figures = {
        "tokens_per_s": (untied[best]["tokens_per_s"] if best else None, TOKENS_PER_S),
        "mfu": (untied[best].get("mfu") if best else None, MFU),
        "to_plain": (side_by_side.get("sweeper_to_plain"), TO_PLAIN),
    }
    return {"fastest": best} | {
        name: {"value": value, "aim": aim, "met": value is not None and value >= aim}
        for name, (value, aim) in figures.items()
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The summary for a terminal."""
    for name, status in found["steps"].items():
        yield f"{name:16} {status}"
    yield f"{found['green']} rows green, {len(found['red'])} red, {len(found['error'])} failed"
    for label in found["red"]:
        yield f"RED     {label}"
    for label, error in found["error"].items():
        yield f"FAILED  {label}: {error}"
    for why in dict.fromkeys(found["unavailable"].values()):
        labels = [label for label, reason in found["unavailable"].items() if reason == why]
        yield f"MISSING {len(labels)} rows ({labels[0]}{', …' if labels[1:] else ''}): {why}"
    for label, pair in found["expected"].items():
        if pair["measured"] is not None:
            yield f"{label}: {pair['measured']:g} tokens/s, expected {pair['expected']:g}: {pair['ratio']:g} of it"
    if len(found["sources"]) > 1:
        yield f"rows were found by {len(found['sources'])} states of the code: each says by which"
    flagship = found.get("flagship", {})
    if flagship.get("fastest"):
        yield f"flagship, fastest: {flagship['fastest']}"
        for name, figure in flagship.items():
            if name != "fastest" and figure["value"] is not None:
                verdict = "met" if figure["met"] else "not met"
                yield f"  {name} {figure['value']:g}, aim {figure['aim']:g}: {verdict}"
