"""Precisions in pairs and ladders of micro-batches as the page shows them: cells and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.values.labels import gibibytes, listed, short

if TYPE_CHECKING:
    from sweeper.frontier.frontiers import DeviceFrontier
    from sweeper.measurements.batch_ladders import BatchLadder, Rung
    from sweeper.measurements.precision_pairs import PrecisionPair, Ratio
    from sweeper.stats.additive_fit import Difference

PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "fp8": "FP8"}


def precision_tables(one: DeviceFrontier) -> list[dict[str, Any]]:
    """For each two precisions that were compared: `{"title", "sentences", "rows", "source"}`, a row per shape."""
    groups: dict[tuple[str, str], list[PrecisionPair]] = {}
    for pair in one.precision_pairs:
        groups.setdefault(pair.precisions, []).append(pair)
    return [_precision_table(a, b, pairs) for (a, b), pairs in groups.items()]


def _precision_table(a: str, b: str, pairs: Sequence[PrecisionPair]) -> dict[str, Any]:
    name_a, name_b = PRECISIONS[a], PRECISIONS[b]
    sentences = (_speeds(pairs, name_b), _losses(pairs, name_b), _source(pairs))
    return {
        "title": f"{name_b} against {name_a}",
        "a": name_a,
        "b": name_b,
        "sentences": [sentence for sentence in sentences if sentence],
        "rows": [_precision_row(pair, name_a, name_b, pairs) for pair in pairs],
    }


def _precision_row(pair: PrecisionPair, a: str, b: str, pairs: Sequence[PrecisionPair]) -> dict[str, Any]:
    speed, loss, sizes = pair.speed, pair.loss, pair.batch_sizes
    return {
        "label": pair.label,
        "batch": f"{sizes[0]}" if sizes[0] == sizes[1] else f"{sizes[0]} → {sizes[1]}",
        "ratio": None if speed is None else speed.value,
        "speed": _ratio(speed),
        "faster": "–" if speed is None else _verdict(speed.resolved, speed.value > 1, b, a),
        "difference": None if loss is None else loss.value,
        "loss": _difference(loss),
        "lower": "–" if loss is None else _verdict(loss.resolved, loss.value < 0, b, a),
        "bar": _bar(speed, pairs),
    }


def _verdict(resolved: bool | None, is_b: bool, b: str, a: str) -> str:
    return "?" if resolved is None else "tie" if not resolved else b if is_b else a


def _ratio(speed: Ratio | None) -> str:
    if speed is None:
        return "–"
    return f"{speed.value:.2f}" if speed.low is None else f"{speed.value:.2f} ({speed.low:.2f}–{speed.high:.2f})"


def _difference(loss: Difference | None) -> str:
    if loss is None:
        return "–"
    value = f"{round(loss.value, 3) or 0.0:+.3f}"
    return value if loss.high is None else f"{value} ± {loss.high - loss.value:.3f}"


def _bar(speed: Ratio | None, pairs: Sequence[PrecisionPair]) -> dict[str, float] | None:
    """Where the interval, its middle and the ratio of one stand between 0 and 100."""
    if speed is None:
        return None
    ends = [end for pair in pairs if pair.speed for end in (pair.speed.low, pair.speed.high, pair.speed.value) if end]
    low, high = min([*ends, 1.0]), max([*ends, 1.0])

    def at(value: float) -> float:
        return round(4 + 92 * (value - low) / ((high - low) or 1.0), 1)

    return {
        "low": at(speed.low or speed.value),
        "high": at(speed.high or speed.value),
        "mean": at(speed.value),
        "one": at(1.0),
    }


def _speeds(pairs: Sequence[PrecisionPair], b: str) -> str:
    speeds = [pair.speed for pair in pairs if pair.speed is not None]
    return _counted("Speed", b, [(s.resolved, s.value > 1) for s in speeds], ("faster", "slower"))


def _losses(pairs: Sequence[PrecisionPair], b: str) -> str:
    losses = [pair.loss for pair in pairs if pair.loss is not None]
    return _counted("Loss", b, [(d.resolved, d.value < 0) for d in losses], ("lower", "higher"))


def _counted(what: str, b: str, each: Sequence[tuple[bool | None, bool]], words: tuple[str, str]) -> str:
    if not each:
        return ""
    better = sum(resolved is True and is_better for resolved, is_better in each)
    counts = [(better, words[0]), (sum(r is True for r, _ in each) - better, words[1]),
              (sum(r is False for r, _ in each), "tied"), (sum(r is None for r, _ in each), "unknown")]  # fmt: skip
    said = listed([f"{word} in {n}" for n, word in counts if n])
    return f"{what}: {b} is {said} of {len(each)} {'shapes' if len(each) > 1 else 'shape'}."


def _source(pairs: Sequence[PrecisionPair]) -> str:
    if all(pair.source == "trials" for pair in pairs):
        return "Intervals are 95%, paired by seed; “tie”: the interval holds no difference."
    return (
        "Speeds are of the fastest probe of each precision; only the faster precision is trained, so no loss is "
        "compared. Intervals are 95%; “tie”: the interval holds one."
    )


def ladder_table(one: DeviceFrontier) -> dict[str, Any] | None:
    """`{"batch_sizes", "rows", "sentences"}`: of each ladder a cell per micro-batch; None without any."""
    ladders = one.batch_ladders
    if not ladders:
        return None
    sizes = sorted({rung.batch_size for ladder in ladders for rung in ladder.rungs})
    several = len({ladder.precision for ladder in ladders}) > 1
    return {
        "batch_sizes": sizes,
        "rows": [
            {
                "label": f"{ladder.label} {PRECISIONS[ladder.precision]}" if several else ladder.label,
                "cells": _cells(ladder, sizes),
            }
            for ladder in ladders
        ],
        "sentences": _ladder_sentences(ladders),
    }


def _cells(ladder: BatchLadder, sizes: Sequence[int]) -> list[Mapping[str, Any]]:
    rungs = {rung.batch_size: rung for rung in ladder.rungs}
    best = max((rung.tokens_per_s or 0.0 for rung in ladder.rungs), default=0.0)
    return [_cell(rungs.get(size), best) for size in sizes]


def _cell(rung: Rung | None, best: float) -> dict[str, Any]:
    if rung is None or rung.status == "not_run":
        return {"kind": "none", "speed": "–", "memory": "", "share": 0}
    if rung.status == "out_of_memory":
        return {"kind": "out", "speed": "✕ out of memory", "memory": "", "share": 0}
    memory = "" if rung.memory_bytes is None else gibibytes(rung.memory_bytes)
    speed = short(rung.tokens_per_s or 0.0)
    share = round(100 * (rung.tokens_per_s or 0.0) / best) if best else 0
    return {"kind": "chosen" if rung.chosen else "ok", "speed": speed, "memory": memory, "share": share}


def _ladder_sentences(ladders: Sequence[BatchLadder]) -> list[str]:
    rungs = [rung for ladder in ladders for rung in ladder.rungs]
    said = ["Each cell: tokens/s of a probe with a bar up to the fastest of its row, and the peak memory."]
    if any(rung.chosen for rung in rungs):
        said.append("●: the fastest, at which trials run.")
    if any(rung.status == "not_run" for rung in rungs):
        said.append("–: not run: beyond the memory, or below a micro-batch that was no faster than a larger one.")
    return said
