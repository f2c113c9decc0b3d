"""How this process deals with the host's memory: glibc's allocator, set by `mallopt`. Elsewhere nothing happens.

Also how errors say that there was no memory, be it the host's or a device's.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_KEPT_BYTES = 2**31 - 1
_HOST_ALLOCATOR = "DefaultCPUAllocator"
_SIGNS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


class NoHostMemory(Exception):
    """The host has no memory for what a job keeps there, beside a device that may have plenty."""


def says_no_memory(error: BaseException) -> bool:
    """Whether a library's error says that there was no memory, wherever."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def is_the_hosts(error: BaseException) -> bool:
    """Whether an error that says so is of the host's memory: Python's own, or one of torch's allocator there."""
    return isinstance(error, MemoryError) or _HOST_ALLOCATOR in str(error)


def keep_freed_memory() -> bool:
    """Let the process reuse memory that it has freed, rather than give it back and fault it in anew each step.

    By default glibc maps every large tensor afresh, and the kernel zeroes its pages at first touch. Returns
    whether that could be set.
    """
    libc = _glibc()
    if libc is None:
        return False
    settings = {_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD, _TRIM_THRESHOLD: _KEPT_BYTES, _TOP_PAD: 64 * 2**20}
    return all(libc.mallopt(name, value) == 1 for name, value in settings.items())


def return_freed_memory() -> None:
    """Give freed memory back to the system, so that one trial's peak isn't the next one's."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    except OSError:
        return None
