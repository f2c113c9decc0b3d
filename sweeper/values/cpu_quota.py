"""How much processor time the control groups of this process allow it (Linux, versions 1 and 2). Stdlib only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


def cpu_quota(proc: Path = PROC) -> float | None:
    """The cores' worth of time that this process may take, None where no quota is set.

    That of its own group or of any above it, whichever is the least: `cpu.max` (Linux, cgroup-v2.rst) or
    `cpu.cfs_quota_us` ÷ `cpu.cfs_period_us` (sched-bwc.rst). `proc` is the process's folder in /proc.
    """
    return min((limit for folder in _groups(proc) if (limit := _limit(folder)) is not None), default=None)


def _groups(proc: Path) -> Iterator[Path]:
    """The folders of the groups that hold the process, its own first, as far up as they are mounted here."""
    try:
        groups, mounts = (proc / "cgroup").read_text(), (proc / "mountinfo").read_text()
    except (OSError, ValueError):
        return
    paths: dict[str, PurePosixPath] = {}
    for line in groups.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or "cpu" in controllers.split(","):
            paths["cgroup2" if number == "0" else "cgroup"] = PurePosixPath(path)
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        name, _, options = kind.split(" ", 2)
        if name in paths and (name == "cgroup2" or "cpu" in options.split(",")):
            root, mounted = (_unescaped(field) for field in fields.split(" ")[3:5])
            # A mount shows its root's groups alone; of a process outside it, at least the mount's own limit holds.
            within = paths[name].relative_to(root) if paths[name].is_relative_to(root) else PurePosixPath()
            own = Path(mounted) / within
            yield from (own, *list(own.parents)[: len(within.parts)])


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _limit(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
