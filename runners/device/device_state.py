"""The state of a CUDA device while it is timed, through NVML: clocks, throttling, heat, power, who else uses it.

Optional: where nvidia-ml-py or the driver's library is missing, or the driver doesn't tell, figures are None.

NVML numbers devices by itself, so torch's device is found by its UUID, whatever CUDA_VISIBLE_DEVICES says. NVML also
numbers processes by itself: inside a container its process ids are the host's, so that our own isn't among them. Then
one of those listed is taken for us, and what is left counts; and memory in use that isn't ours is a sign of others
even where none is listed.

What a window was like is read when it's over, and the device idles by then. So it is taken from what the driver itself
has sampled and counted in between: its buffers of power, clocks and utilization, and its counters of nanoseconds spent
slowed down. A thread that asks in the meantime would do so too, at the price of Python's lock, which the thread that
launches the kernels holds. Where the driver keeps no such records (MIG, older cards), what it says afterwards stands.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

SLOWDOWNS = {
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
}
"""nvml.h, nvmlClocksEventReasons: the bits by which a device is slower than it was set to be."""

SLOWED_NS = {"NVML_FI_DEV_PERF_POLICY_POWER": 0x004, "NVML_FI_DEV_PERF_POLICY_THERMAL": 0x020}
"""Counters of nanoseconds slowed down, by their name in nvml.h, and the reasons that they count. The newer fields for
other reasons have changed their numbers between versions of nvml.h."""

SLOWED_SHARE = 0.01
"""Of a window: slowed down for less is not worth a word."""

VALUE_TYPES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""nvml.h, nvmlValueType_t: which member of a sample's union holds its value."""

UNEXPLAINED_BYTES = 2 * 2**30
"""Memory in use on the device beyond what this process knows of; its CUDA context and libraries take a part of it."""

PATIENCE_SECONDS = 10.0
"""A worker that has just ended still holds the device for a moment."""


class DeviceInUse(RuntimeError):
    """Other processes use a device that is to be timed."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Where a window begins: microseconds of the clock that NVML's samples bear, and SLOWED_NS so far, by reason."""

    time_us: int
    slowed_ns: Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """What NVML says of a device; `clocks_mhz` has sm and memory. What it doesn't say is None."""

    clocks_mhz: dict[str, int | None]
    throttle_reasons: tuple[str, ...] | None
    temperature_c: int | None
    power_w: float | None
    other_processes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = asdict(self)
        plain["throttle_reasons"] = None if self.throttle_reasons is None else list(self.throttle_reasons)
        return plain


def worst(states: Sequence[DeviceState]) -> DeviceState | None:
    """Of several states: the lowest clocks, every throttle reason, the most heat, power and others; None of none."""
    if not states:
        return None
    reasons = [state.throttle_reasons for state in states if state.throttle_reasons is not None]
    return DeviceState(
        clocks_mhz={name: _least([state.clocks_mhz[name] for state in states]) for name in states[0].clocks_mhz},
        throttle_reasons=tuple(dict.fromkeys(reason for some in reasons for reason in some)) if reasons else None,
        temperature_c=_most([state.temperature_c for state in states]),
        power_w=_most([state.power_w for state in states]),
        other_processes=max(state.other_processes for state in states),
    )


def _least(values: Sequence[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _most(values: Sequence[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


class DeviceWatch:
    """Looks at one device, which this process uses too. `own_bytes`: how much of its memory is known to be our own."""

    def __init__(self, nvml: Any, handle: Any, *, own_bytes: Callable[[], int]) -> None:
        self._nvml, self._handle, self._own_bytes = nvml, handle, own_bytes

    def mark(self) -> Mark:
        """The begin of a window, before it is timed."""
        return Mark(time_us=_now_us(), slowed_ns=self._slowed_ns())

    def state(self, since: Mark | None = None) -> DeviceState:
        """The state in the window `since` then, median clocks and the most power; without one, the state now."""
        nvml, handle = self._nvml, self._handle
        clocks = {
            name: self._typical(since, samples, partial(self._ask, "nvmlDeviceGetClockInfo", handle, which))
            for name, which, samples in (
                ("sm", nvml.NVML_CLOCK_SM, nvml.NVML_PROCESSOR_CLK_SAMPLES),
                ("memory", nvml.NVML_CLOCK_MEM, nvml.NVML_MEMORY_CLK_SAMPLES),
            )
        }
        bits = self._slowdowns(since)
        milliwatts = max(self._samples(since, nvml.NVML_TOTAL_POWER_SAMPLES), default=None)
        if milliwatts is None:
            milliwatts = self._ask("nvmlDeviceGetPowerUsage", handle)
        return DeviceState(
            clocks_mhz=clocks,
            throttle_reasons=None if bits is None else tuple(words for bit, words in SLOWDOWNS.items() if bits & bit),
            temperature_c=self._ask("nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if milliwatts is None else milliwatts / 1000,
            other_processes=len(self.others()),
        )

    def busy(self, since: Mark) -> float | None:
        """The share of the window in which a kernel was running, as the driver has sampled it; None without samples."""
        found = self._samples(since, self._nvml.NVML_GPU_UTILIZATION_SAMPLES)
        return statistics.fmean(found) / 100 if found else None

    def _typical(self, since: Mark | None, samples: int, now: Callable[[], int | None]) -> int | None:
        found = self._samples(since, samples)
        return round(statistics.median(found)) if found else now()

    def _samples(self, since: Mark | None, kind: int) -> list[float]:
        """What the driver has sampled in the window; of several the first is left out, as it began before."""
        told = self._ask("nvmlDeviceGetSamples", self._handle, kind, since.time_us) if since else None
        if since is None or told is None:
            return []
        value_type, samples = told
        now, member = _now_us(), VALUE_TYPES[value_type]
        found = [float(getattr(s.sampleValue, member)) for s in samples if since.time_us < s.timeStamp <= now]
        return found[1:] or found

    def _slowed_ns(self) -> dict[int, int]:
        fields = {getattr(self._nvml, name): bit for name, bit in SLOWED_NS.items()}
        told = self._ask("nvmlDeviceGetFieldValues", self._handle, list(fields)) or ()
        return {fields[one.fieldId]: int(one.value.ullVal) for one in told if one.nvmlReturn == 0}

    def _slowdowns(self, since: Mark | None) -> int | None:
        """The bits of SLOWDOWNS: of what is counted, by the window; of the rest, and without a window, as of now."""
        bits: int | None = self._ask("nvmlDeviceGetCurrentClocksEventReasons", self._handle)
        if bits is None:
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", self._handle)
        if since is None:
            return bits
        least, counted = SLOWED_SHARE * 1000 * (_now_us() - since.time_us), self._slowed_ns()
        for bit in counted.keys() & since.slowed_ns.keys():
            slowed = counted[bit] - since.slowed_ns[bit] > least
            bits = (bits or 0) & ~bit | (bit if slowed else 0)
        return bits

    def others(self) -> list[str]:
        """Who else uses the device, a description each; empty where nobody is known to."""
        found: dict[int, Any] = {}
        for kind in ("Compute", "Graphics"):
            for process in self._ask(f"nvmlDeviceGet{kind}RunningProcesses", self._handle) or ():
                found[process.pid] = process.usedGpuMemory
        if os.getpid() in found:
            del found[os.getpid()]
        elif found:
            # The ids are another namespace's: the process whose memory is nearest to ours is taken for us.
            own = self._own_bytes()
            del found[min(found, key=lambda pid: abs((found[pid] or 0) - own))]
        if found:
            return [self._described(pid, used) for pid, used in found.items()]
        memory = self._ask("nvmlDeviceGetMemoryInfo", self._handle)
        unexplained = memory.used - self._own_bytes() if memory is not None else 0
        if unexplained > UNEXPLAINED_BYTES:
            return [f"processes that the driver doesn't name ({_gib(unexplained)} in use)"]
        return []

    def _described(self, pid: int, used: int | None) -> str:
        name = self._ask("nvmlSystemGetProcessName", pid)
        text = os.path.basename(name.decode() if isinstance(name, bytes) else name) if name else ""
        return f"process {pid}" + (f" {text}" if text else "") + (f" ({_gib(used)})" if used else "")

    def _ask(self, name: str, *arguments: Any) -> Any:
        function = getattr(self._nvml, name, None)
        try:
            return function(*arguments) if function else None
        except self._nvml.NVMLError:
            return None


def _now_us() -> int:
    return time.time_ns() // 1000


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def watch(device: torch.device) -> DeviceWatch | None:
    """A watch on torch's `device`, None for a CPU and where NVML can't be asked."""
    if device.type != "cuda":
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    torch.empty(1, device=device)  # from now on this process is among those that use the device
    return watch_by_uuid(uuid, own_bytes=lambda: torch.cuda.memory_reserved(device))


def watch_by_uuid(uuid: str, *, own_bytes: Callable[[], int]) -> DeviceWatch | None:
    """A watch on the device of this UUID, with or without its prefix; None where NVML doesn't know it."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    named = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
    with contextlib.suppress(nvml.NVMLError):
        nvml.nvmlInit()
        for name in named:
            with contextlib.suppress(nvml.NVMLError):
                return DeviceWatch(nvml, nvml.nvmlDeviceGetHandleByUUID(name), own_bytes=own_bytes)
    return None


def require_alone(watch: DeviceWatch | None) -> None:
    """Return once nobody else uses the device. Raises DeviceInUse, naming who does, after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while watch is not None and (others := watch.others()):
        if time.monotonic() >= deadline:
            break
        time.sleep(0.2)
    else:
        return
    raise DeviceInUse(
        f"other processes use the device: {', '.join(others)}; a speed measured now would be wrong. "
        "End them, or set `resources.allow_shared: true`"
    )
