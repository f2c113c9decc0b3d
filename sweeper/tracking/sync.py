"""MLflow's store brought to what a run folder's ledger says, whenever: where it was lost, or is another one."""

from __future__ import annotations

import time
from pathlib import Path

from sweeper.ledger.file import held, read
from sweeper.ledger.typed import JobLine
from sweeper.study.loader import load_folder
from sweeper.tracking.projection import milliseconds
from sweeper.tracking.tracker import Tracker, default_uri
from sweeper.values.errors import CantWrite, SweeperError, UsageError
from sweeper.values.paths import shown
from sweeper.values.run_folder import RunFolder

PATIENCE = 60.0
"""Seconds for which a store may fail before it is given up."""


def sync(root: Path, *, to: str | None) -> str:
    """Write what the store at `to` lacks of the run folder `root`; one line that says so.

    `to` is MLflow's tracking URI, by default that of MLFLOW_TRACKING_URI, or of `mlflow.db` beside the studies. The
    parent run ends when the ledger does. Writing again what is there changes nothing. Raises UsageError where `root` is
    no run folder, a run is at work on it or MLflow will never take the store; CantWrite where the store's disk is full,
    SweeperError where the store can't be written for another reason.
    """
    folder = RunFolder(root=root.absolute())
    loaded = load_folder(folder, given={})
    with held(folder.lock):
        records = read(folder.ledger)
        if not records:
            raise UsageError(f"{shown(folder.root)}: nothing was run yet")
        uri = to or default_uri(folder.root.parent.parent)
        tracker = Tracker(
            uri=uri,
            experiment=loaded.study.name,
            folder=folder,
            profile=loaded.profile,
            description=loaded.study.question,
        )
        with tracker:
            tracker.require_store(away_after=PATIENCE)
            tracker.catch_up(records)
            tracker.log_artifacts()
            tracker.end(milliseconds(records[-1].time))
            _wait(tracker, uri)
    trials = len({line.trial_id for line in records if isinstance(line, JobLine) and line.trial_id is not None})
    return f"{shown(folder.root)}: {trials} trials are in {uri}"


def _wait(tracker: Tracker, uri: str) -> None:
    """Until all is written, however long that takes; SweeperError once the store has failed for PATIENCE."""
    failing_since: float | None = None
    while not tracker.drain(1.0):
        if tracker.unwritable:
            raise CantWrite(f"{tracker.unwritable} can't be written: make room, and the same command goes on")
        if not tracker.error:
            failing_since = None
        elif time.monotonic() - (failing_since := failing_since or time.monotonic()) > PATIENCE:
            raise SweeperError(f"{uri} can't be written: {tracker.error}")
