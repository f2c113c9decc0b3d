"""What `sweeper doctor` found, as text for a terminal. Nothing is printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.doctor import Finding, can_run

_MARKS = {"ok": ("✓", "green"), "wrong": ("✗", "bold red"), "absent": ("–", "dim")}


def findings_text(findings: Sequence[Finding]) -> RenderableType:
    """A line for each finding, how to mend it below, and at the end whether studies run here."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.state]
        grid.add_row(Text(mark, style=style), finding.name, Text(finding.found))
        if finding.mend:
            grid.add_row("", "", Text(f"→ {finding.mend}", style="yellow" if finding.state == "wrong" else "dim"))
    return Group(grid, Text(), _verdict(findings))


def _verdict(findings: Sequence[Finding]) -> Text:
    if not can_run(findings):
        names = [finding.name for finding in findings if finding.needed and finding.state == "wrong"]
        return Text(f"Studies don't run here: mend {', '.join(names)} first.", style="bold red")
    on_gpu = any(finding.name == "CUDA" and finding.state == "ok" for finding in findings)
    return Text("Studies run here, on the GPU." if on_gpu else "Studies run here, on the CPU.", style="bold")
