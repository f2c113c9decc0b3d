"""Which micro-batches of a config the memory of `budget.memory` allows, by prediction.

What is compared with the cap is what the trial's tensors need and `beside_bytes`, what lies on the device beside them.

A point whose smallest micro-batch is predicted to need more than the cap is dropped. Of a ladder, the rungs up to
LADDER_SLACK × the cap are kept: its probes find the boundary, and the prediction may be that far off; what lies above
costs no probe.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import partial

from sweeper.planning.estimates import memory_of
from sweeper.planning.solver import Drop
from sweeper.values.labels import gibibytes
from sweeper.values.records import Config

MEMORY_RULE = "budget.memory"

LADDER_SLACK = 1.5
"""How far above the cap, as a factor, a rung's predicted memory may lie for it to be probed."""


@dataclass(frozen=True, kw_only=True)
class Cap:
    """`budget.memory`, and what of it isn't the trial's tensors', both in bytes."""

    memory_bytes: int
    beside_bytes: int

    def needed(self, config: Config, batch_size: int) -> int:
        """What a config is predicted to need of its device at a micro-batch."""
        return memory_of(config, batch_size) + self.beside_bytes

    def for_tensors(self, factor: float = 1.0) -> float:
        """What `factor` times the cap leaves to a trial's tensors."""
        return factor * self.memory_bytes - self.beside_bytes


def rungs_within(cap: Cap, config: Config, batch_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The micro-batches (ascending) that are worth trying under the cap; none where the smallest needs more."""
    if cap.needed(config, batch_sizes[0]) > cap.memory_bytes:
        return ()
    return tuple(size for size in batch_sizes if cap.needed(config, size) <= LADDER_SLACK * cap.memory_bytes)


def too_large(cap: Cap, config: Config, batch_size: int) -> Drop:
    """The reason for dropping a config at `batch_size`; its message names what would fit."""
    return Drop(reason=MEMORY_RULE, message=partial(_over, cap, config, batch_size))


def _over(cap: Cap, config: Config, batch_size: int) -> str:
    needed = cap.needed(config, batch_size)
    fits = _largest_that_fits(cap, config, batch_size)
    instead = [f"batch_size {fits} ({gibibytes(cap.needed(config, fits))})"] if fits else []
    return (
        f"{config.shape.label()} needs about "
        f"{gibibytes(needed)} at batch_size {batch_size}, the budget allows {gibibytes(cap.memory_bytes)}: "
        f"{' or '.join([*instead, f'memory: {_rounded_up(needed)}'])} would fit"
    )


def _largest_that_fits(cap: Cap, config: Config, below: int) -> int:
    """The largest micro-batch under `below` that divides a step and that the cap allows, 0 without any."""
    _, recipe = config.ours
    sequences = recipe.tokens_per_step // recipe.seq_len
    most = bisect_right(range(1, below), cap.memory_bytes, key=partial(cap.needed, config))
    return next((size for size in range(most, 0, -1) if sequences % size == 0), 0)


def _rounded_up(needed_bytes: int) -> str:
    """As a study would say it: whole MiB below 1 GiB, whole GiB above."""
    unit, name = (2**30, "GiB") if needed_bytes > 2**30 else (2**20, "MiB")
    return f"{-(-needed_bytes // unit)}{name}"
