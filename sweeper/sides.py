"""What one run folder has to be compared: a side for each kind of device that measured something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.compare import Comparison, Side, compare, sides_of
from sweeper.frontier import Frontier

if TYPE_CHECKING:
    from sweeper.study_run import StudyRun

Record = Mapping[str, Any]


def sides(run: StudyRun, records: Sequence[Record], found: Frontier, *, folder: str = "") -> list[Side]:
    """Those of `found`, the frontier of `records`."""
    driver = run.replayed(records)
    seeds = run.seeds(driver, records)
    return sides_of(found, records, run.points(driver, records), seeds, folder=folder)


def by_device(run: StudyRun, records: Sequence[Record], found: Frontier) -> Comparison | None:
    """The kinds of device side by side, None where there is one alone."""
    return compare(sides(run, records, found)) if sum(bool(one.points) for one in found.frontiers) > 1 else None
