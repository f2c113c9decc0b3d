"""Where a figure comes from: command, date, commit, machine, versions. Shared by the benchmarks."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def provenance(*packages: str) -> dict[str, Any]:
    """When, where and with what: `packages` are those whose versions matter."""
    return {
        "command": shlex.join(["python", *_relative(sys.argv)]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": f"{cpu_name()}, {os.cpu_count()} cores, {platform.platform()}",
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
    }


def _commit() -> str | None:
    """The checkout's commit; None where there is no repository, or no git."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return head.stdout.strip() or None


def _relative(argv: list[str]) -> list[str]:
    """The command line without paths of this machine."""
    script, *rest = argv
    return [str(Path(script).absolute().relative_to(ROOT)), *(Path(a).name if os.path.isabs(a) else a for a in rest)]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name, as the kernel tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.machine()
