"""`sweeper status`."""

from __future__ import annotations

import json
from typing import Any

from sweeper.commands.opening import opened
from sweeper.commands.terminal import console
from sweeper.ledger.file import is_locked, read
from sweeper.report.tables import status_json, status_table
from sweeper.search.follow_up import to_follow


def status(arguments: Any) -> None:
    """What is done, running, missing, failed and why."""
    run = opened(arguments, takes_folder=True)
    live = is_locked(run.folder.lock)
    records = read(run.folder.ledger)
    driver = run.replayed(records)
    points = [*run.points(driver, records), *run.follow_ups(driver).values()]
    to_come = driver.to_propose + to_follow(driver)
    status = status_json(records, points, seeds=run.seeds(driver, records), live=live, to_propose=to_come)
    if arguments.json:
        print(json.dumps(status, indent=2))
    else:
        console().print(status_table(status))
