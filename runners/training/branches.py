"""A training that leaves its path for a while, to cool down, and goes on as though nothing had happened.

While it is away, what it was lies in the host's memory: parameters and optimizer state, with AdamW 12 bytes a parameter
(Muon has 4 less for each weight of the blocks' matrices). They're put back bit by bit. What a branch reads are the
tokens that follow in the stream, through batches of its own, so that the trunk's stay where they are.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator

import torch
from torch import Tensor

from sweeper.runners.data.dataset import Batch
from sweeper.runners.device.host_memory import NoHostMemory
from sweeper.runners.training.training import Training
from sweeper.values.records import Job
from sweeper.values.schedule import Schedule

_ALIGNED = 64


def planned(job: Job, trunk: Schedule) -> list[tuple[float, Schedule]]:
    """The branches that a job asks for, as fraction and schedule, in the order in which they leave the trunk."""
    cooldown = job.config.recipe.optimizer.cooldown
    found = [(fraction, trunk.branch(fraction, cooldown=cooldown)) for fraction in job.branch_at]
    return sorted(found, key=lambda one: (one[1].stable_until, one[0]))


@contextlib.contextmanager
def away(training: Training, schedule: Schedule, batches: Iterator[Batch]) -> Iterator[None]:
    """Within the block the training is a branch that takes `schedule` and reads `batches`; after it the trunk again.

    Raises NoHostMemory, with nothing changed, where the trunk's state can't be kept.
    """
    kept = _Kept(training)
    trunk = training.schedule, training.batches, training.losses, training.step_index
    training.schedule, training.batches, training.losses = schedule, batches, []
    devices = [training.device] if training.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        training.schedule, training.batches, training.losses, training.step_index = trunk
        kept.put_back()


class _Kept:
    """A copy of all that a training's steps change.

    Its memory comes straight from the kernel and goes back there when the copy is dropped: the heap, which jobs on a
    CPU never give back while they run, doesn't grow by it.
    """

    def __init__(self, training: Training) -> None:
        tensors = [*training.model.parameters()]
        for state in training.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
        ends, end = [], 0
        for tensor in tensors:
            end += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
            ends.append(end)
        try:
            memory = mmap.mmap(-1, end)
        except (OSError, MemoryError) as error:
            raise NoHostMemory(f"{end:,} bytes of the host's memory can't be had: {error}") from error
        self._pairs: list[tuple[Tensor, Tensor]] = []
        for tensor, start in zip(tensors, [0, *ends], strict=False):
            copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(tensor.shape)
            copy.copy_(tensor.detach())
            self._pairs.append((tensor, copy))

    @torch.no_grad()
    def put_back(self) -> None:
        """Set the training's tensors to what they were, in place."""
        for tensor, copy in self._pairs:
            tensor.copy_(copy)
