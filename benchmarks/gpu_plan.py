"""The plan for a CUDA machine that is lent for a quarter of an hour: its tests, then `benchmarks/gpu.py`.

    python benchmarks/gpu_plan.py --prepare                     # where there is internet: wheels/ for the CUDA machine
    python benchmarks/gpu_plan.py --out FOLDER [--resume FILE] [--device cuda|cpu] [--minutes N] [--skip_tests]
                                  [--only STEP,…] [--wheels FOLDER]               # there: 9 minutes at most

The machine needs a Python with torch and numpy; all else is carried in wheels/. FOLDER gets gpu.json, tests.log and
gpu.log. Whatever hangs, the command ends in time, and what was found until then is there: it goes on from FILE, or from
FOLDER's own gpu.json.

Exit codes: those of gpu.py; 4 also where a test failed or was cut · 2 wrong arguments, or no such device.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "wheels"
PACKAGES = (
    "torchao", "pytest", "pytest-xdist", "pytest-timeout", "execnet", "pluggy", "iniconfig", "packaging", "Pygments",
    "nvidia-ml-py", "psutil", "safetensors",
)  # fmt: skip
"""Beside torch and numpy: what FP8 needs, what pytest and its two plug-ins need, what asks the device for its state."""
PYTHON_VERSION = "3.12"
PLATFORMS = ("manylinux_2_28", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux1")
MOST_BYTES = 64 * 2**20
TESTS_S = 150
MINUTES = 6.0
WHOLE_S = 535
"""Of the whole command: under nine minutes."""
ENDING_S = 12
"""What gpu.py may take to end after its minutes."""
GRACE_S = 5
"""From asking a command to end until it is ended."""
TIMED_OUT = 124
NO_TESTS = 5
"""pytest's exit code where it collected none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; the exit code."""
    began = time.monotonic()
    asked = _parsed(arguments)
    if asked.prepare:
        return prepare()
    if asked.out is None:
        print("error: --out says where results go", file=sys.stderr)
        return 2
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sweeper-plan-") as folder:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": _unpacked(asked.wheels, Path(folder))}
        tests = 0 if asked.skip_tests else run_tests(asked.out, environment)
        left_s = WHOLE_S - ENDING_S - (time.monotonic() - began)
        # A run of six minutes may have what the tests have left over, a shorter one may not.
        minutes = max(MINUTES, left_s / 60) if asked.minutes is None else asked.minutes
        measured = measure(asked, minutes, environment, within_s=began + WHOLE_S - time.monotonic())
    return measured if measured or not tests else 4


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--prepare", action="store_true", help="download the wheels that are carried")
    parser.add_argument("--out", type=Path, help="folder for results")
    parser.add_argument("--resume", type=Path, help="gpu.json of an earlier run, to go on from")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, help="for gpu.py (default 6 and what the tests leave of 9)")
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="folder of the wheels (default wheels/)")
    parser.add_argument("--skip_tests", action="store_true", help="gpu.py alone")
    parser.add_argument("--only", help="gpu.py's steps to run")
    return parser.parse_args(arguments)


def prepare() -> int:
    """Fill wheels/ anew with what constraints.txt pins, for the CUDA machine's Python; 1 where that failed."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    shutil.rmtree(WHEELS, ignore_errors=True)
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp",
        f"--python-version={PYTHON_VERSION}", *(f"--platform={name}_x86_64" for name in PLATFORMS),
        "--dest", str(WHEELS), *(f"{name}=={pinned[name]}" for name in PACKAGES),
    ]  # fmt: skip
    if subprocess.run(command, check=False).returncode != 0:
        return 1
    size = sum(path.stat().st_size for path in WHEELS.iterdir())
    print(f"{len(PACKAGES)} wheels, {size / 2**20:.1f} MiB in {WHEELS.name}/")
    return 0 if size <= MOST_BYTES else 1


def _unpacked(source: Path, folder: Path) -> str:
    """PYTHONPATH with what the wheels hold: a wheel is an archive, so that no pip is needed."""
    wheels = sorted(source.glob("*.whl"))
    if not wheels:
        _say("no wheels here (--prepare makes them): with what is installed")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")
    return os.pathsep.join(filter(None, [str(folder / "site") if wheels else "", os.environ.get("PYTHONPATH", "")]))


def run_tests(out: Path, environment: Mapping[str, str]) -> int:
    """tests/gpu in one process; its exit code, 0 where there is none to run, as without a CUDA device."""
    lacking = [name for name in ("pytest", "xdist", "pytest_timeout") if not _importable(name, environment)]
    if lacking:
        _say(f"tests: not run, as {', '.join(lacking)} can't be imported")
        return 1
    own = {
        **environment,
        # Plug-ins that happen to be installed aren't ours, and their warnings would be errors.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": str(len(os.sched_getaffinity(0))),
    }
    code = logged(
        [sys.executable, "-m", "pytest", "-p", "xdist.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider",
         "tests/gpu", "-n", "0", "--maxfail=6", "-v", "--durations=8", "--tb=short"],
        out / "tests.log", own, within_s=TESTS_S,
    )  # fmt: skip
    if code == NO_TESTS:
        _say("tests: none collected, as torch finds no CUDA device here")
        return 0
    _say("tests: passed" if code == 0 else f"tests: {_ended(code, TESTS_S)}, see tests.log")
    return code


def _importable(name: str, environment: Mapping[str, str]) -> bool:
    found = [sys.executable, "-c", f"import {name}"]
    return subprocess.run(found, env=environment, capture_output=True, check=False).returncode == 0


def measure(asked: argparse.Namespace, minutes: float, environment: Mapping[str, str], *, within_s: float) -> int:
    """gpu.py, ended where it doesn't end itself; its exit code."""
    _say(f"gpu.py: {minutes:.1f} minutes")
    options = ["--resume", str(asked.resume.resolve())] if asked.resume else []
    options += ["--only", asked.only] if asked.only else []
    code = logged(
        [sys.executable, "benchmarks/gpu.py", "--device", asked.device, "--minutes", f"{minutes:.2f}",
         "--out", str((asked.out / "gpu.json").resolve()), *options],
        asked.out / "gpu.log", environment, within_s=within_s,
    )  # fmt: skip
    _say(f"gpu.py: {'all as it must be' if code == 0 else _ended(code, within_s)}")
    return 4 if code == TIMED_OUT or code < 0 else code


def _ended(code: int, within_s: float) -> str:
    return f"ended after {within_s:.0f} s" if code == TIMED_OUT else f"exit code {code}"


def logged(command: Sequence[str], log: Path, environment: Mapping[str, str], *, within_s: float) -> int:
    """Run from the repository's root, output to the terminal and to `log`; after `within_s` it is ended: TIMED_OUT."""
    with log.open("wb") as kept:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            if _followed(process, kept, time.monotonic() + within_s):
                return process.wait()
            process.send_signal(signal.SIGINT)  # so that pytest says what it has found
            _followed(process, kept, time.monotonic() + GRACE_S)
            return TIMED_OUT
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()


def _followed(process: subprocess.Popen[bytes], kept: IO[bytes], deadline: float) -> bool:
    """Pass its output on until it has ended, though a child of it may hold the pipe; False at the deadline."""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            ended = process.poll() is not None
            if ready.select(0 if ended else min(left, 0.5)):
                part = os.read(process.stdout.fileno(), 2**16)
                kept.write(part)
                kept.flush()
                sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
                if part:
                    continue
                ready.unregister(process.stdout)
            if ended:
                return True
    return False


def _say(text: str) -> None:
    print(f"plan: {text}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
