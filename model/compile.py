"""Per-block compilation: one graph serves all layers of a shape, so its cost is flat in depth."""

from __future__ import annotations

import torch

from model.transformer import Transformer


def compile_blocks(model: Transformer) -> None:
    """Compile each block's forward and the head's loss in place, whole graph, static shapes."""
    for block in model.blocks:
        block.compile(fullgraph=True, dynamic=False)
    model.head.loss = torch.compile(model.head.loss, fullgraph=True, dynamic=False)


def forget_compiled() -> None:
    """Drop Dynamo's per-process state: without it the ninth shape meets the recompile limit."""
    torch._dynamo.reset()


def graph_breaks() -> int:
    """Graph breaks that Dynamo has counted since the last reset of its counters."""
    return sum(torch._dynamo.utils.counters["graph_break"].values())
