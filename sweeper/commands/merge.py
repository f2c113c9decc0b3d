"""`sweeper merge`."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from sweeper.commands.report import report
from sweeper.commands.terminal import console
from sweeper.ledger.merge import merge as merge_ledgers


def merge(arguments: Any) -> None:
    """Ledgers of one study put together and reported."""

    merged = merge_ledgers(arguments.folders, arguments.out)
    if not arguments.json:
        console().print("\n".join(merged.said))
    of_merged = {"study": arguments.out, "more": (), "details": False, "profile": None, "set": [], "out": None}
    report(Namespace(**vars(arguments) | of_merged))
