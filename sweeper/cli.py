"""The command line: parse, call, render. Heavy imports stand inside the commands that need them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.shape import FIELDS
from sweeper import __version__
from sweeper.errors import SweeperError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.planning.plan import Plan
    from sweeper.run_folder import RunFolder
    from sweeper.study.schema import LoadedStudy
    from sweeper.study_run import StudyRun

SHAPE_FLAGS = (*(name for name in FIELDS if name != "tie_embeddings"), "kv_groups")
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 own fault, 2 wrong input, 3 infeasible, 4 jobs failed, 130."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments) or 0
    except SweeperError as error:
        if arguments.debug:
            raise
        print(error if error.exit_code == UsageError.exit_code else f"sweeper: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted: what was done is in the ledger; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if arguments.debug:
            raise
        print(
            f"sweeper: a fault of sweeper's own: {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr
        )
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sweeper", description="Within this many parameters, which transformer shape should I train?"
    )
    parser.add_argument("--version", action="version", version=f"sweeper {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[Any], int | None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=function)
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        return sub

    check = command("check", _check, "all faults of a study at once, each with its place")
    check.add_argument("study", type=Path)
    plan = command("plan", _plan, "the lattice: what is feasible, what was dropped and why, what it will cost")
    _study_options(plan)
    form = plan.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--csv", action="store_true")
    run = command("run", _run, "do what is missing of a study, then report")
    _study_options(run)
    run.add_argument("--runner", choices=("ray", "in-process"), default="ray")
    run.add_argument("--fresh", action="store_true", help="start anew; the old folder is renamed, nothing is deleted")
    for name, function, text in (
        ("status", _status, "what is done, running, missing, failed and why"),
        ("report", _report, "the frontier again, from the ledger; writes frontier.json, frontier.png, report.html"),
    ):
        sub = command(name, function, text)
        _study_options(sub, also_folder=True)
        sub.add_argument("--json", action="store_true")
    shape = command("shape", _shape, "exact counts of one shape")
    _shape_options(shape)
    shape.add_argument("--seq_len", type=int, default=1024, help="for FLOPs per token (1024)")
    shape.add_argument("--json", action="store_true")
    _train_options(command("train", _train, "train one shape; the defaults are the guide's current preset"))
    ui = command("ui", _ui, "open MLflow's pages on the results, on this machine only")
    ui.add_argument("--out", type=Path, default=Path("runs"))
    ui.add_argument("--port", type=int, default=5000)
    command("schema", _schema, "the JSON schema of studies, for editors")
    return parser


def _study_options(parser: argparse.ArgumentParser, *, also_folder: bool = False) -> None:
    parser.add_argument("study", type=Path, metavar="STUDY|DIR" if also_folder else "STUDY")
    parser.add_argument("--profile", help="a profile of the study, or full; else chosen by this machine's devices")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, like trial.tokens=1M"
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where run folders are (runs)")


def _shape_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", nargs="?", help="gpt2-small, current, medium-deep, wide-shallow or gpt2-medium")
    for name in SHAPE_FLAGS:
        parser.add_argument(f"--{name}", type=int)
    tied = parser.add_mutually_exclusive_group()
    tied.add_argument("--tie_embeddings", action="store_true", default=None)
    tied.add_argument("--no_tie_embeddings", dest="tie_embeddings", action="store_false")


def _train_options(parser: argparse.ArgumentParser) -> None:
    _shape_options(parser)
    parser.add_argument("--use_fp8", action="store_true", help="FP8 matmuls (emulated without hardware for it)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch_size", type=int, help="sequences of one micro-batch (the preset's)")
    parser.add_argument("--grad_accum_steps", type=int, help="micro-batches of one step (the preset's)")
    parser.add_argument("--seq_len", type=int, default=1024)
    parser.add_argument("--tokens", default="60M", help="training tokens (60M)")
    parser.add_argument("--lr", default="1e-3")
    parser.add_argument("--data", default="python-packages", help="an embedded corpus, a folder of text, token shards")
    parser.add_argument("--seeds", type=int, default=1, help="how many times, each with its own seed (1)")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--dry_run", action="store_true", help="exact counts and the plan, no training")


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def _load(arguments: Any) -> LoadedStudy:
    from sweeper.machine import gpu_count
    from sweeper.study.loader import load

    return load(arguments.study, profile=arguments.profile, overrides=arguments.set, has_gpu=gpu_count() > 0)


def _make_plan(loaded: LoadedStudy, records: Sequence[dict[str, Any]] = ()) -> Plan:
    from runners.data.inventory import train_tokens
    from sweeper.machine import cpu_count
    from sweeper.planning.estimates import calibrate
    from sweeper.planning.plan import TrainTokens, make_plan

    def known_tokens(name: str, vocab_size: int) -> TrainTokens | None:
        path = str(loaded.data_path) if loaded.data_path else None
        known = train_tokens(name, path, vocab_size)
        return TrainTokens(tokens=known[0], exact=known[1], source=name) if known else None

    cpus = loaded.study.resources.cpus or cpu_count()
    return make_plan(loaded, cpus=cpus, calibration=calibrate(records), train_tokens=known_tokens)


def _open(arguments: Any) -> StudyRun:
    """The study run of a study file, or of a run folder that has a ledger."""
    from sweeper.ledger import read
    from sweeper.run_folder import RunFolder
    from sweeper.study_run import StudyRun

    folder = RunFolder(root=arguments.study.absolute())
    if arguments.study.is_dir():
        loaded = _load_folder(folder)
    else:
        loaded = _load(arguments)
        folder = RunFolder.of(out=arguments.out, study=loaded.study.name, profile=loaded.profile)
    return StudyRun(loaded=loaded, plan=_make_plan(loaded, read(folder.ledger)), folder=folder)


def _load_folder(folder: RunFolder) -> LoadedStudy:
    import json

    from sweeper.study.loader import load

    if not folder.ledger.exists() or not folder.study.exists():
        raise UsageError(
            f"{folder.root}: no run folder, it lacks study.yaml or ledger.jsonl: "
            "name a study, or runs/<study>/<profile>"
        )
    profile = json.loads(folder.plan.read_text())["profile"] if folder.plan.exists() else folder.root.name
    return load(folder.study, profile="full").model_copy(update={"profile": profile})


def _check(arguments: Any) -> None:
    from sweeper.study.loader import load

    loaded = load(arguments.study, profile="full")
    print(f"{arguments.study}: no faults in study {loaded.study.name}")


def _plan(arguments: Any) -> None:
    import json

    from sweeper.planning.plan import plan_csv, plan_json

    run = _open(arguments)
    if arguments.json:
        print(json.dumps(plan_json(run.plan), indent=2))
    elif arguments.csv:
        plan_csv(run.plan, sys.stdout)
    else:
        from sweeper.report.tables import plan_table

        _console().print(plan_table(plan_json(run.plan)))


def _run(arguments: Any) -> None:
    from sweeper.machine import gpu_count, job_resources
    from sweeper.study_run import set_aside

    run = _open(arguments)
    console = _console()
    study = run.loaded.study
    gpus, cpus = job_resources(gpus=study.resources.gpus, cpus=study.resources.cpus)
    why = f"{gpu_count()} GPUs here" if gpu_count() else "no GPU here"
    console.print(f"{study.name}, profile {run.loaded.profile} ({why}), results in {_shown(run.folder.root)}")
    if arguments.fresh and (aside := set_aside(run.folder)):
        console.print(f"the earlier results are now in {_shown(aside)}")
    in_process = arguments.runner == "in-process"
    _execute(run, console, out=arguments.out, gpus=gpus, cpus=cpus, in_process=in_process)


def _execute(run: StudyRun, console: Console, *, out: Path, gpus: int, cpus: int, in_process: bool) -> None:
    from sweeper.machine import gpu_count
    from sweeper.report.tables import summary
    from sweeper.session import Session
    from sweeper.tracking import default_uri

    def runner(session: Session) -> None:
        _prepare_data(run, console)
        if in_process:
            from runners import in_process as adapter

            adapter.run(session, logs=run.folder.logs)
        else:
            from runners import ray_tune

            ray_tune.run(session, cpus=cpus, gpus=gpus, logs=run.folder.logs)

    at_a_time = 1 if in_process or not gpus else gpu_count()
    records = run.run(runner, console=console, tracking_uri=default_uri(out), at_a_time=at_a_time)
    console.print(summary(run.write_report(records)))
    console.print(f"report: {_shown(run.folder.report)}   curves and runs: sweeper ui")
    run.raise_if_failed(records)


def _prepare_data(run: StudyRun, console: Console) -> None:
    """Read, split and encode the data once, before any trial's clock runs."""
    from runners.data.dataset import open_data

    path = str(run.loaded.data_path) if run.loaded.data_path else None
    wanted = {(planned.config.recipe.data, planned.config.shape.vocab_size) for planned in run.plan.configs}
    for name, vocab_size in sorted(wanted):
        with console.status(f"preparing {name} (vocabulary {vocab_size:,}); once, then cached"):
            console.print(f"data: {open_data(name, path, vocab_size).description}")


def _status(arguments: Any) -> None:
    import json

    from sweeper.ledger import read
    from sweeper.report.tables import status_json, status_table

    run = _open(arguments)
    records = read(run.folder.ledger)
    status = status_json(records, run.points(run.replayed(records)), seeds=run.loaded.study.trial.seeds)
    if arguments.json:
        print(json.dumps(status, indent=2))
    else:
        _console().print(status_table(status))


def _report(arguments: Any) -> None:
    import json

    from sweeper.frontier import frontier_json
    from sweeper.ledger import read
    from sweeper.report.tables import summary

    run = _open(arguments)
    records = read(run.folder.ledger)
    if not records:
        raise UsageError(f"{_shown(run.folder.root)}: nothing was run yet: sweeper run {arguments.study}")
    result = run.write_report(records)
    if arguments.json:
        print(json.dumps(frontier_json(result), indent=2))
    else:
        console = _console()
        console.print(summary(result))
        console.print(f"report: {_shown(run.folder.report)}")


def _shape(arguments: Any) -> None:
    import json

    from sweeper.shape_command import shape_fields, shape_json, shape_text

    result = shape_json(shape_fields(vars(arguments)), seq_len=arguments.seq_len)
    print(json.dumps(result, indent=2) if arguments.json else shape_text(result))


def _train(arguments: Any) -> None:
    from sweeper.machine import cpu_count, gpu_count
    from sweeper.planning.plan import plan_json
    from sweeper.report.tables import plan_table
    from sweeper.run_folder import RunFolder
    from sweeper.shape_command import train_study
    from sweeper.study_run import StudyRun

    loaded = train_study(vars(arguments))
    plan = _make_plan(loaded)
    console = _console()
    console.print(plan_table(plan_json(plan)))
    if arguments.dry_run:
        return
    folder = RunFolder(root=(arguments.out / "train" / plan.configs[0].config.config_id).absolute())
    run = StudyRun(loaded=loaded, plan=plan, folder=folder)
    _execute(run, console, out=arguments.out, gpus=min(1, gpu_count()), cpus=cpu_count(), in_process=True)


def _ui(arguments: Any) -> int:
    import subprocess

    from sweeper.tracking import default_uri

    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", default_uri(arguments.out)]
    print(f"http://127.0.0.1:{arguments.port} (Ctrl-C ends it)", flush=True)
    return subprocess.call([*command, "--host", "127.0.0.1", "--port", str(arguments.port)])


def _schema(arguments: Any) -> None:
    import json

    from sweeper.study.loader import schema_json

    print(json.dumps(schema_json(), indent=2))


def _shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
