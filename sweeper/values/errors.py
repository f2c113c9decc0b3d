"""Every error that sweeper raises on purpose, and the exit code that each becomes.

SweeperError (1)            a fault that sweeper names itself
├── UsageError (2)          the study or the arguments are wrong
│   └── StudyFaults (2)     all faults of one study file, each with its place
│   └── DataError (2)       the data named is missing, damaged or foreign
├── NothingFeasible (3)     no point of the lattice meets the rules
├── JobsFailed (4)          the study ended, some of its jobs did not
├── CantWrite (5)           a file can't be written: the disk is full, read-only or failing
└── DamagedLedger (1)       a ledger line other than the last can't be read
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SweeperError(Exception):
    """The base: shown as one message, without a traceback, with `exit_code`."""

    exit_code = 1


class UsageError(SweeperError):
    """What was asked can't be done as asked; the message says what would be right."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True, order=True)
class Fault:
    """One thing wrong in one file. `line` and `column` count from 1; `path` is like `trial.tokens`."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: "
        return place + (f"{self.path}: {self.message}" if self.path else self.message)


class StudyFaults(UsageError):
    """All faults of a study, in the order in which they stand in the file."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        super().__init__("\n".join(str(fault) for fault in self.faults))


class DataError(UsageError):
    """The training data is missing, damaged, too small, or not of the stated kind."""


class NothingFeasible(SweeperError):
    """No point of the lattice is feasible; the message names the nearest feasible value."""

    exit_code = 3


class JobsFailed(SweeperError):
    """The study ended, but some jobs failed three times."""

    exit_code = 4


class CantWrite(SweeperError):
    """A file can't be written; the message names it. What was written before stands whole."""

    exit_code = 5


class DamagedLedger(SweeperError):
    """A ledger line that isn't the torn last one can't be read; nothing is overwritten."""
