"""What `sweeper doctor` finds: one thing looked at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "wrong", "absent"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at. `absent` is no fault: it isn't there, and nothing here needs it.

    `mend` says how to get what is wrong or absent, "" where nothing can or need be done. `needed`: without it no
    study runs on this machine.
    """

    name: str
    state: State
    found: str
    mend: str = ""
    needed: bool = False


def can_run(findings: Sequence[Finding]) -> bool:
    """Whether studies can run on this machine, if only on its CPU."""
    return not any(finding.needed and finding.state == "wrong" for finding in findings)
