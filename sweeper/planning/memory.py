"""Which micro-batches of a config the memory of `budget.memory` allows, by prediction.

A point whose smallest micro-batch is predicted to need more than the cap is dropped. Of a ladder, the rungs up to
LADDER_SLACK × the cap are kept: its probes find the boundary, and the prediction may be that far off; what lies above
costs no probe.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import partial

from sweeper.labels import gibibytes
from sweeper.planning.estimates import memory_of
from sweeper.planning.solver import Drop
from sweeper.records import Config

MEMORY_RULE = "budget.memory"

LADDER_SLACK = 1.5
"""How far above the cap, as a factor, a rung's predicted memory may lie for it to be probed."""


def rungs_within(cap_bytes: int, config: Config, batch_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The micro-batches (ascending) that are worth trying under the cap; none where the smallest needs more."""
    if memory_of(config, batch_sizes[0]) > cap_bytes:
        return ()
    return tuple(size for size in batch_sizes if memory_of(config, size) <= LADDER_SLACK * cap_bytes)


def too_large(cap_bytes: int, config: Config, batch_size: int) -> Drop:
    """The reason for dropping a config at `batch_size`; its message names what would fit."""
    return Drop(reason=MEMORY_RULE, message=partial(_over, cap_bytes, config, batch_size))


def _over(cap_bytes: int, config: Config, batch_size: int) -> str:
    shape, needed = config.shape, memory_of(config, batch_size)
    fits = _largest_that_fits(cap_bytes, config, batch_size)
    instead = [f"batch_size {fits} ({gibibytes(memory_of(config, fits))})"] if fits else []
    return (
        f"n_layers {shape.n_layers}, d_model {shape.d_model}, ffn_hidden {shape.ffn_hidden} needs about "
        f"{gibibytes(needed)} at batch_size {batch_size}, the budget allows {gibibytes(cap_bytes)}: "
        f"{' or '.join([*instead, f'memory: {_rounded_up(needed)}'])} would fit"
    )


def _largest_that_fits(cap_bytes: int, config: Config, below: int) -> int:
    """The largest micro-batch under `below` that divides a step and that the cap allows, 0 without any."""
    sequences = config.recipe.tokens_per_step // config.recipe.seq_len
    most = bisect_right(range(1, below), cap_bytes, key=partial(memory_of, config))
    return next((size for size in range(most, 0, -1) if sequences % size == 0), 0)


def _rounded_up(needed_bytes: int) -> str:
    """As a study would say it: whole MiB below 1 GiB, whole GiB above."""
    unit, name = (2**30, "GiB") if needed_bytes > 2**30 else (2**20, "MiB")
    return f"{-(-needed_bytes // unit)}{name}"
