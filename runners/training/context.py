"""What all parts of a running job share: the job itself, its device, clock, surroundings and data."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass, replace

import torch

from sweeper.runners.data.dataset import Batch, Dataset, epochs, train_batches
from sweeper.runners.training import between_jobs
from sweeper.runners.training.clock import Clock
from sweeper.runners.training.surroundings import Surroundings
from sweeper.values.errors import DataError
from sweeper.values.records import Job, Precision, Recipe


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """A job as it is run now, and with what. `clock` and `surroundings` are told what happens, the rest stays."""

    job: Job
    device: torch.device
    clock: Clock
    surroundings: Surroundings
    dataset: Dataset

    @property
    def recipe(self) -> Recipe:
        """The job's."""
        return self.job.config.ours[1]

    @property
    def vocab_size(self) -> int:
        """The model's."""
        return self.job.config.ours[0].vocab_size

    def tokens(self, steps: int) -> int:
        """How many tokens so many steps read."""
        return steps * self.recipe.tokens_per_step

    def batches_after(self, step: int) -> Generator[Batch]:
        """The micro-batches of the steps that follow the first `step`."""
        return train_batches(
            self.dataset,
            seed=self.job.seed,
            batch_size=self.job.execution.batch_size,
            seq_len=self.recipe.seq_len,
            device=self.device,
            skip=self.tokens(step) // self.recipe.seq_len,
        )

    def note(self, text: str) -> None:
        """Have the job's record say what matters to who reads its result."""
        self.surroundings.notes.append(text)

    def in_precision(self, precision: Precision) -> JobContext:
        """The same for the job at another precision."""
        return replace(self, job=replace(self.job, resolved=replace(self.job.resolved, precision=precision)))


def set_up(job: Job, device: torch.device, clock: Clock, surroundings: Surroundings) -> JobContext:
    """Open the data; say what will matter to who reads the result.

    Raises DeviceInUse where the job is to be timed and others use the device; DataError as `_open` does.
    """
    surroundings.enter()
    dataset = _open(job)
    context = JobContext(job=job, device=device, clock=clock, surroundings=surroundings, dataset=dataset)
    passes = epochs(dataset, context.tokens(job.steps or 0), context.recipe.seq_len)
    if passes > 1:
        context.note(f"the trial passed over its data {passes:.2f} times")
    surroundings.environment |= {
        "data_fingerprint": dataset.fingerprint,
        "data": dataset.description,
        "epochs": round(passes, 4),
    }
    return context


def _open(job: Job) -> Dataset:
    """The job's data; DataError where it isn't what the driver has, which may be on another machine."""
    shape, recipe = job.config.ours
    name, path, wanted = recipe.data, job.data_path, job.data_fingerprint
    if path is not None and wanted is not None and not os.path.exists(path):
        raise DataError(f"data: {path} isn't on the machine of this job: it has to be at that path on every node")
    dataset = between_jobs.data_of(name, path, shape.vocab_size)
    if wanted not in (None, dataset.fingerprint):
        raise DataError(
            f"{name}: the data where this job runs has fingerprint {dataset.fingerprint} "
            f"({dataset.description}), the driver's has {wanted}: "
            + ("bring the same files to every node" if path else "install the same Python and packages everywhere")
        )
    return dataset
