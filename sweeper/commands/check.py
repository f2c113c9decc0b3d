"""`sweeper check`."""

from __future__ import annotations

from typing import Any

from sweeper.runners.data.inventory import fault
from sweeper.study.loader import load


def check(arguments: Any) -> None:
    """All faults of a study at once."""
    loaded = load(arguments.study, profile="full", data_fault=fault)
    print(f"{arguments.study}: no faults in study {loaded.study.name}")
