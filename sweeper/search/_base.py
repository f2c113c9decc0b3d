"""What a strategy is: it proposes configs of the feasible set, each once, and may learn from outcomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sweeper.values.events import Final
from sweeper.values.records import Config


class Strategy(Protocol):
    """Chooses which feasible configs are tried, and in which order.

    One that `learns` is asked for its next config when there is nothing else to run; of the others all are taken
    before anything runs.
    """

    @property
    def learns(self) -> bool:
        """Whether what it proposes depends on outcomes."""

    @property
    def left(self) -> int:
        """How many configs it will still propose."""

    def propose(self) -> Config | None:
        """The next config, never one proposed or adopted before; None when there is none left."""

    def adopt(self, config: Config) -> bool:
        """Take for proposed what an earlier run has asked for; False where it's none of its own, or no room is left."""

    def observe(self, final: Final) -> None:
        """Learn from a trial's outcome."""


class Fixed:
    """The parts of a strategy that learns nothing: an order of configs, settled at the start."""

    learns = False

    def __init__(self, configs: list[Config]) -> None:
        self._configs, self._next = configs, 0

    def put_longest_first(self, seconds: Callable[[Config], float], *, among: int | None) -> None:
        """Sort the first `among` (all where None) by how long they take: so that several devices end together."""
        first = sorted(self._configs[:among], key=seconds, reverse=True)
        self._configs[:among] = first

    @property
    def left(self) -> int:
        """How many are still to come."""
        return len(self._configs) - self._next

    def propose(self) -> Config | None:
        """The next in order."""
        if not self.left:
            return None
        self._next += 1
        return self._configs[self._next - 1]

    def adopt(self, config: Config) -> bool:
        """Take out of turn what is still to come; not what was proposed, or isn't wanted any more."""
        if config not in self._configs[self._next :]:
            return False
        self._configs.remove(config)
        return True

    def observe(self, final: Final) -> None:
        """Nothing is learnt."""
