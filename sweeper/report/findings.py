"""What `sweeper doctor` found, as text for a terminal. Nothing is printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from sweeper.report.open_table import wrapped
from sweeper.values.findings import Finding, can_run

LEAST_WIDTH = 60
"""Below it, or where a word wouldn't stay whole, what was found stands below the names."""

_MARKS = {"ok": ("✓", "green"), "wrong": ("✗", "bold red"), "absent": ("–", "dim")}


@dataclass(frozen=True, kw_only=True)
class _Findings:
    findings: Sequence[Finding]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        words = [word for finding in self.findings for word in f"{finding.found} {finding.mend}".split()]
        names = max(len(finding.name) for finding in self.findings)
        beside = options.max_width >= max(LEAST_WIDTH, len("✓") + names + 2 * len("  ") + max(map(len, words)))
        yield from self._grid() if beside else self._below_one_another(options.max_width)
        yield Text()
        yield _verdict(self.findings)

    def _grid(self) -> Iterator[Table]:
        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(2):
            grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for finding in self.findings:
            mark, style = _MARKS[finding.state]
            grid.add_row(Text(mark, style=style), finding.name, Text(finding.found))
            if finding.mend:
                grid.add_row("", "", Text(_mend(finding), style=_mend_style(finding)))
        yield grid

    def _below_one_another(self, width: int) -> Iterator[Text]:
        for finding in self.findings:
            mark, style = _MARKS[finding.state]
            yield Text.assemble((mark, style), f" {finding.name}")
            lines = [(finding.found, ""), *([(_mend(finding), _mend_style(finding))] if finding.mend else [])]
            for line, line_style in lines:
                yield Text(wrapped(line, width, by="  "), style=line_style, no_wrap=True, overflow="ignore")


def _mend(finding: Finding) -> str:
    return f"→ {finding.mend}"


def _mend_style(finding: Finding) -> str:
    return "yellow" if finding.state == "wrong" else "dim"


def findings_text(findings: Sequence[Finding]) -> RenderableType:
    """A line for each finding, how to mend it below, and at the end whether studies run here."""
    return _Findings(findings=findings)


def _verdict(findings: Sequence[Finding]) -> Text:
    if not can_run(findings):
        names = [finding.name for finding in findings if finding.needed and finding.state == "wrong"]
        return Text(f"Studies don't run here: mend {', '.join(names)} first.", style="bold red")
    on_gpu = any(finding.name == "CUDA" and finding.state == "ok" for finding in findings)
    return Text("Studies run here, on the GPU." if on_gpu else "Studies run here, on the CPU.", style="bold")
