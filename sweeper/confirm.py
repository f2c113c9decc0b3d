"""What is said before a run, and whether one that takes long is started."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console

from sweeper.labels import listed
from sweeper.places import shown

if TYPE_CHECKING:
    from sweeper.machine import Machines
    from sweeper.study_run import StudyRun

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
