"""What may be written on the command line: the parser, without any of the commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.shape import FIELDS
from sweeper import __version__

RUNS = Path("runs")
"""Where run folders are, unless --out says otherwise."""

SHAPE_FLAGS = (*(name for name in FIELDS if name != "tie_embeddings"), "kv_groups")
MAX_PORT = 65535

Command = Callable[[Any], int | None]


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser; what it parses has `command`, the one of `commands` that was named."""
    whole = argparse.ArgumentParser(
        prog="sweeper", description="Within this many parameters, which transformer shape should I train?"
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
    _folder_options(
        command("report", "the frontier again, from the ledger; writes frontier.json, frontier.png, report.html")
    )
    shape = command("shape", "exact counts of one shape")
    _shape_options(shape)
    shape.add_argument("--seq_len", type=int, default=1024, help="for FLOPs per token (1024)")
    shape.add_argument("--json", action="store_true")
    _train_options(command("train", "train one shape; the defaults are the guide's current preset"))
    _ui_options(command("ui", "open MLflow's pages on the results, on this machine only"))
    command("schema", "the JSON schema of studies, for editors")
    return whole


def _study_options(sub: argparse.ArgumentParser, *, metavar: str = "STUDY") -> None:
    sub.add_argument("study", type=Path, metavar=metavar)
    sub.add_argument("--profile", help="a profile of the study, or full; else chosen by this machine's devices")
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, like trial.tokens=1M"
    )
    sub.add_argument("--out", type=Path, help="where run folders are (runs)")


def _plan_options(sub: argparse.ArgumentParser) -> None:
    _study_options(sub)
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--csv", action="store_true")


def _run_options(sub: argparse.ArgumentParser) -> None:
    _study_options(sub)
    sub.add_argument("--runner", choices=("ray", "in-process"), default="ray")
    sub.add_argument("--fresh", action="store_true", help="start anew; the old folder is renamed, nothing is deleted")


def _folder_options(sub: argparse.ArgumentParser) -> None:
    _study_options(sub, metavar="STUDY|DIR")
    sub.add_argument("--json", action="store_true")


def _shape_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("preset", nargs="?", help="gpt2-small, current, medium-deep, wide-shallow or gpt2-medium")
    for name in SHAPE_FLAGS:
        sub.add_argument(f"--{name}", type=int)
    tied = sub.add_mutually_exclusive_group()
    tied.add_argument("--tie_embeddings", action="store_true", default=None)
    tied.add_argument("--no_tie_embeddings", dest="tie_embeddings", action="store_false")


def _train_options(sub: argparse.ArgumentParser) -> None:
    _shape_options(sub)
    sub.add_argument("--use_fp8", action="store_true", help="FP8 matmuls (emulated without hardware for it)")
    sub.add_argument("--precision", choices=("fp32", "bf16"), help="without FP8 matmuls (bf16)")
    sub.add_argument("--compile", action="store_true")
    sub.add_argument("--batch_size", type=int, help="sequences of one micro-batch (the preset's)")
    sub.add_argument("--grad_accum_steps", type=int, help="micro-batches of one step (the preset's)")
    sub.add_argument("--seq_len", type=int, default=1024)
    sub.add_argument("--tokens", default="60M", help="training tokens (60M)")
    sub.add_argument("--lr", default="1e-3")
    sub.add_argument("--data", default="python-packages", help="an embedded corpus, a folder of text, token shards")
    sub.add_argument("--seeds", type=int, default=1, help="how many times, each with its own seed (1)")
    sub.add_argument("--out", type=Path, default=RUNS)
    sub.add_argument("--dry_run", action="store_true", help="exact counts and the plan, no training")


def _ui_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, default=RUNS, help="where run folders are (runs)")
    sub.add_argument("--port", type=_port, default=5000, help="where to listen (5000)")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: write a whole number from 1 to {MAX_PORT}")
    return int(text)
