"""What a process runs on, found without torch: processor, driver, versions, and the device type a job will get."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that runs jobs: its node's address and id, and its `stack` (an `inventory`)."""

    node: str
    node_id: str
    stack: Mapping[str, Any]


RECORDED_PACKAGES = ("sweeper", "torch", "torchao", "triton", "tokenizers", "numpy")


def inventory(*, cuda: bool, threads: int) -> dict[str, Any]:
    """Device type (None where nothing tells), driver and versions, named as in the records of jobs."""
    return {
        "device": _gpu_name() if cuda else cpu_kind(threads),
        "driver": cuda_driver() if cuda else None,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result depends on, as far as they're installed."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def cpu_name() -> str:
    """The processor's, without marks."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].replace("(R)", "").replace("(TM)", "")
                return " ".join(name.split())
    return platform.processor() or platform.machine()


def cpu_kind(threads: int) -> str:
    """The processor as a device type: its name with the threads used."""
    return f"{cpu_name()}, {threads} {'thread' if threads == 1 else 'threads'}"


def cuda_driver() -> str | None:
    """The line in which NVIDIA's kernel driver names itself; None where there is none."""
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0].strip() if path.exists() else None


def _gpu_name() -> str | None:
    """The first visible GPU's by NVML, None where that doesn't tell."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        try:
            of = nvml.nvmlDeviceGetHandleByIndex if first.isdecimal() else nvml.nvmlDeviceGetHandleByUUID
            name = nvml.nvmlDeviceGetName(of(int(first) if first.isdecimal() else first))
        finally:
            nvml.nvmlShutdown()
    except Exception:  # NVML's errors have no base that is there without it
        return None
    return name.decode() if isinstance(name, bytes) else str(name)
