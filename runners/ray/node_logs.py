"""What jobs print on machines that don't share the driver's disk: kept there, and handed over piece by piece.

<temporary folder>/sweeper-logs-<user id>/<run>/<attempt>/<job_id>.log
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sweeper.runners.training.job_run import log_path
from sweeper.values.records import Job

BASE = "sweeper-logs"
MOST_BYTES = 256 * 1024
"""Of one piece: of what is longer, the end."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What was added to a log. `end`: the bytes of it that have been handed over with this one."""

    text: bytes
    end: int


def folder_of(run: str, job: Job) -> Path:
    """Where this machine keeps the log of one attempt at a job of a run; nobody else writes there."""
    return Path(tempfile.gettempdir()) / f"{BASE}-{os.getuid()}" / f"{run}-{job.job_id}-{job.attempt}"


def added(log: Path, start: int) -> Piece:
    """What is in a log from byte `start` on; nothing where there is no log."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            kept = max(start, end - MOST_BYTES)
            file.seek(kept)
            text = file.read(end - kept)
    except OSError:
        return Piece(text=b"", end=start)
    left_out = f"[{kept - start:,} bytes left out]\n".encode() if kept > start else b""
    return Piece(text=left_out + text, end=kept + len(text))


def rest(run: str, job: Job, start: int) -> Piece:
    """On its node: what a log that nobody writes to any more has from byte `start` on. The log is removed."""
    log = log_path(job, folder_of(run, job))
    piece = added(log, start)
    remove(log)
    return piece


def remove(log: Path) -> None:
    """Remove a log with its folder."""
    log.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        log.parent.rmdir()


def keep(piece: Piece, log: Path) -> None:
    """Add a piece to the driver's log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(piece.text)
