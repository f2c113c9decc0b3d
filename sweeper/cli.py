"""The command line: parse, call, render. Heavy imports stand inside the commands that need them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.arguments import RUNS
from sweeper.errors import CantWrite, UsageError
from sweeper.machine import Machines, cpu_count, this_machine
from sweeper.places import results_in, shown

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.planning.plan import Plan
    from sweeper.session import Session
    from sweeper.study.schema import LoadedStudy
    from sweeper.study_run import StudyRun


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 own fault, 2 wrong input, 3 infeasible, 4 jobs failed, 5 unwritable."""
    from sweeper.ending import ended

    return ended(sys.argv[1:] if argv is None else argv, COMMANDS, goes_on=_GOES_ON)


def _console(*, stderr: bool = False) -> Console:
    from sweeper.terminal import Terminal

    return Terminal(stderr=stderr)


def _machines(arguments: Any) -> Machines:
    """Where a run's jobs go: this machine, or the cluster at --address."""
    from runners.ray_survey import survey

    if arguments.address is not None and arguments.runner == "in-process":
        raise UsageError("--address joins a Ray cluster, --runner in-process uses none: leave one of them out")
    machines: Machines = this_machine() if arguments.address is None else survey(arguments.address)
    return machines


def _make_plan(loaded: LoadedStudy, records: Sequence[Any] = (), machines: Machines | None = None) -> Plan:
    from runners.data.inventory import train_tokens
    from sweeper.planning.estimates import calibrate
    from sweeper.planning.plan import make_plan
    from sweeper.planning.train_tokens import TrainTokens

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


def _open(arguments: Any, machines: Machines | None = None) -> StudyRun:
    """The study run of a study file, or of a run folder where the command takes one; planned for `machines`."""
    from runners.data.inventory import fault
    from sweeper.opening import open_run

    return open_run(
        arguments,
        takes_folder=arguments.command in (_status, _report, _recommend),
        has_gpu=lambda: (machines or this_machine()).gpus > 0,
        make_plan=lambda loaded, records: _make_plan(loaded, records, machines),
        data_fault=fault,
    )


def _check(arguments: Any) -> None:
    from runners.data.inventory import fault
    from sweeper.study.loader import load

    loaded = load(arguments.study, profile="full", data_fault=fault)
    print(f"{arguments.study}: no faults in study {loaded.study.name}")


def _plan(arguments: Any) -> None:
    from sweeper.planning.plan import plan_csv, plan_json

    run = _open(arguments)
    if arguments.png is not None:
        from sweeper.report.lattice_figure import lattice_png

        lattice_png(run.plan, arguments.png)
    if arguments.json:
        print(json.dumps(plan_json(run.plan), indent=2))
    elif arguments.csv:
        plan_csv(run.plan, sys.stdout)
    else:
        from runners.data.inventory import sides_of
        from sweeper.report.tables import plan_table

        _console().print(plan_table(plan_json(run.plan)), *sides_of(run.plan.data_path), sep="\n")


def _run(arguments: Any) -> None:
    from sweeper.confirm import agreed, opening
    from sweeper.study_run import set_aside

    machines = _machines(arguments)
    run = _open(arguments, machines)
    console = _console()
    asked = run.loaded.study.resources
    gpus, cpus = machines.job_resources(gpus=asked.gpus, cpus=asked.cpus)
    console.print(opening(run, machines, gpus=gpus, cpus=cpus, named=arguments.profile is not None))
    with results_in(run.folder.root):
        if arguments.fresh and (aside := set_aside(run.folder)):
            console.print(f"the earlier results are now in {shown(aside)}")
    _execute(
        run,
        console,
        machines=machines,
        out=arguments.out or RUNS,
        gpus=gpus,
        cpus=cpus,
        in_process=arguments.runner == "in-process",
        start=partial(agreed, console, yes=arguments.yes),
    )


def _execute(
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
) -> None:
    """Do what is missing, if `start` says so, then report. `options` are for the in-process runner's jobs."""
    from runners.data.inventory import fingerprint
    from runners.job_run import settle_threads
    from sweeper.report.tables import summary
    from sweeper.tracking import default_uri

    def runner(session: Session) -> None:
        _prepare_data(run, console, here=machines.address is None)
        if in_process:
            from runners import in_process as adapter

            adapter.run(session, logs=run.folder.logs, options=options or {})
        else:
            _run_on_ray(session, run, machines=machines, cpus=cpus, gpus=gpus)

    if in_process:
        settle_threads(cpus)
    with results_in(run.folder.root):
        records, result, untracked = run.run(
            runner,
            console=console,
            tracking_uri=default_uri(out),
            at_a_time=1 if in_process else machines.room(cpus=cpus, gpus=gpus),
            device="cuda" if gpus else "cpu",
            kinds=() if in_process else machines.kinds(cpus=cpus, gpus=gpus),
            fingerprint_of=lambda name, vocab_size: fingerprint(name, run.plan.data_path, vocab_size),
            start=start,
        )
    console.print(summary(result))
    console.print(f"report: {shown(run.folder.report)}   curves and runs: sweeper ui")
    run.raise_if_failed(records)
    if untracked:
        raise CantWrite(f"MLflow's store {untracked} can't be written; the ledger and the report are whole")


def _run_on_ray(session: Session, run: StudyRun, *, machines: Machines, cpus: int, gpus: int) -> None:
    """Each job on its own node; on a cluster, the nodes read their data and make their caches themselves."""
    from runners import ray_tune
    from runners.compile_ahead import compiler_tried_ahead

    here = machines.address is None
    with compiler_tried_ahead(wanted=here and not gpus and run.loaded.study.trial.compile):
        ray_tune.run(session, cpus=cpus, gpus=gpus, logs=run.folder.logs, address=machines.address)


def _prepare_data(run: StudyRun, console: Console, *, here: bool) -> None:
    """Read, split and encode the data once, before any trial's clock runs; where jobs run elsewhere, read it only."""
    from runners.data.dataset import open_data
    from runners.data.inventory import fingerprint

    path = run.plan.data_path
    wanted = {(planned.config.recipe.data, planned.config.shape.vocab_size) for planned in run.plan.configs}
    for name, vocab_size in sorted(wanted):
        with console.status(f"preparing {name} (vocabulary {vocab_size:,}); once, then cached"):
            if here:
                console.print(f"data: {open_data(name, path, vocab_size).description}")
            else:
                found = fingerprint(name, path, vocab_size)
                console.print(f"data: {path or name}, fingerprint {found}: each node has to have the same")


def _status(arguments: Any) -> None:
    from sweeper.ledger import is_locked, read
    from sweeper.report.tables import status_json, status_table
    from sweeper.search.follow_up import to_follow

    run = _open(arguments)
    live = is_locked(run.folder.lock)
    records = read(run.folder.ledger)
    driver = run.replayed(records)
    points = [*run.points(driver, records), *run.follow_ups(driver).values()]
    to_come = driver.to_propose + to_follow(driver)
    status = status_json(records, points, seeds=run.seeds(driver, records), live=live, to_propose=to_come)
    if arguments.json:
        print(json.dumps(status, indent=2))
    else:
        _console().print(status_table(status))


def _report(arguments: Any) -> None:
    from sweeper.frontier import frontier_json
    from sweeper.opening import measured_records
    from sweeper.report.comparison import report_text
    from sweeper.sides import by_device

    if arguments.more:
        from sweeper.together import report_together

        report_together(arguments, _open, _console())
        return
    run = _open(arguments)
    records = measured_records(run)
    with results_in(run.folder.root):
        result = run.write_report(records)
    if arguments.json:
        print(json.dumps(frontier_json(result), indent=2))
    else:
        console = _console()
        console.print(report_text(result, by_device(run, records, result)))
        console.print(f"report: {shown(run.folder.report)}")


def _recommend(arguments: Any) -> None:
    from sweeper.choices import recommendation_json
    from sweeper.limits import limits_of
    from sweeper.opening import measured_records
    from sweeper.recommend import recommend
    from sweeper.report.recommendation import recommendation_text

    limits = limits_of(vars(arguments))
    run = _open(arguments)
    records = measured_records(run)
    found = recommend(run, records, limits, device=arguments.device, extrapolate=arguments.extrapolate)
    if arguments.json:
        print(json.dumps(recommendation_json(found), indent=2))
    else:
        _console().print(recommendation_text(found))


def _merge(arguments: Any) -> None:
    from argparse import Namespace

    from sweeper.merge import merge

    merged = merge(arguments.folders, arguments.out)
    if not arguments.json:
        _console().print("\n".join(merged.said))
    of_merged = {"command": _report, "study": arguments.out, "more": (), "profile": None, "set": [], "out": None}
    _report(Namespace(**vars(arguments) | of_merged))


def _sync(arguments: Any) -> None:
    from sweeper.sync import sync

    for folder in arguments.folders:
        print(sync(folder, to=arguments.to))


def _shape(arguments: Any) -> None:
    from sweeper.shape_command import shape_output

    print(shape_output(vars(arguments)))


def _train(arguments: Any) -> None:
    from runners.checkpoint import Checkpoints, outlook
    from runners.hf_export import export_finished
    from sweeper.ledger import read
    from sweeper.planning.plan import plan_json
    from sweeper.report.tables import plan_table
    from sweeper.run_folder import RunFolder
    from sweeper.study_run import StudyRun
    from sweeper.train_command import gave_way, train_study

    loaded = train_study(vars(arguments))
    plan = _make_plan(loaded)
    console = _console()
    if note := gave_way(vars(arguments), plan.configs[0].config.shape):
        console.print(note)
    console.print(plan_table(plan_json(plan)))
    if arguments.dry_run:
        return
    folder = RunFolder(root=(arguments.out / "train" / plan.configs[0].config.config_id).absolute())
    run = StudyRun(loaded=loaded, plan=plan, folder=folder, command=arguments.written)
    checkpoints = Checkpoints(folder=folder.checkpoints, every=arguments.checkpoint_every, resume=arguments.resume)
    with results_in(folder.root):
        settled = {record["trial_id"] for record in read(folder.ledger) if record["type"] == "final"}
        for line in outlook(checkpoints, plan.configs[0].config, settled=settled, data_path=plan.data_path):
            console.print(line)
    _execute(
        run,
        console,
        machines=this_machine(),
        out=arguments.out,
        gpus=this_machine().job_gpus(loaded.study.resources.gpus),
        cpus=cpu_count(),
        in_process=True,
        options={"checkpoints": checkpoints},
    )
    with results_in(folder.root):
        for seed, model in export_finished(checkpoints, plan.configs[0].config, folder.models):
            console.print(f"model of seed {seed}: {shown(model)} (LlamaForCausalLM.from_pretrained takes it)")


def _ui(arguments: Any) -> int:
    from sweeper.tracking import serve

    return serve(arguments.out, port=arguments.port)


def _doctor(arguments: Any) -> int:
    from runners.probes import run_all
    from sweeper.doctor import can_run, doctor_json, examine
    from sweeper.report.findings import findings_text
    from sweeper.tracking import default_uri

    with _console(stderr=True).status("trying out what is installed (some seconds)"):
        findings = examine(run_all(), runs=arguments.out, tracking_uri=default_uri(arguments.out))
    if arguments.json:
        print(json.dumps(doctor_json(findings), indent=2))
    else:
        _console().print(findings_text(findings))
    return 0 if can_run(findings) else 1


def _schema(arguments: Any) -> None:
    from sweeper.study.loader import schema_json

    print(json.dumps(schema_json(), indent=2))


COMMANDS = {
    "check": _check,
    "plan": _plan,
    "run": _run,
    "status": _status,
    "report": _report,
    "recommend": _recommend,
    "merge": _merge,
    "sync": _sync,
    "shape": _shape,
    "train": _train,
    "ui": _ui,
    "doctor": _doctor,
    "schema": _schema,
}
"""All that can be asked, by the name that it has on the command line."""

_GOES_ON = {
    _run: ": what was done is in the ledger; the same command goes on from here",
    _train: ": what was done is kept; the same command with --resume goes on from the last checkpoint",
}
"""What an interrupted command says that trains."""
