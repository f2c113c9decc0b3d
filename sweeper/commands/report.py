"""`sweeper report`, of one study."""

from __future__ import annotations

import json
from typing import Any

from sweeper.commands.opening import measured_records, opened
from sweeper.commands.report_several import report_several
from sweeper.commands.terminal import console
from sweeper.report.comparison import report_text
from sweeper.report.frontier_json import frontier_json
from sweeper.values.paths import results_in, shown


def report(arguments: Any) -> None:
    """The frontier again, from the ledger; of several run folders, side by side."""
    if arguments.more:
        report_several(arguments, console())
        return
    run = opened(arguments, takes_folder=True)
    records = measured_records(run)
    with results_in(run.folder.root):
        result = run.write_report(records)
    if arguments.json:
        print(json.dumps(frontier_json(result), indent=2))
    else:
        terminal = console()
        terminal.print(report_text(result, run.by_device(records, result), details=arguments.details))
        terminal.print(f"report: {shown(run.folder.report)}")
