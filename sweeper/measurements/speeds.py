"""What a job's windows say of its speed: where other work can slow them, the uncontended speed, not their median.

A CPU's cores are anybody's; a GPU is a job's own unless `allow_shared` lets others in, whom its record then counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sweeper.ledger.typed import MeasuredLine
from sweeper.measurements.measured import tokens_per_s
from sweeper.stats.uncontended import Uncontended, uncontended

OF_A_CPU = re.compile(r", \d+ threads?$")
"""How the device type of a CPU ends (`sweeper.runners.device.stack.cpu_kind`)."""
PARTED = 0.1
"""From this fraction of the median on, what the uncontended speed is above it is worth a word."""


def speed_of(record: MeasuredLine) -> Uncontended | None:
    """The speed of a final or a probe, in tokens/s: uncontended where others could slow it, else its windows' median.

    None where it measured none. The interval is None where the speed is the median.
    """
    median = tokens_per_s(record)
    if median is None or record.speed is None:
        return None
    if not _open_to_others(record):
        return Uncontended(speed=median, low=None, high=None)
    return uncontended(record.speed.windows)


def _open_to_others(record: MeasuredLine) -> bool:
    state = record.environment.get("device_state") or {}
    return bool(OF_A_CPU.search(record.device_type) or state.get("other_processes"))


def parted(records: Iterable[MeasuredLine]) -> list[float]:
    """Of jobs whose speed is above the median of their windows by more than PARTED: how far, as a fraction of it."""
    both = [(found.speed, tokens_per_s(record) or found.speed) for record in records if (found := speed_of(record))]
    return [speed / median - 1 for speed, median in both if abs(speed / median - 1) > PARTED]
