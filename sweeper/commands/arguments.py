"""What may be written on the command line: the parser, without any of the commands."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sweeper import __version__
from sweeper.model.shape import FIELDS

RUNS = Path("runs")
"""Where run folders are, unless --out says otherwise."""

SHAPE_FLAGS = (*(name for name in FIELDS if name != "tie_embeddings"), "kv_groups")
LENGTHS = {"flops": "training FLOPs", "minutes": "of training", "tokens_per_param": "tokens for each parameter"}
OPTIMIZER_NUMBERS = ("weight_decay", "warmup", "cooldown", "eps", "grad_clip", "momentum")
BASE_FIELDS = ("n_layers", "d_model", "ffn_hidden", "tokens_per_step")
MAX_PORT = 65535

EXIT_CODES = (
    "Exit codes: 0 done · 1 a fault of sweeper's own · 2 the study or the arguments are wrong · 3 nothing is feasible "
    "· 4 some jobs failed · 5 a file can't be written · 130 interrupted"
)
Command = Callable[[Any], int | None]


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser; what it parses has `command`, the one of `commands` that was named."""
    whole = argparse.ArgumentParser(
        prog="sweeper",
        description="Within this many parameters, which transformer shape should I train?",
        epilog=EXIT_CODES,
    )
    whole.add_argument("--version", action="version", version=f"sweeper {__version__}")
    subparsers = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=commands[name])
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        return sub

    command("check", "all faults of a study at once, each with its place").add_argument("study", type=Path)
    _plan_options(command("plan", "the lattice: what is feasible, what was dropped and why, what it will cost"))
    _run_options(command("run", "do what is missing of a study, then report"))
    _folder_options(command("status", "what is done, running, missing, failed and why"))
    report = command(
        "report", "the frontier again, from the ledger, with its files; of several run folders, side by side"
    )
    _folder_options(report, out="where run folders are (runs); of several, the folder to write their report into")
    report.add_argument(
        "--details", action="store_true", help="all that the page has: ties, noise, what was held equal"
    )
    report.add_argument("more", type=Path, nargs="*", metavar="DIR", help="more run folders: reported together")
    _recommend_options(command("recommend", "what to train, for four uses, under limits; how sure that is"))
    merge = command("merge", "ledgers of the same study, from several people or devices, put together and reported")
    merge.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="run folders, runs/<study>/<profile>")
    merge.add_argument("--out", type=Path, required=True, help="the new run folder")
    merge.add_argument("--json", action="store_true")
    sync = command("sync", "write to MLflow what its store lacks of run folders: after it was lost, or to another one")
    sync.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="run folders, runs/<study>/<profile>")
    sync.add_argument("--to", metavar="URI", help="of the store (MLFLOW_TRACKING_URI, or mlflow.db above the folder)")
    shape = command("shape", "exact counts of one shape")
    _shape_options(shape)
    shape.add_argument("--seq_len", type=int, default=1024, help="for FLOPs per token (1024)")
    shape.add_argument("--json", action="store_true")
    _train_options(command("train", "train one shape; the defaults are the guide's current preset"))
    _ui_options(command("ui", "open MLflow's pages on the results, on this machine only"))
    doctor = command("doctor", "what this machine can do for a study, and how to mend what is missing")
    doctor.add_argument("--out", type=Path, default=RUNS, help="where run folders would be (runs)")
    doctor.add_argument("--json", action="store_true")
    command("schema", "the JSON schema of studies, for editors")
    return whole


def again(arguments: argparse.Namespace, *, profile: str) -> str:
    """The command that does the missing jobs of the study that was named."""
    words = ["sweeper", "run", str(arguments.study), "--profile", profile]
    for override in arguments.set:
        words += ["--set", override]
    for flag in ("out", "address"):
        if value := getattr(arguments, flag, None):
            words += [f"--{flag}", str(value)]
    return shlex.join(words)


def _study_options(
    sub: argparse.ArgumentParser, *, metavar: str = "STUDY", out: str = "where run folders are (runs)"
) -> None:
    sub.add_argument("study", type=Path, metavar=metavar)
    sub.add_argument("--profile", help="a profile of the study, or full; else chosen by the devices there are")
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, like trial.tokens=1M"
    )
    sub.add_argument("--out", type=Path, help=out)


def _plan_options(sub: argparse.ArgumentParser) -> None:
    _study_options(sub)
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--csv", action="store_true")
    sub.add_argument("--png", type=Path, metavar="FILE", help="draw the lattice too: depth × width")


def _run_options(sub: argparse.ArgumentParser) -> None:
    _study_options(sub)
    sub.add_argument(
        "--address", metavar="RAY", help="run on a Ray cluster: HOST:PORT of its head, or auto (docs/cluster.md)"
    )
    sub.add_argument("--runner", choices=("ray", "in-process"), default="ray")
    sub.add_argument(
        "--again",
        action="append",
        default=[],
        metavar="TRIAL_ID",
        help="measure this trial once more, as one that stands out; the ledger keeps both, the later one counts",
    )
    sub.add_argument("--fresh", action="store_true", help="start anew; the old folder is renamed, nothing is deleted")
    sub.add_argument("--yes", action="store_true", help="don't ask before what takes more than an hour")


def _folder_options(sub: argparse.ArgumentParser, **texts: str) -> None:
    _study_options(sub, metavar="STUDY|DIR", **texts)
    sub.add_argument("--json", action="store_true")


def _recommend_options(sub: argparse.ArgumentParser) -> None:
    _folder_options(sub)
    limits = sub.add_argument_group("what it must keep")
    limits.add_argument("--max-params", metavar="N", help="parameters, embeddings included, like 200M")
    limits.add_argument("--min-tokens-per-s", metavar="N", help="training speed on the device, like 100k")
    limits.add_argument("--max-memory", metavar="SIZE", help="peak memory, measured or else predicted, like 16GiB")
    sub.add_argument("--device", metavar="NAME", help="the device type, or part of its name (that with most points)")
    sub.add_argument("--extrapolate", action="store_true", help="predict configs beyond the measured ones too")


def _shape_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("preset", nargs="?", help="gpt2-small, current, medium-deep, wide-shallow or gpt2-medium")
    for name in SHAPE_FLAGS:
        sub.add_argument(f"--{name}", type=int)
    tied = sub.add_mutually_exclusive_group()
    tied.add_argument("--tie_embeddings", action="store_true", default=None)
    tied.add_argument("--no_tie_embeddings", dest="tie_embeddings", action="store_false")


def _train_options(sub: argparse.ArgumentParser) -> None:
    _shape_options(sub)
    how = sub.add_argument_group("how it computes")
    how.add_argument("--use_fp8", action="store_true", help="the same as --precision fp8")
    how.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp8", "auto"),
        help="bf16 unless said otherwise; fp8 is emulated without hardware for it; auto is the faster of bf16 and fp8",
    )
    how.add_argument("--fp8_backend", choices=("torchao", "transformer_engine"), help="(torchao)")
    how.add_argument("--fp8_filter", choices=("auto", "none"), help="auto leaves out layers that FP8 slows down (auto)")
    how.add_argument("--compile", action="store_true", help="torch.compile, block by block")
    how.add_argument(
        "--batch_size", type=_batch_sizes, metavar="N[,N…]",
        help="sequences of one micro-batch (the preset's); of several, the fastest is taken",
    )  # fmt: skip
    how.add_argument("--grad_accum_steps", type=int, help="micro-batches of one step (the preset's)")
    how.add_argument("--tokens_per_step", help="instead of --grad_accum_steps")
    how.add_argument("--memory", help="what the training may reserve on its device, like 16GiB")
    how.add_argument("--allow_shared", action="store_true", help="measure speed though others use the device")
    _recipe_options(sub)
    run = sub.add_argument_group("what is kept")
    run.add_argument("--out", type=Path, default=RUNS, help="where run folders are (runs)")
    run.add_argument(
        "--checkpoint_every", type=int, metavar="STEPS", help="(about a tenth of the training, and at its end)"
    )
    run.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this same training")
    run.add_argument("--dry_run", action="store_true", help="exact counts and the plan, no training")


def _recipe_options(sub: argparse.ArgumentParser) -> None:
    """The recipe, under the study's names; what isn't given is the study's default."""
    recipe = sub.add_argument_group("what it trains on, and how long")
    recipe.add_argument("--data", default="python-packages", help="an embedded corpus, a folder of text, token shards")
    recipe.add_argument("--seq_len", type=int, default=1024, help="(1024)")
    recipe.add_argument("--tokens", help="training tokens (60M)")
    for name, text in LENGTHS.items():
        recipe.add_argument(f"--{name}", help=f"instead of --tokens: {text}")
    recipe.add_argument("--eval_tokens", help="held-out tokens (1048576)")
    recipe.add_argument(
        "--branch_at", metavar="F,F", help="fractions of the tokens at which the loss is known too, like 25%%,50%%"
    )
    recipe.add_argument("--seeds", type=int, default=1, help="how many times, each with its own seed (1)")
    optimizer = sub.add_argument_group("how it learns")
    optimizer.add_argument("--optimizer", choices=("adamw", "muon"), help="(adamw)")
    optimizer.add_argument("--lr", default="1e-3", help="the peak learning rate (1e-3)")
    for name in OPTIMIZER_NUMBERS:
        optimizer.add_argument(f"--{name}")
    optimizer.add_argument("--betas", metavar="B1,B2")
    optimizer.add_argument("--parametrization", choices=("standard", "completep"), help="(standard)")
    for name in BASE_FIELDS:
        optimizer.add_argument(f"--base_{name}", help="of the shape at which --lr holds, for completep")
    optimizer.add_argument("--batch_scaling", choices=("sqrt", "none"), help="of --lr, from --base_tokens_per_step")


def _batch_sizes(text: str) -> int | list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        message = f"{text!r} is no micro-batch: write a whole number, or several like 4,8,16"
        raise argparse.ArgumentTypeError(message) from None
    return sizes if len(sizes) > 1 else sizes[0]


def _ui_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, default=RUNS, help="where run folders are (runs)")
    sub.add_argument("--port", type=_port, default=5000, help="where to listen (5000)")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: write a whole number from 1 to {MAX_PORT}")
    return int(text)
