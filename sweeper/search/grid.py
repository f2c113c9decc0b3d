"""Every feasible config, in the lattice's order."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.search._base import Fixed
from sweeper.values.records import Config


class Grid(Fixed):
    """Proposes all of `configs`, first to last."""

    def __init__(self, configs: Sequence[Config]) -> None:
        super().__init__(list(configs))
