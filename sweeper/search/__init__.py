"""The Driver (what runs next, what a result means) and the strategies that choose configs."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.records import Config
from sweeper.search._base import Strategy
from sweeper.search.grid import Grid
from sweeper.search.random import Random
from sweeper.search.space_filling import SpaceFilling


def make_strategy(
    method: str, configs: Sequence[Config], *, trials: int | None, seed: int, axes: Sequence[str] = ()
) -> Strategy:
    """The strategy that a study's `search` names, over its feasible configs; `axes` are what they differ in."""
    wanted = len(configs) if trials is None else trials
    if method == "random":
        return Random(configs, trials=wanted, seed=seed)
    if method == "space_filling":
        return SpaceFilling(configs, trials=wanted, seed=seed, axes=axes)
    return Grid(configs)
