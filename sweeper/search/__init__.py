"""The Driver (what runs next, what a result means) and the strategies that choose configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeper.search._base import Strategy
from sweeper.search.gp import GP
from sweeper.search.grid import Grid
from sweeper.search.nsga2 import NSGA2
from sweeper.search.random import Random
from sweeper.search.space_filling import SpaceFilling
from sweeper.search.tpe import TPE
from sweeper.values.records import Config

_LEARNING: Mapping[str, type[TPE] | type[NSGA2] | type[GP]] = {"tpe": TPE, "nsga2": NSGA2, "gp": GP}


def make_strategy(
    method: str,
    configs: Sequence[Config],
    *,
    trials: int | None,
    seed: int,
    axes: Sequence[str],
    objectives: Mapping[str, str],
) -> Strategy:
    """The strategy that a study's `search` names, over its feasible configs; `axes` are what they differ in."""
    wanted = len(configs) if trials is None else trials
    if method == "random":
        return Random(configs, trials=wanted, seed=seed)
    if method == "space_filling":
        return SpaceFilling(configs, trials=wanted, seed=seed, axes=axes)
    if method in _LEARNING:
        return _LEARNING[method](configs, trials=wanted, seed=seed, axes=axes, objectives=objectives)
    return Grid(configs)
