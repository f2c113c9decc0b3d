"""The Driver (what runs next, what a result means) and the strategies that choose configs."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.records import Config
from sweeper.search._base import Strategy
from sweeper.search.grid import Grid
from sweeper.search.random import Random


def make_strategy(method: str, configs: Sequence[Config], *, trials: int | None, seed: int) -> Strategy:
    """The strategy that a study's `search` names, over its feasible configs."""
    if method == "random":
        return Random(configs, trials=trials or len(configs), seed=seed)
    return Grid(configs)
