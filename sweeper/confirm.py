"""What is said before a run, and whether one that takes long is started."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console

from sweeper.places import shown

if TYPE_CHECKING:
    from sweeper.study_run import StudyRun

ASK_SECONDS = 3600.0
"""A run that takes longer than this is only started on a terminal when that is confirmed."""


def agreed(console: Console, seconds: float, *, yes: bool) -> bool:
    """Whether to start what takes so many seconds: asked where that is long and somebody is at a terminal."""
    if yes or seconds < ASK_SECONDS or not (console.is_terminal and sys.stdin.isatty()):
        return True
    return console.input("Start? [y/N] ").strip().lower() in ("y", "yes")


def opening(run: StudyRun, *, gpus: int, named: bool) -> str:
    """What is about to run: the profile and why this one, the device where it might surprise, where results go."""
    from sweeper.machine import gpu_count

    here = {0: "no GPU", 1: "1 GPU"}.get(gpu_count(), f"{gpu_count()} GPUs")
    parts = [run.loaded.study.name, f"profile {run.loaded.profile} ({'as asked' if named else f'{here} here'})"]
    if gpu_count() and not gpus:
        parts.append(f"on the CPU (resources.gpus is 0; this machine has {here})")
    return ", ".join([*parts, f"results in {shown(run.folder.root)}"])
