"""A study opened by what a command names: its YAML file, or a run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.arguments import RUNS, again
from sweeper.errors import UsageError
from sweeper.ledger import read
from sweeper.places import load_folder, results_in, shown
from sweeper.run_folder import RunFolder
from sweeper.study.loader import load
from sweeper.study_run import StudyRun

if TYPE_CHECKING:
    from sweeper.planning.plan import Plan
    from sweeper.study.schema import LoadedStudy


def open_run(
    arguments: Any,
    *,
    takes_folder: bool,
    has_gpu: Callable[[], bool],
    make_plan: Callable[[LoadedStudy, Sequence[Any]], Plan],
    data_fault: Callable[[str], str],
) -> StudyRun:
    """The study run that the command line names. UsageError for a run folder where the command takes none.

    `has_gpu` chooses a study file's profile where none is named; `make_plan` is given the ledger's records;
    `data_fault` says what is wrong with a study file's data.
    """
    if os.path.isdir(arguments.study):
        if not takes_folder:
            raise UsageError(
                f"{arguments.study} is a folder: name the YAML file of a study; "
                "of a run folder there are sweeper status DIR, report DIR and recommend DIR"
            )
        folder, command = RunFolder(root=arguments.study.absolute()), ""
        given = {"--profile": arguments.profile, "--set": arguments.set, "--out": arguments.out}
        loaded = load_folder(folder, given=given)
    else:
        loaded = load(
            arguments.study,
            profile=arguments.profile,
            overrides=arguments.set,
            has_gpu=has_gpu(),
            data_fault=data_fault,
        )
        folder = RunFolder.of(out=arguments.out or RUNS, study=loaded.study.name, profile=loaded.profile)
        command = again(arguments, profile=loaded.profile)
    with results_in(folder.root):
        # What is set aside needn't be readable: that may be why it is set aside.
        records = [] if getattr(arguments, "fresh", False) else read(folder.ledger)
    return StudyRun(loaded=loaded, plan=make_plan(loaded, records), folder=folder, command=command)


def measured_records(run: StudyRun) -> list[dict[str, Any]]:
    """The ledger's records. UsageError where there are none."""
    records = read(run.folder.ledger)
    if not records:
        raise UsageError(f"{shown(run.folder.root)}: nothing was run yet: {run.command or 'run its study first'}")
    return records
