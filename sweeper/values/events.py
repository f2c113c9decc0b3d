"""What a runner tells the Driver of a job, and what the Driver answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeper.values.records import Job, Status
from sweeper.values.schedule import Branch


@dataclass(frozen=True, kw_only=True)
class SpeedSummary:
    """Training speed over whole optimizer steps, after compile and warm-up. `windows` in tokens/s.

    `tflops_per_s` is tokens/s × the model's training FLOPs per token; `mfu` that ÷ the device's dense bf16 peak,
    None where the peak isn't known. `busy` is the share of the windows in which a kernel was running on the GPU, None
    on a CPU and where the driver doesn't tell.
    """

    tokens_per_s: float
    low: float
    high: float
    windows: tuple[float, ...]
    step_ms: float
    tflops_per_s: float | None = None
    mfu: float | None = None
    busy: float | None = None


def memory_needed(peak_bytes: int | None, beside_bytes: int | None) -> int | None:
    """What a device must have for a job: its peak and what lies beside it; None where the peak isn't known.

    Outcomes from before `beside_memory_bytes` was recorded count with their peak alone.
    """
    return None if peak_bytes is None else peak_bytes + (beside_bytes or 0)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A probe's outcome. Memory as in `Final`."""

    job: Job
    status: Status
    speed: SpeedSummary | None
    peak_memory_bytes: int | None
    seconds: Mapping[str, float]
    environment: Mapping[str, Any]
    beside_memory_bytes: int | None = None
    type: str = "speed"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Mean training loss (nats per token) since the last rung, at `tokens` tokens. Progress, never ranked.

    `tokens_per_s` of the steps since the last rung, None while they aren't timed; `device` by its kind.
    """

    job: Job
    tokens: int
    loss: float
    tokens_per_s: float | None = None
    device: str | None = None
    type: str = "rung"


@dataclass(frozen=True, kw_only=True)
class Final:
    """A trial's outcome.

    `val_loss` in nats per token, `val_bpb` in bits per byte (None where bytes are unknown), `curve` pairs of (tokens,
    training loss), at most 256; `branches` those asked for, in the order of their ends; `seconds` has set_up, compile,
    train, evaluate, branches, timing (steps taken for the speed alone) and, where the reference config was measured
    before the trial, reference; `environment` has device, driver, versions, data and its fingerprint, and what was seen
    on the way.

    `peak_memory_bytes` is on CUDA the most that torch's allocator has reserved; `beside_memory_bytes`, what the process
    takes of the device beside it (CUDA context, kernels, libraries): the device must have their sum (`memory_needed`).
    On a CPU the peak is the process's resident memory, and nothing lies beside it. None where it isn't known.
    """

    job: Job
    status: Status
    val_loss: float | None
    val_bpb: float | None
    curve: tuple[tuple[int, float], ...]
    tokens: int
    seconds: Mapping[str, float]
    speed: SpeedSummary | None
    peak_memory_bytes: int | None
    environment: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    branches: tuple[Branch, ...] = ()
    beside_memory_bytes: int | None = None
    type: str = "final"


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A job that ended without a result. `error` is one line, `traceback` whole (or the log's last lines)."""

    job: Job
    error: str
    traceback: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    type: str = "failed"


Event = Speed | Rung | Final | Failed


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing can be asked until an outcome is told."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """Nothing is left to ask."""


@dataclass(frozen=True, kw_only=True)
class Continue:
    """The job goes on."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The job should end now; its next event says so."""
