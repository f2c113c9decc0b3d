"""About how long a step takes on a CUDA device: from what it does, so that an estimate can't just be declared smaller.

No GPU has run this yet. The parts are assumptions for a card of the H200's class and sixteen cores: Inductor takes 20
to 30 s for a block from an empty cache; the others are what a process, a trace and eleven steps take. Stdlib only.
"""

from __future__ import annotations

PROCESS_S = 2.0
"""A step's process: forked with torch in it, its own imports, a CUDA context."""
FRESH_PROCESS_S = 6.0
"""A new interpreter: torch's import as well."""
TORCHAO_S = 2.5
"""Its import, in each process that converts to FP8."""
COLD_S = 25.0
"""A block's kernels, compiled."""
WHOLE_MODEL_COLD_S = 90.0
"""32 layers in one graph."""
FIRST_TRACE_S, TRACE_S = 5.0, 3.0
"""Dynamo and reading kernels from the cache: in a process's first compilation Inductor is imported too."""
SMALL_S = 1.2
"""A training or a few gradients of a small shape, uncompiled."""
SMALL_SPEED_S = 2.7
"""Its speed: five windows of half a second."""
SPEED_S = 8.0
"""The flagship's: its weights are drawn, then eleven steps of 0.4 s and five windows of one or two."""


def wave(count: int, *, at_once: int) -> float:
    """Compiling `count` shapes side by side, and a speed of a single layer each; cores are shared."""
    return -(-count // at_once) * (FRESH_PROCESS_S + COLD_S + SMALL_SPEED_S)


def speeds(count: int) -> float:
    """A step that measures `count` large shapes whose kernels are on disk."""
    return PROCESS_S + TORCHAO_S + FIRST_TRACE_S + (count - 1) * TRACE_S + count * SPEED_S


def cold_speeds(count: int) -> float:
    """The same from an empty cache."""
    return PROCESS_S + count * (COLD_S + SPEED_S)
