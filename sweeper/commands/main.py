"""The commands by their names. What one needs is imported when it is called: `--help` starts at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 own fault, 2 wrong input, 3 infeasible, 4 jobs failed, 5 unwritable."""
    from sweeper.commands.ending import ended

    return ended(sys.argv[1:] if argv is None else argv, COMMANDS, goes_on=_GOES_ON)


def _check(arguments: Any) -> None:
    from sweeper.commands.check import check

    check(arguments)


def _plan(arguments: Any) -> None:
    from sweeper.commands.plan import plan

    plan(arguments)


def _run(arguments: Any) -> None:
    from sweeper.commands.run import run

    run(arguments)


def _status(arguments: Any) -> None:
    from sweeper.commands.status import status

    status(arguments)


def _report(arguments: Any) -> None:
    from sweeper.commands.report import report

    report(arguments)


def _recommend(arguments: Any) -> None:
    from sweeper.commands.recommend import recommend

    recommend(arguments)


def _merge(arguments: Any) -> None:
    from sweeper.commands.merge import merge

    merge(arguments)


def _sync(arguments: Any) -> None:
    from sweeper.commands.sync import sync

    sync(arguments)


def _shape(arguments: Any) -> None:
    from sweeper.commands.shape import shape

    shape(arguments)


def _train(arguments: Any) -> None:
    from sweeper.commands.train import train

    train(arguments)


def _ui(arguments: Any) -> int:
    from sweeper.commands.ui import ui

    return ui(arguments)


def _doctor(arguments: Any) -> int:
    from sweeper.commands.doctor import doctor

    return doctor(arguments)


def _schema(arguments: Any) -> None:
    from sweeper.commands.schema import schema

    schema(arguments)


COMMANDS = {
    "check": _check,
    "plan": _plan,
    "run": _run,
    "status": _status,
    "report": _report,
    "recommend": _recommend,
    "merge": _merge,
    "sync": _sync,
    "shape": _shape,
    "train": _train,
    "ui": _ui,
    "doctor": _doctor,
    "schema": _schema,
}
"""All that can be asked, by the name that it has on the command line."""

_GOES_ON = {
    _run: ": what was done is in the ledger; the same command goes on from here",
    _train: ": what was done is kept; the same command with --resume goes on from the last checkpoint",
}
"""What an interrupted command says that trains."""
