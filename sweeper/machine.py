"""What this machine has, found without torch: CUDA devices and processor cores."""

from __future__ import annotations

import os
from pathlib import Path

from sweeper.errors import UsageError


def device_files() -> int:
    """CUDA devices that the driver has made files for, whether a process here may use them or not."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def gpu_count() -> int:
    """CUDA devices that a process here may use: the driver's device files, cut down by CUDA_VISIBLE_DEVICES."""
    present = device_files()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    chosen = [name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    return min(present, len(chosen))


def cpu_count() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def job_gpus(gpus: int | None) -> int:
    """GPUs of one job: as many as the study says; where it says nothing, one if this machine has any."""
    return min(1, gpu_count()) if gpus is None else gpus


def job_resources(*, gpus: int | None, cpus: int | None) -> tuple[int, int]:
    """GPUs and cores of one job, None for what the study leaves to the machine.

    UsageError when this machine has fewer than asked.
    """
    gpus = job_gpus(gpus)
    if gpus > gpu_count():
        raise UsageError(
            f"resources.gpus: a job wants {gpus} GPU, this machine has {gpu_count()}: "
            "choose a profile that runs on the CPU (--profile cpu), or a machine with a GPU"
        )
    cores = cpu_count()
    if cpus is not None and cpus > cores:
        raise UsageError(f"resources.cpus: a job wants {cpus} cores, this machine has {cores}: ask for at most {cores}")
    return gpus, cpus or max(1, cores // max(1, gpu_count() if gpus else 1))
