"""Every feasible config, in the lattice's order."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.records import Config, Final


class Grid:
    """Proposes all of `configs`, first to last."""

    def __init__(self, configs: Sequence[Config]) -> None:
        self._left = iter(configs)

    def propose(self) -> Config | None:
        """The next config of the lattice."""
        return next(self._left, None)

    def observe(self, final: Final) -> None:
        """A grid learns nothing."""
