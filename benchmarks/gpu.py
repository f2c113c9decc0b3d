"""One command for a CUDA machine: is it correct there, how fast is it, and against whom.

    python benchmarks/gpu.py [--device cuda|cpu] [--minutes N] [--only STEP,…] [--skip STEP,…] [--again] [--out FILE]
                             [--resume FILE]

Needs torch and numpy, and nothing else: what is missing is said, and the steps that need it go without. One JSON,
rewritten after every row; the same command again goes on where the last one ended, at the file --out or, where none
is there, at the file --resume. What failed is tried again, what is red or lacked something once the code or a package
has changed. Steps run in the order of their worth, correctness first and whatever the minutes say. `--device cpu` runs
toys, as a test of this command.

Exit codes: 0 all that ran is as it must be · 2 wrong arguments, or no such device · 4 something failed or isn't green ·
130 interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from gpu_steps import STEPS, aims, harness  # noqa: E402
from gpu_steps.rows import Task  # noqa: E402
from provenance import RESULTS, provenance  # noqa: E402

PACKAGES = ("torch", "triton", "torchao", "transformer_engine", "transformers", "numpy")
SOURCES = (
    "model/**/*.py",
    "runners/**/*.py",
    "sweeper/values/*.py",
    "benchmarks/*.py",
    "benchmarks/gpu_steps/*.py",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked; the exit code."""
    asked = _parsed(arguments)
    if asked.list:
        for step in STEPS:
            print(f"{step.name:16} about {step.seconds[asked.device]:3g} s  {step.what}")
        return 0
    steps = _chosen(asked)
    if importlib.util.find_spec("torch") is None:
        return _wrong("this needs torch: run it with the python that has it")
    # Steps are found by their processes in the same places.
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
    harness.PROCESSES.set_forkserver_preload(harness.PRELOADED)
    device_name, lacking = harness.asked_device(asked.device)
    if lacking:
        return _wrong(lacking)
    try:
        report = harness.Report(asked.out, {"device": device_name}, before=asked.resume)
    except ValueError as error:
        return _wrong(f"{error}: --out and --resume name other files")
    source = source_digest()
    report.begin({**provenance(*PACKAGES), "source": source, "minutes": asked.minutes})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="sweeper-gpu-") as folder:
        task = Task(
            device=asked.device, device_name=device_name, folder=folder, source=source,
            deadline=time.monotonic() + 60 * asked.minutes,
        )  # fmt: skip
        harness.run_steps(steps, report, task, again=asked.again)
    return _conclude(report, steps, asked.device)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="what isn't required ends by then (default 9)")
    parser.add_argument("--only", type=_names, help="steps to run")
    parser.add_argument("--skip", type=_names, default=(), help="steps to leave out")
    parser.add_argument("--again", action="store_true", help="repeat what is done")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--resume", type=Path, help="go on from this file where --out isn't there yet")
    parser.add_argument("--list", action="store_true", help="list the steps and end")
    return parser.parse_args(arguments)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    known = [step.name for step in STEPS]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"no step {', '.join(unknown)}: there are {', '.join(known)}")
    return names


def _chosen(asked: argparse.Namespace) -> list[harness.Step]:
    wanted = asked.only or [step.name for step in STEPS]
    return [step for step in STEPS if step.name in wanted and step.name not in asked.skip]


def _wrong(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def source_digest() -> str:
    """12 hex digits of the SHA-256 of what figures depend on: a checkout may have no commit of its own."""
    whole = hashlib.sha256(repr(provenance(*PACKAGES)["versions"]).encode())
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        whole.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return whole.hexdigest()[:12]


def _conclude(report: harness.Report, steps: Sequence[harness.Step], device_type: str) -> int:
    """The last lines of the output, and the exit code."""
    summary: dict[str, Any] = aims.summary(report.data["steps"], device_type=device_type)
    report.data["summary"] = summary
    report.save()
    print("\n" + "\n".join(aims.lines(summary)))
    states = [report.of(step.name) for step in steps]
    return 4 if harness.failed(report, steps) or not all(state.get("green", True) for state in states) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
