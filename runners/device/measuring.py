"""What a job's environment is and how fast it goes: device, versions, memory, windows of whole steps."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from sweeper.runners.device import stack
from sweeper.runners.device.host_memory import is_the_hosts, says_no_memory

WARM_UP_STEPS = 10
SHORTEST_LOOK = 0.2
"""Seconds over which the load of other processes can be told: the kernel counts in hundredths."""


def pick_device(device_type: str) -> torch.device:
    """The CPU, or the first CUDA device visible to this process. RuntimeError where torch can use none."""
    if device_type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"the job is for a CUDA device, and torch {torch.__version__} can use none here: "
            "install torch for your CUDA driver, or choose a profile that runs on the CPU (--profile cpu)"
        )
    return torch.device("cuda", 0) if device_type == "cuda" else torch.device("cpu")


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that was asked, so that a clock read means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_kind(device: torch.device) -> str:
    """The device type that a speed belongs to: the GPU's name, or the CPU's with the threads used."""
    return device_name(device) if device.type == "cuda" else stack.cpu_kind(torch.get_num_threads())


def device_id(device: torch.device) -> str:
    """Which one of its kind: a GPU's UUID; for a processor the name of its machine."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else platform.node()


def device_name(device: torch.device) -> str:
    """The name of the GPU or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else stack.cpu_name()


def environment(device: torch.device) -> dict[str, Any]:
    """Device, driver, versions and load: what a measurement depends on besides its job."""
    return {
        "device": device_kind(device),
        "device_id": device_id(device),
        "driver": stack.cuda_driver() or torch.version.cuda if device.type == "cuda" else None,
        "versions": stack.versions(),
        "platform": platform.platform(),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
    }


class OtherLoad:
    """CPU cores that other processes keep busy, from when this is made. Time stolen from a virtual machine counts."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), _other_cpu_seconds()

    def cores(self) -> float:
        """The mean number of cores since the start; 0 where the kernel doesn't tell, or too little time has passed."""
        (then, before), now = self._start, _other_cpu_seconds()
        passed = time.perf_counter() - then
        if before is None or now is None or passed < SHORTEST_LOOK:
            return 0.0
        return max(0.0, (now - before) / passed)


def _other_cpu_seconds() -> float | None:
    """Seconds of all cores that weren't idle, less those of this process and of its children that have ended."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection within the block: one takes as long as several steps of a small model."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak: allocator statistics on CUDA, the process's high-water mark on Linux."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_bytes(device: torch.device) -> int | None:
    """Peak bytes since the reset: reserved by the allocator on CUDA, resident in the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def is_out_of_memory(error: BaseException, device: torch.device) -> bool:
    """Whether an error means that `device` had no memory left for the job. A CPU's is the host's.

    On a CUDA machine an error of the host's memory says nothing of the device, and is a failure as any other.
    """
    if device.type == "cuda" and is_the_hosts(error):
        return False
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or says_no_memory(error)


def to_milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds to the millisecond."""
    return {name: round(value, 3) for name, value in seconds.items()}
