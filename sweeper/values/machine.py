"""What jobs can run on, found without torch: this machine, or the nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from sweeper.values.cpu_quota import cpu_quota
from sweeper.values.errors import UsageError

HERE = "this machine"
DEVICES = Path("/dev")
ASK_TORCH = (sys.executable, "-c", "import torch; print(torch.cuda.device_count())")
ASK_TORCH_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Node:
    """Processor cores and CUDA devices of one machine, as far as jobs may use them.

    `kind` is that of its devices by Ray's name ("H100"), None where that isn't known.
    """

    cpus: int
    gpus: int
    kind: str | None = None

    def room(self, *, cpus: int, gpus: int) -> int:
        """How many jobs of `cpus` cores and `gpus` devices fit at once.

        Jobs that compute on the same processor would measure each other's speed: one a node.
        """
        fits = self.cpus // cpus
        return min(fits, self.gpus // gpus) if gpus else min(fits, 1)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Where the jobs of a run are placed. `name` is how it's spoken of, `address` that of its Ray, None for our own."""

    nodes: tuple[Node, ...]
    name: str = HERE
    address: str | None = None

    @property
    def gpus(self) -> int:
        """CUDA devices of all nodes."""
        return sum(node.gpus for node in self.nodes)

    def gpu_words(self) -> str:
        """How many GPUs: "no GPU", "1 GPU", "16 GPUs"."""
        return {0: "no GPU", 1: "1 GPU"}.get(self.gpus, f"{self.gpus} GPUs")

    def gpus_shown(self) -> str:
        """How many GPUs are where: "no GPU here", "16 GPUs on the Ray cluster at 10.0.0.5:6379"."""
        return f"{self.gpu_words()} {'here' if self.address is None else f'on {self.name}'}"

    def job_gpus(self, gpus: int | None) -> int:
        """GPUs of one job: as many as the study says; where it says nothing, one if there is any."""
        return min(1, self.gpus) if gpus is None else gpus

    def job_cpus(self, *, gpus: int) -> int:
        """Cores of one job, where the study leaves them open.

        For jobs with GPUs, as many as let most of them run at once, an equal share of each node's; for others, as
        many as keep most cores busy, all of a node's.
        """
        if gpus:
            shares = {max(1, node.cpus * gpus // node.gpus) for node in self.nodes if node.gpus >= gpus}
            return max(shares, key=lambda cpus: (self._places(cpus=cpus, gpus=gpus), cpus), default=1)
        return max(_positive(self.nodes), key=lambda cpus: (cpus * self._places(cpus=cpus, gpus=0), cpus), default=1)

    def job_resources(self, *, gpus: int | None, cpus: int | None) -> tuple[int, int]:
        """GPUs and cores of one job, None for what the study leaves open.

        UsageError when no node has as many as asked.
        """
        gpus = self.job_gpus(gpus)
        most_gpus, most_cpus = (max((getattr(node, of) for node in self.nodes), default=0) for of in ("gpus", "cpus"))
        has = f"{HERE} has" if self.address is None else f"the most that a node of {self.name} has is"
        if gpus > most_gpus:
            raise UsageError(
                f"resources.gpus: a job wants {gpus} GPU, {has} {most_gpus}: "
                "choose a profile that runs on the CPU (--profile cpu), or a machine with a GPU"
            )
        if cpus is not None and cpus > most_cpus:
            raise UsageError(
                f"resources.cpus: a job wants {cpus} cores, {has} {most_cpus}: ask for at most {most_cpus}"
            )
        cpus = cpus or self.job_cpus(gpus=gpus)
        self.room(cpus=cpus, gpus=gpus)
        return gpus, cpus

    def room(self, *, cpus: int, gpus: int) -> int:
        """How many such jobs run at once. UsageError when no node has room for one."""
        places = self._places(cpus=cpus, gpus=gpus)
        if not places:
            raise UsageError(
                f"resources: no node has {cpus} CPUs and {gpus} GPUs for a job: the most that one has are "
                f"{max((node.cpus for node in self.nodes), default=0)} CPUs and "
                f"{max((node.gpus for node in self.nodes), default=0)} GPUs"
            )
        return places

    def room_by_kind(self, *, cpus: int, gpus: int) -> Counter[str | None]:
        """How many such jobs run at once on devices of which kind; None is that of nodes that don't say."""
        rooms = Counter[str | None]()
        for node in self.nodes:
            if gpus and (room := node.room(cpus=cpus, gpus=gpus)):
                rooms[node.kind] += room
        return rooms

    def kinds(self, *, cpus: int, gpus: int) -> tuple[str, ...]:
        """The device types for such jobs, the one with most room first; none where they can't be told apart."""
        rooms = self.room_by_kind(cpus=cpus, gpus=gpus)
        return () if None in rooms else tuple(sorted(map(str, rooms), key=lambda kind: (-rooms[kind], kind)))

    def _places(self, *, cpus: int, gpus: int) -> int:
        return sum(node.room(cpus=cpus, gpus=gpus) for node in self.nodes)


ACCELERATOR_TYPE = "accelerator_type:"
"""Before the kind of a node's devices, the name of the resource by which Ray lets jobs ask for it."""


def ray_node(resources: Mapping[str, float]) -> Node:
    """A node of a Ray cluster by its resources."""
    kinds = [name.removeprefix(ACCELERATOR_TYPE) for name in resources if name.startswith(ACCELERATOR_TYPE)]
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    return Node(cpus=cpus, gpus=gpus, kind=kinds[0] if gpus and len(kinds) == 1 else None)


def _positive(nodes: Iterable[Node]) -> set[int]:
    return {node.cpus for node in nodes if node.cpus}


def this_machine() -> Machines:
    """The one that this process runs on."""
    return Machines(nodes=(Node(cpus=cpu_count(), gpus=gpu_count()),))


def devices_present() -> int:
    """CUDA devices of this machine, whether a process here may use them or not: by the driver's device files.

    Under WSL2 there are none, but the one of Windows' graphics driver: there NVML says, or else torch.
    """
    if files := len(list(DEVICES.glob("nvidia[0-9]*"))):
        return files
    return _devices_of_wsl() if (DEVICES / "dxg").exists() else 0


@cache
def _devices_of_wsl() -> int:
    with contextlib.suppress(Exception):  # NVML's errors have no base that is there without it
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        try:
            return int(nvml.nvmlDeviceGetCount())
        finally:
            nvml.nvmlShutdown()
    with contextlib.suppress(subprocess.SubprocessError, OSError, ValueError):
        # Another process imports torch, which takes seconds and hundreds of MB.
        ran = subprocess.run(ASK_TORCH, capture_output=True, text=True, timeout=ASK_TORCH_S, check=True)
        return int(ran.stdout)
    return 0


def gpu_count() -> int:
    """CUDA devices that a process here may use: those that are there, cut down by CUDA_VISIBLE_DEVICES."""
    return devices_left(os.environ.get("CUDA_VISIBLE_DEVICES"), present=devices_present())


def devices_left(visible: str | None, *, present: int) -> int:
    """How many of `present` devices CUDA_VISIBLE_DEVICES leaves, by CUDA's rules; None: it isn't set.

    A list of indices, and of names that begin with GPU- or MIG-; it ends before the first that is neither. One card
    may have several MIG devices.
    """
    if visible is None or not present:
        return present
    names = [name.strip() for name in visible.split(",")]
    kept = takewhile(
        lambda name: name.startswith(("GPU-", "MIG-")) or (name.isdecimal() and int(name) < present), names
    )
    return len(set(kept))


def cpu_count() -> int:
    """Processor cores that this process may use: by its affinity, and whole ones by its quota, but at least one.

    A thread more than the quota pays for would have all of them stopped in the middle of what is timed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))
