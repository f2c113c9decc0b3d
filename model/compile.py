"""Per-block compilation: one graph serves all layers of a shape, so its cost is flat in depth."""

from __future__ import annotations

import sys

import torch
from torch.compiler._cache import CacheArtifactManager

from sweeper.model.transformer import RMSNorm, Transformer


def compile_blocks(model: Transformer, *, whole: bool = True) -> None:
    """Compile each block's forward and the final norm in place, whole graph, static shapes.

    Without `whole`, where blocks hold what can't be compiled, the norms alone: again one graph for all.
    """
    norms = [module for module in model.modules() if isinstance(module, RMSNorm)]
    for part in [*model.blocks, model.head.norm] if whole else norms:
        part.compile(fullgraph=True, dynamic=False)


def forget_compiled() -> None:
    """Drop what compiling has left in this process: with it the ninth shape meets Dynamo's recompile limit.

    Each shape would also leave some MB behind: the modules of generated code, and a copy of each artifact that went
    to the cache on disk, which torch keeps for `torch.compiler.save_cache_artifacts`.
    """
    if "torch._dynamo" not in sys.modules:
        return
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    CacheArtifactManager.clear()
    if "torch._inductor.utils" in sys.modules:
        torch._inductor.utils.clear_caches()


def graph_breaks() -> int:
    """Graph breaks that Dynamo has counted since `forget_compiled`."""
    return sum(torch._dynamo.utils.counters["graph_break"].values())


def compiled_graphs() -> int:
    """Graphs that Dynamo has captured since `forget_compiled`."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
