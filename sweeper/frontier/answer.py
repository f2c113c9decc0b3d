"""The answer in two sentences: what was found, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.model.shape import Shape
from sweeper.values.labels import listed, short

if TYPE_CHECKING:
    from sweeper.frontier.frontiers import DeviceFrontier, Frontier
    from sweeper.frontier.points import Point


def answer(found: Frontier) -> tuple[str, str]:
    """Two sentences: which points are on the frontier or tied with it, and whether one has the lowest loss for sure.

    A best is only named as one where it is shown to be better than all others at once.
    """
    if not any(one.points for one in found.frontiers):
        return _nothing(found)
    one = main_device(found)
    where = f" On {one.device}:" if len(found.frontiers) > 1 else ""
    return f"{where} {_first(one)}".strip(), _second(one)


def _nothing(found: Frontier) -> tuple[str, str]:
    """The answer where no point can be placed: whether more is to come, and if not, how the jobs ended."""
    none = f"none of the {found.planned} planned points has both a loss and a speed."
    if found.to_do:
        return f"Nothing is known yet: {none}", "`sweeper status` says what is missing, `sweeper run` does it."
    ends = [f"{count} {state.replace('_', ' ')}" for state, count in found.jobs.items()]
    return f"Nothing can be ranked: {none}", f"All {sum(found.jobs.values())} jobs have ended: {listed(ends)}."


def main_device(found: Frontier) -> DeviceFrontier:
    """The device type with the most points: the one that the answer is about."""
    return max(found.frontiers, key=lambda one: len(one.points))


def _first(one: DeviceFrontier) -> str:
    kept = [p for p in one.points if p.standing in ("frontier", "tied")]
    counts = [p.params["total"] for p in one.points]
    low, high = short(min(counts)), short(max(counts))
    size = f"{low} parameters" if low == high else f"{low}–{high} parameters"
    trained = [({**p.config.recipe.to_dict(), **p.resolved}, p.params) for p in one.points if p.config.recipe]
    if one.horizons is None and one.follow_up is None and trained:
        size += f", at {tokens_text(trained)}"
    of = f"Of {len(one.points)} {_noun(one)} with {size}," if len(one.points) > 1 else f"At {size},"
    if len(kept) == 1:
        return f"{of} one is on the frontier: {_described(kept[0])}."
    n_tied = sum(p.standing == "tied" for p in kept)
    tied = " or tied with it" if n_tied else ""
    lowest = min(kept, key=lambda p: p.objectives["val_loss"].mean)
    means = "" if all(best.surely for best in one.best.values()) else ", by the means"
    if lowest is kept[0]:
        ends = f"{_described(lowest)} is the fastest and the best in loss{means}"
    else:
        ends = f"from {_described(kept[0])} to {_described(lowest)}{means}"
    return f"{of} {len(kept)} are on the quality/speed frontier{tied}: {ends}."


def tokens_text(trained: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """How long trainings were, by their recipes, as resolved, and parameters: "300k tokens (0.92 per parameter)"."""
    tokens = [recipe["tokens"] for recipe, _ in trained]
    ratios = [recipe["tokens"] / params["total"] for recipe, params in trained]
    return f"{_range(tokens)} tokens ({_range(ratios)} per parameter)"


def _range(values: Sequence[float]) -> str:
    low, high = short(min(values)), short(max(values))
    return low if low == high else f"{low}–{high}"


def _noun(one: DeviceFrontier) -> str:
    shapes = {p.config.shape for p in one.points if isinstance(p.config.shape, Shape)}
    return "shapes" if len(shapes) == len(one.points) else "points"


def _described(point: Point) -> str:
    loss, speed = point.objectives["val_loss"], point.objectives["tokens_per_s"]
    return f"{point.label} ({short(speed.mean)} tokens/s, loss {loss.mean:.3f})"


def _second(one: DeviceFrontier) -> str:
    noise = one.noise["val_loss"]
    n_configs = len({p.config_id for p in one.points})
    seeds = seeds_text([len(point.samples) for point in one.points])
    if n_configs == 1:
        return "A single config has nothing to be compared with."
    if noise.smallest_resolved is None:
        return f"With {seeds} no difference can be told from noise: the order may be chance."
    best, label = one.best["val_loss"], {p.point_id: p.label for p in one.points}
    pair = f"of any two, differences below {noise.smallest_resolved:.3f} nats are within noise at {seeds}"
    if best.surely:
        return f"{best.label} has the lowest loss, shown against all others at once; {pair}."
    others = list(dict.fromkeys(label[point_id] for point_id in best.tied_with))
    names = listed([best.label, *others], most=8)
    return f"Which has the lowest loss is open: judged all at once, {names} can't be told apart in loss; {pair}."


def seeds_text(each: Sequence[int]) -> str:
    """With how many seeds the points were trained: "3 seeds", or "1 to 5 seeds" where they differ."""
    least, most = min(each), max(each)
    return f"{least if least == most else f'{least} to {most}'} seed{'s' if most != 1 else ''}"
