"""The terminal as rich sees it, from which nothing is cut off."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.status import Status


class Terminal(Console):
    """A console on standard output, or standard error. What is wider than it is left to the terminal to wrap."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(file=sys.stderr if stderr else sys.stdout, highlight=False, soft_wrap=False)

    def print(self, *objects: Any, crop: bool = False, **options: Any) -> None:
        """As rich prints, without cropping."""
        super().print(*objects, crop=crop, **options)

    def status(self, status: Any, **options: Any) -> Status:
        """As rich's, with a spinner that the encoding has."""
        return super().status(status, **{"spinner": "dots" if self.encoding.startswith("utf") else "line", **options})


def console(*, stderr: bool = False) -> Console:
    """The terminal that a command writes to."""
    return Terminal(stderr=stderr)
