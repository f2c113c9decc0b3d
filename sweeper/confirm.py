"""Whether what takes long is started."""

from __future__ import annotations

import sys

from rich.console import Console

ASK_SECONDS = 3600.0
"""A run that takes longer than this is only started on a terminal when that is confirmed."""


def agreed(console: Console, seconds: float, *, yes: bool) -> bool:
    """Whether to start what takes so many seconds: asked where that is long and somebody is at a terminal."""
    if yes or seconds < ASK_SECONDS or not (console.is_terminal and sys.stdin.isatty()):
        return True
    return console.input("Start? [y/N] ").strip().lower() in ("y", "yes")
