"""`sweeper run`: what is said before, whether what takes long is started, and the run itself, which `train` has too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sweeper.commands.arguments import RUNS
from sweeper.values.errors import UsageError
from sweeper.values.labels import listed
from sweeper.values.machine import Machines, this_machine
from sweeper.values.paths import results_in, shown

if TYPE_CHECKING:
    from sweeper.running.session import Session
    from sweeper.running.study_run import StudyRun

ASK_SECONDS = 3600.0
"""A run that takes longer than this is only started on a terminal when that is confirmed."""


def agreed(console: Console, seconds: float, *, yes: bool) -> bool:
    """Whether to start what takes so many seconds: asked where that is long and somebody is at a terminal."""
    if yes or seconds < ASK_SECONDS or not (console.is_terminal and sys.stdin.isatty()):
        return True
    return console.input("Start? [y/N] ").strip().lower() in ("y", "yes")


def opening(run: StudyRun, machines: Machines, *, gpus: int, cpus: int, named: bool) -> str:
    """What is about to run: the profile and why this one, the device where it might surprise, where results go."""
    why = "as asked" if named else machines.gpus_shown()
    parts = [run.loaded.study.name, f"profile {run.loaded.profile} ({why})"]
    if machines.gpus and not gpus:
        parts.append(f"on the CPU (resources.gpus is 0; {machines.name} has {machines.gpu_words()})")
    elif named and machines.address is not None:
        parts.append(f"on {machines.name}")
    if len(kinds := machines.kinds(cpus=cpus, gpus=gpus)) > 1:
        parts.append(f"speeds on each of {listed(kinds)}, what they decide by {kinds[0]}")
    return ", ".join([*parts, f"results in {shown(run.folder.root)}"])


def machines_of(arguments: Any) -> Machines:
    """Where a run's jobs go: this machine, or the cluster at --address."""
    from sweeper.runners.ray.survey import survey

    if arguments.address is not None and arguments.runner == "in-process":
        raise UsageError("--address joins a Ray cluster, --runner in-process uses none: leave one of them out")
    machines: Machines = this_machine() if arguments.address is None else survey(arguments.address)
    return machines


def run(arguments: Any) -> None:
    """Do what is missing of a study, then report."""
    from sweeper.commands.opening import opened
    from sweeper.commands.terminal import console
    from sweeper.running.study_run import set_aside

    machines = machines_of(arguments)
    run = opened(arguments, machines)
    terminal = console()
    asked = run.loaded.study.resources
    gpus, cpus = machines.job_resources(gpus=asked.gpus, cpus=asked.cpus)
    terminal.print(opening(run, machines, gpus=gpus, cpus=cpus, named=arguments.profile is not None))
    with results_in(run.folder.root):
        if arguments.fresh and (aside := set_aside(run.folder)):
            terminal.print(f"the earlier results are now in {shown(aside)}")
    execute(
        run,
        terminal,
        machines=machines,
        out=arguments.out or RUNS,
        gpus=gpus,
        cpus=cpus,
        in_process=arguments.runner == "in-process",
        start=partial(agreed, terminal, yes=arguments.yes),
        again=arguments.again,
    )


def execute(
    run: StudyRun,
    console: Console,
    *,
    machines: Machines,
    out: Path,
    gpus: int,
    cpus: int,
    in_process: bool,
    options: Mapping[str, Any] | None = None,
    start: Callable[[float], bool] = lambda seconds: True,
    again: Sequence[str] = (),
) -> None:
    """Do what is missing, if `start` says so, then report. `options` are for the in-process runner's jobs.

    Trials of the ids `again` are measured once more.
    """
    from sweeper.runners.data.inventory import fingerprint
    from sweeper.runners.training.job_run import settle_threads
    from sweeper.running.under_way import Devices, run_study
    from sweeper.tracking.tracker import default_uri

    def runner(session: Session) -> None:
        _prepare_data(run, console, here=machines.address is None)
        if in_process:
            from sweeper.runners import in_process as adapter

            adapter.run(session, logs=run.folder.logs, options=options or {})
        else:
            _run_on_ray(session, run, machines=machines, cpus=cpus, gpus=gpus)

    if in_process:
        settle_threads(cpus)
    devices = Devices(
        runner=runner,
        device="cuda" if gpus else "cpu",
        at_a_time=1 if in_process else machines.room(cpus=cpus, gpus=gpus),
        kinds=() if in_process else machines.kinds(cpus=cpus, gpus=gpus),
        fingerprint_of=lambda name, vocab_size: fingerprint(name, run.plan.data_path, vocab_size),
    )
    run_study(run, devices, console=console, tracking_uri=default_uri(out), start=start, again=again)


def _run_on_ray(session: Session, run: StudyRun, *, machines: Machines, cpus: int, gpus: int) -> None:
    """Each job on its own node; on a cluster, the nodes read their data and make their caches themselves."""
    from sweeper.runners.device.compile_ahead import compiler_tried_ahead
    from sweeper.runners.ray import tune

    here = machines.address is None
    with compiler_tried_ahead(wanted=here and not gpus and run.loaded.study.trial.compile):
        tune.run(session, cpus=cpus, gpus=gpus, logs=run.folder.logs, address=machines.address)


def _prepare_data(run: StudyRun, console: Console, *, here: bool) -> None:
    """Read, split and encode the data once, before any trial's clock runs; where jobs run elsewhere, read it only."""
    from sweeper.model.shape import Shape
    from sweeper.runners.data.dataset import open_data
    from sweeper.runners.data.inventory import fingerprint

    path = run.plan.data_path
    ours = [planned.config.ours for planned in run.plan.configs if isinstance(planned.config.shape, Shape)]
    for name, vocab_size in sorted({(recipe.data, shape.vocab_size) for shape, recipe in ours}):
        with console.status(f"preparing {name} (vocabulary {vocab_size:,}); once, then cached"):
            if here:
                console.print(f"data: {open_data(name, path, vocab_size).description}")
            else:
                found = fingerprint(name, path, vocab_size)
                console.print(f"data: {path or name}, fingerprint {found}: each node has to have the same")
