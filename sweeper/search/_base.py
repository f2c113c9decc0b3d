"""What a strategy is: it proposes configs of the feasible set, each once, and may learn from outcomes."""

from __future__ import annotations

from typing import Protocol

from sweeper.records import Config, Final


class Strategy(Protocol):
    """Chooses which feasible configs are tried, and in which order."""

    def propose(self) -> Config | None:
        """The next config, never one proposed before; None when there is none left."""

    def observe(self, final: Final) -> None:
        """Learn from a trial's outcome."""
