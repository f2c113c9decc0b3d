"""Run folders as commands speak of them: shown from here, refused where they can't be used, their profile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.errors import UsageError
from sweeper.run_folder import FULL, RunFolder, writing

if TYPE_CHECKING:
    from sweeper.study.schema import LoadedStudy


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


def load_folder(folder: RunFolder, *, given: Mapping[str, object]) -> LoadedStudy:
    """The study of a run folder, which may have come from a machine with other data.

    UsageError where it isn't a run folder, or `given` has flags that would say otherwise than it does.
    """
    from sweeper.study.loader import load

    if ignored := [flag for flag, value in given.items() if value]:
        raise UsageError(
            f"{shown(folder.root)} is a run folder, whose study and profile are settled: "
            f"leave {' and '.join(ignored)} out, or name the study's YAML file"
        )
    if not folder.ledger.exists() or not folder.study.exists():
        raise UsageError(
            f"{folder.root}: no run folder, it lacks study.yaml or ledger.jsonl: "
            "name a study, or runs/<study>/<profile>"
        )
    loaded = load(folder.study, profile="full", data_must_exist=False)
    return loaded.model_copy(update={"profile": profile_of(folder)})


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
