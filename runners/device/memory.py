"""What a job may take of its device's memory, and what it leaves behind there.

On CUDA a cap of C bytes stands for a card of C bytes: torch's allocator may reserve C less what the process uses
beside it (the CUDA context and the libraries' kernels). That part is looked up when a job starts, so that it lacks the
kernels that are loaded later; in a process's first job it's therefore some tens of MB too small.

On a CPU nothing can stop an allocation at C. There the resident memory that the process has gained since the job
began is looked at whenever a rung is reached, and the job ends when that peak was above C.
"""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from torch import Tensor

LEAK_FRACTION, LEAK_BYTES = 0.05, 2**20
"""What the tensors of earlier jobs may amount to, beyond what was there before the first."""


class OverCap(MemoryError):
    """A job on a CPU has taken more memory than its cap."""


def cap_device(device: torch.device, cap_bytes: int | None) -> int | None:
    """Let this process's allocator reserve at most `cap_bytes` less its other use of `device`; None: all there is.

    Returns what may be reserved, None where nothing is enforced (a CPU, or no cap).
    """
    if device.type != "cuda":
        return None
    torch.cuda.set_per_process_memory_fraction(1.0, device)
    if cap_bytes is None:
        return None
    _, total = torch.cuda.mem_get_info(device)
    allowed = max(0, min(cap_bytes, total) - beside_allocator(device))
    torch.cuda.set_per_process_memory_fraction(allowed / total, device)
    return allowed


def beside_allocator(device: torch.device) -> int:
    """Bytes in use on a CUDA device that the allocator doesn't hold: ours, on a device that isn't shared."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free - torch.cuda.memory_reserved(device)


def resident_bytes() -> int:
    """Resident memory of this process, 0 where the kernel doesn't tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


def tensor_bytes(device: torch.device) -> int:
    """Bytes of all living tensors: the allocator's count on CUDA, elsewhere the storages of Python's tensors."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if issubclass(type(found), Tensor):  # isinstance would ask the object, and some answer by importing a library
            _note_storage(found, storages)
    return sum(storages.values())


def _note_storage(tensor: Tensor, storages: dict[int, int]) -> None:
    try:
        storage = tensor.untyped_storage()
        if storage.device.type == "cpu":
            storages[storage._cdata] = storage.nbytes()
    except RuntimeError:
        return  # a tensor without memory of its own: traced, sparse or wrapped


def is_leak(*, before: int, baseline: int) -> bool:
    """Whether more tensors are alive when a job starts than did before the process's first."""
    return before > baseline * (1 + LEAK_FRACTION) + LEAK_BYTES
