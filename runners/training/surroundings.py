"""What a job's figures depend on besides the job: the state of its process, of its device, and who else is there."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from sweeper.model.compile import compiled_graphs, forget_compiled, graph_breaks
from sweeper.runners.device import device_state, measuring, memory
from sweeper.runners.device.compile_cache import use_compile_cache
from sweeper.runners.device.host_memory import keep_freed_memory
from sweeper.runners.device.peaks import bf16_peak
from sweeper.runners.training import attention, between_jobs
from sweeper.runners.training.speeds import summarise
from sweeper.values.events import SpeedSummary
from sweeper.values.records import Job

LOADED_CORES = 0.5
TIMED_SHARE = 0.9
"""Of the time since a window began: less than this was timed where something else was done in between."""


class Surroundings:
    """Set up when a job starts, whatever the process ran before; asked while it runs; closed when it has ended.

    `environment` and `notes` go into the job's record, as do `peak_memory_bytes` and `beside_memory_bytes`
    (`sweeper.values.events.Final`), which are known once it is closed.
    """

    def __init__(self, job: Job, device: torch.device) -> None:
        self._job, self._device = job, device
        self.notes: list[str] = []
        self._states: list[device_state.DeviceState] = []
        self._busy: list[float | None] = []
        self._mark: device_state.Mark | None = None
        self._began = 0.0
        self._load: measuring.OtherLoad | None = None
        if device.type == "cpu":
            keep_freed_memory()
        use_compile_cache(device)
        forget_compiled()
        before = self._tensors_before()
        self._allowed: int | None = None
        measuring.reset_peak_memory(device)
        self._resident = memory.resident_bytes()
        self._watch = device_state.watch(device)
        self._peak = bf16_peak(measuring.device_name(device))
        self._peak_memory_bytes: int | None = None
        self.beside_memory_bytes: int | None = None
        self._peak_before: int | None = None
        self._counts = True
        self.environment: dict[str, Any] = {
            **measuring.environment(device),
            "peak_bf16_tflops": {"value": self._peak.tflops, "source": self._peak.source} if self._peak else None,
            "allocated_bytes_before": before,
        }

    def _tensors_before(self) -> int:
        before, baseline = between_jobs.tensors_before(self._device)
        if memory.is_leak(before=before, baseline=baseline):
            left = (before - baseline) / 2**20
            self.notes.append(f"earlier jobs left {left:.1f} MiB of tensors in the process, which nothing should")
        return before

    def enter(self) -> None:
        """Set what holds while the job runs. Raises DeviceInUse where it is to be timed and others use the device."""
        if not self._job.shared_ok:
            device_state.require_alone(self._watch)
        self._allowed = memory.cap_device(self._device, self._job.memory_bytes)
        shape, recipe = self._job.config.ours
        self.environment["attention"] = attention.chosen_kernel(
            shape,
            seq_len=recipe.seq_len,
            dtype=torch.float32 if self._job.precision == "fp32" else torch.bfloat16,
            device=self._device,
        )

    def watch_load(self) -> None:
        """From now on, notice the load of other processes."""
        self._load = measuring.OtherLoad()

    def begin_window(self) -> None:
        """Steps that may be timed follow."""
        self._mark, self._began = self._watch.mark() if self._watch else None, time.perf_counter()

    def alone(self, seconds: float) -> bool:
        """Look at the device after a window of so many timed `seconds`; whether its speed is to be kept: nobody else
        was there. How busy the device was isn't known of a window with a branch in it.
        """
        timed = seconds > TIMED_SHARE * (time.perf_counter() - self._began)
        state = self._watch.state(self._mark) if self._watch else None
        if state is not None and state.other_processes and not self._job.shared_ok:
            return False
        if state is not None:
            self._states.append(state)
        self._busy.append(self._watch.busy(self._mark) if self._watch and self._mark and timed else None)
        return True

    def check_memory(self) -> None:
        """Raises OverCap where a job on a CPU has taken more than its cap; on CUDA the allocator sees to that."""
        cap, peak = self._job.memory_bytes, self._peak_so_far()
        if self._device.type == "cuda" or cap is None or peak is None or not self._counts:
            return
        if peak - self._resident > cap:
            raise memory.OverCap(f"{peak - self._resident:,} bytes taken, {cap:,} allowed")

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Within the block the host's memory isn't counted as the job's: a branch keeps a copy of its trunk there."""
        if self._device.type == "cuda":
            yield
            return
        self._peak_before, self._counts = self._peak_so_far(), False
        try:
            yield
        finally:
            self._counts = True
            measuring.reset_peak_memory(self._device)

    def start_new_peak(self) -> None:
        """Forget the peak so far: what comes now is another training, and the job's record is of that one."""
        self._peak_before = None
        measuring.reset_peak_memory(self._device)

    def _peak_so_far(self) -> int | None:
        now = measuring.peak_memory_bytes(self._device)
        return now if now is None or self._peak_before is None else max(now, self._peak_before)

    def note_boundary(self, error: BaseException) -> None:
        """Record where a job ran out of memory."""
        self.environment["out_of_memory"] = {
            "batch_size": self._job.execution.batch_size,
            "bytes": self._peak_so_far(),
            "allowed_bytes": self._job.memory_bytes if self._allowed is None else self._allowed,
            "error": str(error).strip().split("\n", 1)[0],
        }

    def summarise(self, windows: Iterable[tuple[int, float]]) -> SpeedSummary | None:
        """The job's speed from the last windows that were kept, of (steps, seconds); None where they are too few."""
        per_step = self._job.config.ours[1].tokens_per_step
        rates = [steps * per_step / seconds for steps, seconds in windows]
        busy = [share for share in self._busy[len(self._busy) - len(rates) :] if share is not None]
        return summarise(
            self._job,
            rates,
            peak_tflops=self._peak.tflops if self._peak else None,
            busy=statistics.fmean(busy) if busy else None,
        )

    @property
    def peak_memory_bytes(self) -> int | None:
        """The job's, once it is closed."""
        return self._peak_memory_bytes

    def close(self, *, ended: bool) -> None:
        """Record what was seen and give the job's memory back, which nothing may refer to any more.

        A job that hasn't `ended` by itself leaves no record, and an exception may still refer to what it held.
        """
        self._peak_memory_bytes = self._peak_so_far()
        if ended and self._device.type == "cuda" and not (self._watch and self._watch.others()):
            self.beside_memory_bytes = memory.beside_allocator(self._device)
        others = self._load.cores() if self._load and self._device.type == "cpu" else 0.0
        if others > LOADED_CORES:
            self.notes.append(f"other processes kept {others:.1f} CPU cores busy while the trial ran")
        state = device_state.worst(self._states)
        compiled = {"graph_breaks": graph_breaks(), "compiled_graphs": compiled_graphs()}
        self.environment |= {
            **compiled,
            "device_state": state.to_dict() if state else None,
            "allocated_bytes_after": between_jobs.clear_up(self._device, ended=ended),
        }
