"""The first compilation's fixed part, made while Ray starts: what Inductor finds out once about the C++ compiler.

From an empty cache it builds a library for each set of vector instructions and precompiles its header: about 12 s, for
which the first trial would wait. A helper process compiles something trivial meanwhile, which leaves both on disk.
Nothing is timed yet then: the first job can't begin its steps before it has compiled blocks of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from sweeper.runners.device.compile_cache import use_compile_cache
from sweeper.runners.training.job_run import settle_threads
from sweeper.values.paths import PACKAGE_PARENT

_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from sweeper.runners.device.compile_ahead import main; main()"
"""Finds this very package first, whatever the working directory holds."""


@contextlib.contextmanager
def compiler_tried_ahead(*, wanted: bool) -> Iterator[subprocess.Popen[bytes] | None]:
    """Where compiling for the CPU is `wanted` and its cache is empty, a helper process looks at the compiler."""
    with contextlib.ExitStack() as stack:
        helper = None
        if wanted and _is_empty(Path(use_compile_cache(torch.device("cpu")))):
            helper = stack.enter_context(_process([sys.executable, "-c", _PROGRAM, str(PACKAGE_PARENT)]))
        yield helper


def _is_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except OSError:
        return True


@contextlib.contextmanager
def _process(program: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A silent process in a session of its own, ended with all that it has started."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(program, start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)


def main() -> None:
    """Compile one addition."""
    settle_threads(1)
    use_compile_cache(torch.device("cpu"))
    torch.compile(lambda numbers: numbers + 1)(torch.ones(64))
