"""Jobs over made-up tokens, run as a study runs them, and the figures of their outcomes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_steps.rows import Rows, Unavailable
from gpu_steps.scale import PRECISIONS, SCALES, Scale
from sweeper.model.precision import fp8_lacks
from sweeper.model.shape import derive
from sweeper.planning.estimates import memory_of
from sweeper.runners.training.trial import run_job
from sweeper.values.events import Event, Final
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe

SAID_ONCE = ("driver", "versions", "platform", "data", "data_fingerprint", "epochs", "peak_bf16_tflops")
"""Parts of a record's environment that are the same in all rows, or mean nothing here."""


class Bench:
    """What the steps of a run share: device, scale, and token shards in the run's scratch folder."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.device = torch.device(rows.task.device, 0) if rows.task.device == "cuda" else torch.device("cpu")
        self.scale: Scale = SCALES[rows.task.device]

    def text(self, vocab_size: int) -> Path:
        """Shards of independent tokens whose frequencies fall as 1/rank, as those of words do."""
        folder = self.rows.folder / f"text-{vocab_size}"
        if not folder.exists():
            weights = 1 / (np.arange(vocab_size) + 2.7)
            draw = np.random.default_rng(0).random(self.scale.shard_tokens)
            tokens = np.searchsorted(np.cumsum(weights / weights.sum()), draw).clip(0, vocab_size - 1)
            _write(folder, tokens, held_out=self.scale.shard_tokens // 10)
        return folder

    def chain(self) -> tuple[Path, float]:
        """Shards of a Markov chain, and the mean −log p(next | this) of their held-out tokens under it."""
        states, length, rows = self.scale.chain_states, 4096, 128
        rng = np.random.default_rng(0)
        matrix = rng.dirichlet(np.full(states, 0.3), size=states)
        cumulative = matrix.cumsum(axis=1)
        tokens = np.empty((rows, length), dtype=np.int64)
        tokens[:, 0] = rng.integers(states, size=rows)
        for t in range(1, length):
            draws = rng.random((rows, 1))
            tokens[:, t] = (cumulative[tokens[:, t - 1]] < draws).sum(axis=1).clip(0, states - 1)
        held_out = tokens[-rows // 4 :]
        _write(self.rows.folder / "chain", tokens.ravel(), held_out=held_out.size)
        return self.rows.folder / "chain", float(-np.log(matrix[held_out[:, :-1], held_out[:, 1:]]).mean())

    def job(
        self,
        shape: Mapping[str, Any],
        precision: str,
        *,
        batch_size: int,
        tokens_per_step: int | None = None,
        seq_len: int | None = None,
        kind: str = "speed",
        steps: int = 1_000_000,
        compile: bool = True,
        shards: Path | None = None,
        optimizer: Optimizer | None = None,
        eval_tokens: int | None = None,
        cap_bytes: int | None = None,
    ) -> Job:
        """A job of this run; Unavailable where the machine lacks what `precision` needs."""
        fields = PRECISIONS[precision]
        if "fp8_backend" in fields and (lacking := fp8_lacks(fields["fp8_backend"], self.device)):
            raise Unavailable(lacking)
        seq_len = seq_len or self.scale.seq_len
        recipe = Recipe(
            data="made-up", steps=steps, seq_len=seq_len,
            tokens_per_step=tokens_per_step or batch_size * seq_len,
            optimizer=optimizer or Optimizer(), eval_tokens=eval_tokens or seq_len, **fields,
        )  # fmt: skip
        return Job(
            kind=kind, config=Config(shape=derive(shape), recipe=recipe), device=self.device.type,
            execution=Execution(batch_size=batch_size, compile=compile), memory_bytes=cap_bytes,
            # This process is the device's only user, and what else is there stands in the record.
            shared_ok=True, data_path=str(shards or self.text(shape["vocab_size"])),
        )  # fmt: skip


def _write(folder: Path, tokens: np.ndarray, *, held_out: int) -> None:
    """Shards that are there whole or not at all: a step can be ended at any time."""
    if folder.exists():
        return
    part = Path(tempfile.mkdtemp(dir=folder.parent))
    tokens[:-held_out].astype("<u2").tofile(part / "train.bin")
    tokens[-held_out:].astype("<u2").tofile(part / "val.bin")
    with contextlib.suppress(OSError):  # another process was first
        part.rename(folder)


def outcome(job: Job) -> Event:
    """The last event of a job."""
    *_, last = run_job(job)
    return last


def figures(event: Event) -> dict[str, Any]:
    """What a job's outcome says: speed, memory measured and predicted, seconds, and the record's environment."""
    job, speed = event.job, event.speed
    found: dict[str, Any] = {"status": event.status}
    if speed is not None:
        found |= {
            "tokens_per_s": round(speed.tokens_per_s), "low": round(speed.low), "high": round(speed.high),
            "step_ms": round(speed.step_ms, 3), "mfu": speed.mfu, "tflops_per_s": speed.tflops_per_s,
        }  # fmt: skip
    if isinstance(event, Final):
        found |= {"val_loss": event.val_loss, "notes": list(event.notes)}
    predicted, peak = memory_of(job.config, job.execution.batch_size), event.peak_memory_bytes
    return found | {
        "peak_memory_bytes": peak,
        "predicted_bytes": predicted,
        "peak_to_predicted": round(peak / predicted, 3) if peak and job.device == "cuda" else None,
        "shape": job.config.shape.to_dict(),
        "batch_size": job.execution.batch_size,
        "grad_accum_steps": job.grad_accum_steps,
        "seconds": dict(event.seconds),
        "environment": {key: value for key, value in event.environment.items() if key not in SAID_ONCE},
    }


def measured(job: Job) -> dict[str, Any]:
    """The figures of a job that is run now."""
    return figures(outcome(job))
