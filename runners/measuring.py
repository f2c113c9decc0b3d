"""What a job's environment is and how fast it goes: device, versions, memory, windows of whole steps."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from sweeper.records import SpeedSummary

WARM_UP_STEPS = 10
MIN_WINDOWS = 3
RECORDED_PACKAGES = ("sweeper", "torch", "torchao", "triton", "tokenizers", "numpy")


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
    """The kind of device that a speed belongs to: the GPU's name, or the CPU's with the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].replace("(R)", "").replace("(TM)", "")
                return " ".join(name.split())
    return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict[str, Any]:
    """Device, driver, versions and load: what a measurement depends on besides its job."""
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "device": device_kind(device),
        "driver": _driver() if device.type == "cuda" else None,
        "versions": versions,
        "platform": platform.platform(),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
    }


def _driver() -> str | None:
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0].strip() if path.exists() else torch.version.cuda


def other_cpu_load(seconds: float = 0.2) -> float:
    """CPU cores kept busy by other processes than this one, sampled over `seconds`."""
    own = psutil.Process()
    psutil.cpu_percent()
    before = sum(own.cpu_times()[:2])
    busy = psutil.cpu_percent(interval=seconds) / 100 * (psutil.cpu_count() or 1)
    return max(0.0, busy - (sum(own.cpu_times()[:2]) - before) / seconds)


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


def summarise(windows: list[tuple[int, float]], *, tokens_per_step: int) -> SpeedSummary | None:
    """Median, lowest and highest tokens/s over windows of (whole steps, seconds); None below 3 windows."""
    if len(windows) < MIN_WINDOWS:
        return None
    rates = [steps * tokens_per_step / seconds for steps, seconds in windows]
    median = statistics.median(rates)
    return SpeedSummary(
        tokens_per_s=median,
        low=min(rates),
        high=max(rates),
        windows=tuple(rates),
        step_ms=1000 * tokens_per_step / median,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the host had no memory left for the job."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    signs = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds to the millisecond."""
    return {name: round(value, 3) for name, value in seconds.items()}
