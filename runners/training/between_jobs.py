"""What a job leaves in its process for the next one: imports, CUDA context, kernels on disk, data; but no memory."""

from __future__ import annotations

import functools
import gc
import sys

import torch

from sweeper.model.compile import forget_compiled
from sweeper.runners.data.cache import cache_dir
from sweeper.runners.data.dataset import Dataset, open_data
from sweeper.runners.device.host_memory import return_freed_memory
from sweeper.runners.device.memory import tensor_bytes

_baseline: dict[str, int] = {}
_alive: dict[str, int] = {}


def tensors_before(device: torch.device) -> tuple[int, int]:
    """Bytes of tensors alive now, when a job starts, and when this process started its first on such a device."""
    if device.type not in _alive:
        gc.collect()
        _drop_workspaces(device)
        _alive[device.type] = tensor_bytes(device)
    before = _alive.pop(device.type)
    return before, _baseline.setdefault(device.type, before)


def give_back(device: torch.device) -> None:
    """Give the memory back of all that nothing refers to any more, also of what `gc.freeze` kept from being collected.

    What has been compiled is forgotten: its guards, and cycles through them, hold on to the modules compiled.
    """
    forget_compiled()
    gc.unfreeze()
    gc.collect()
    _drop_workspaces(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return_freed_memory()


def _drop_workspaces(device: torch.device) -> None:
    """Let go of the workspaces that matmuls have left in the allocator, which neither collecting nor emptying frees.

    cuBLAS keeps one for each thread with a handle, 32 MiB on Hopper; transformer-engine has one more. The next matmul
    takes them anew, so that every job, and not the first alone, counts its own.
    """
    if device.type != "cuda":
        return
    torch._C._cuda_clearCublasWorkspaces()
    if engine := sys.modules.get("transformer_engine.pytorch.cpp_extensions.gemm"):
        engine.get_cublas_workspace.cache_clear()


def clear_up(device: torch.device, *, ended: bool) -> int | None:
    """Give a job's memory back; returns the bytes of tensors still alive.

    Unless the job has `ended` by itself, something still refers to what it held: then nothing is counted.
    """
    give_back(device)
    if not ended:
        return None
    _alive[device.type] = tensor_bytes(device)
    return _alive[device.type]


def data_of(name: str, path: str | None, vocab_size: int) -> Dataset:
    """`open_data`, an embedded corpus only once in a process: its files can't change while it runs, a folder's can."""
    return _embedded(name, vocab_size, str(cache_dir())) if path is None else open_data(name, path, vocab_size)


@functools.lru_cache(maxsize=8)
def _embedded(name: str, vocab_size: int, cache: str) -> Dataset:
    return open_data(name, None, vocab_size)
