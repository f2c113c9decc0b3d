"""Several run folders reported together: as one study where they are of one, and side by side in any case."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.compare.comparison import Comparison
from sweeper.frontier.frontiers import Frontier
from sweeper.ledger.typed import Line


@dataclass(frozen=True, kw_only=True)
class JointReport:
    """What several folders hold. `merged` and `records` are of one study in all of them, None where it isn't one.

    `folders` are their paths as a reader sees them, `notes` are sentences on them, `comparison` is None where fewer
    than two of them have results.
    """

    folders: tuple[str, ...]
    merged: Frontier | None
    records: tuple[Line, ...] | None
    comparison: Comparison | None
    notes: tuple[str, ...]
