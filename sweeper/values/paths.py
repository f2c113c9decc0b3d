"""Paths as users read them, run folders that can't be used, and where this package lies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeper.values.errors import UsageError
from sweeper.values.run_folder import FULL, RunFolder, writing


@contextmanager
def results_in(folder: Path) -> Iterator[None]:
    """Say of a run folder that can't be used what is wrong with it: UsageError, CantWrite where its disk is full.

    Other OSErrors pass.
    """
    try:
        yield
    except OSError as error:
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
        if path is None or not (path.is_relative_to(folder) or folder.is_relative_to(path)):
            raise
        with writing(path):
            if error.errno in FULL:
                raise
        raise UsageError(
            f"{path}: {error.strerror}, so results can't be kept in {shown(folder)}: "
            "name another folder with --out, one that can be written"
        ) from None


PACKAGE_PARENT = Path(__file__).absolute().parents[2]
"""What a process of our own has to have on its import path to find this very package."""


def profile_of(folder: RunFolder) -> str:
    """The profile that a run folder's plan names; where that can't be read, the folder is named for it."""
    return _of_plan(folder, "profile") or folder.root.name


def command_of(folder: RunFolder) -> str:
    """The command that a run folder's plan names, "" where it names none."""
    return _of_plan(folder, "command") or ""


def _of_plan(folder: RunFolder, key: str) -> str | None:
    try:
        found = json.loads(folder.plan.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
