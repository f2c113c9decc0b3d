"""The guide's claims on quality against the studies that are recorded in benchmarks/results."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling_fits import CONFIDENCE, Verdict
from scipy import stats

FREE = {
    "n_layers": ("n_layers", "ffn_hidden"),
    "d_model": ("d_model", "n_heads", "n_kv_heads", "head_dim", "ffn_hidden"),
    "ffn_hidden": ("ffn_hidden",),
}
"""Fields of the shape that may differ between sizes of an axis."""
LETTERS = {"n_layers": "L", "d_model": "d", "ffn_hidden": "f"}
EQUAL_PARAMS = 1.04
"""The largest count ÷ the smallest, where a study's tolerance is 2%."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Points of one study that differ in one axis, ascending, each the best of its learning rates.

    `compared` counts all points that could have been chosen; `noise` is that of a trial's loss in the study's noisiest
    class.
    """

    where: str
    axis: str
    points: tuple[Mapping[str, Any], ...]
    compared: int
    noise: Mapping[str, Any]

    @property
    def resolved(self) -> float:
        """The least difference of two means that isn't noise among so many (Tukey's honestly significant one)."""
        trials = min(point["objectives"]["val_loss"]["n"] for point in self.points)
        q = float(stats.studentized_range.ppf(CONFIDENCE, self.compared, self.noise["degrees_of_freedom"]))
        return q * float(self.noise["residual_sd"]) / math.sqrt(trials)


def quality_rows(said: Sequence[Mapping[str, Any]], results: Path) -> Iterator[Sequence[str]]:
    """A row for each claim and ladder of a recorded study; one that says so where there is none."""
    frontiers = [json.loads(path.read_text()) for path in sorted(results.glob("*/frontier.json"))]
    for claim in said:
        found = [ladder for study in frontiers for ladder in ladders(study, claim["axis"])]
        if not found:
            yield claim["said"], "–", "no recorded study varies it by itself", "not measured"
        for ladder in found:
            yield claim["said"], ladder.where, *outcome(ladder)


def ladders(study: Mapping[str, Any], axis: str) -> Iterator[Ladder]:
    """What a study's `frontier.json` has on an axis."""
    for frontier in study["frontiers"]:
        noise = frontier["noise"].get("val_loss") or {}
        if not noise.get("degrees_of_freedom"):
            continue
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for point in frontier["points"]:
            groups.setdefault(_others(point, axis), []).append(point)
        for group in groups.values():
            best = _best(group, axis)
            if len(best) > 1:
                yield Ladder(
                    where=_where(study, frontier, best, axis),
                    axis=axis,
                    points=tuple(best),
                    compared=len(group),
                    noise=_noisiest(frontier),
                )


def outcome(ladder: Ladder) -> tuple[str, str]:
    """The losses in a line, and whether larger was better."""
    losses = [point["objectives"]["val_loss"]["mean"] for point in ladder.points]
    steps = [before - after for before, after in itertools.combinations(losses, 2)]
    better, worse = (sum(sign * step > ladder.resolved for step in steps) for sign in (1, -1))
    verdict: Verdict = "isn't decided"
    if worse:
        verdict = "doesn't hold"
    elif better:
        verdict = "holds"
    said = ", ".join(
        f"{_size(point, ladder.axis)} {loss:.3f}" for point, loss in zip(ladder.points, losses, strict=True)
    )
    return (
        f"loss {said} nats; of {len(steps)} pairs the larger is better in {better}, worse in {worse} "
        f"(by more than {ladder.resolved:.3f})"
    ), verdict + _at_equal_parameters(ladder)


def _at_equal_parameters(ladder: Ladder) -> str:
    counts = [point["params"]["trunk"] for point in ladder.points]
    return ", at equal parameters" if max(counts) / min(counts) <= EQUAL_PARAMS else ""


def _noisiest(frontier: Mapping[str, Any]) -> Mapping[str, Any]:
    """The noise of losses with the sd of the noisiest class of configs, as a size may be in any."""
    noise = frontier["noise"]["val_loss"]
    classes = [one["sd"] for one in frontier.get("noise_classes", ()) if one["metric"] == "val_loss"]
    return {**noise, "residual_sd": max([noise["residual_sd"], *classes])}


def _others(point: Mapping[str, Any], axis: str) -> str:
    """What must be equal within a ladder: all but the axis, what goes with it, and the learning rate."""
    shape = {name: value for name, value in point["shape"].items() if name not in FREE[axis]}
    optimizer = {name: value for name, value in point["recipe"]["optimizer"].items() if name != "lr"}
    recipe = {**point["recipe"], "optimizer": optimizer}
    return json.dumps([shape, recipe, point["batch_size"]], sort_keys=True)


def _best(group: Sequence[Mapping[str, Any]], axis: str) -> list[Mapping[str, Any]]:
    """Of each size the point of the least loss, by size."""
    found: dict[int, Mapping[str, Any]] = {}
    for point in sorted(group, key=lambda point: point["objectives"]["val_loss"]["mean"]):
        found.setdefault(point["shape"][axis], point)
    return [found[size] for size in sorted(found)]


def _size(point: Mapping[str, Any], axis: str) -> str:
    """L4 f352: the axis, and the FFN where it isn't the axis."""
    shape = point["shape"]
    return f"{LETTERS[axis]}{shape[axis]}" + ("" if axis == "ffn_hidden" else f" f{shape['ffn_hidden']}")


def _where(
    study: Mapping[str, Any], frontier: Mapping[str, Any], points: Sequence[Mapping[str, Any]], axis: str
) -> str:
    recipe = points[0]["recipe"]
    fixed = [f"{LETTERS[name]}{points[0]['shape'][name]}" for name in ("n_layers", "d_model") if name != axis]
    tokens = f"{recipe['tokens'] / 1e6:.2g}M tokens" if "tokens" in recipe else f"{recipe['minutes']:g} minutes"
    scaled = ", CompleteP" if "base" in recipe["optimizer"] else ""
    return f"{study['study']} (`{study['profile']}`), {frontier['device']}: {' '.join(fixed)}, {tokens}{scaled}"
