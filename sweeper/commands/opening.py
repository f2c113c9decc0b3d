"""A study opened by what a command names: its YAML file, or a run folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeper.commands.arguments import RUNS, again
from sweeper.ledger.file import read
from sweeper.ledger.typed import Line
from sweeper.running.study_run import StudyRun
from sweeper.study.loader import load, load_folder
from sweeper.values.errors import UsageError
from sweeper.values.machine import Machines, this_machine
from sweeper.values.paths import results_in, shown
from sweeper.values.run_folder import RunFolder

if TYPE_CHECKING:
    from sweeper.planning.plan import Plan
    from sweeper.study.schema import LoadedStudy


def opened(arguments: Any, machines: Machines | None = None, *, takes_folder: bool = False) -> StudyRun:
    """The study run that the command line names, planned for `machines` (this one).

    Raises UsageError for a run folder where the command takes none.
    """
    from sweeper.runners.data.inventory import fault

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
            has_gpu=(machines or this_machine()).gpus > 0,
            data_fault=fault,
        )
        folder = RunFolder.of(out=arguments.out or RUNS, study=loaded.study.name, profile=loaded.profile)
        command = again(arguments, profile=loaded.profile)
    with results_in(folder.root):
        # What is set aside needn't be readable: that may be why it is set aside.
        records: list[Line] = [] if getattr(arguments, "fresh", False) else read(folder.ledger)
    return StudyRun(loaded=loaded, plan=planned(loaded, records, machines), folder=folder, command=command)


def planned(loaded: LoadedStudy, records: Sequence[Line] = (), machines: Machines | None = None) -> Plan:
    """The plan of a study on `machines` (this one), its times by what `records` of it measured."""
    from sweeper.planning.estimates import calibrate
    from sweeper.planning.plan import make_plan
    from sweeper.planning.train_tokens import TrainTokens
    from sweeper.runners.data.inventory import train_tokens

    def known_tokens(name: str, vocab_size: int) -> TrainTokens | None:
        known = train_tokens(name, str(loaded.data_path) if loaded.data_path else None, vocab_size)
        return TrainTokens(tokens=known[0], exact=known[1], source=name) if known else None

    machines = machines or this_machine()
    return make_plan(
        loaded,
        cpus=machines.job_cpus(gpus=0),
        gpus=machines.job_gpus(None),
        calibration=calibrate(records),
        train_tokens=known_tokens,
    )


def measured_records(run: StudyRun) -> list[Line]:
    """The ledger's records. UsageError where there are none."""
    records = read(run.folder.ledger)
    if not records:
        raise UsageError(f"{shown(run.folder.root)}: nothing was run yet: {run.command or 'run its study first'}")
    return records
