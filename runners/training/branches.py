"""A training that leaves its path for a while, to cool down, and goes on as though nothing had happened.

While it is away, what it was lies in the host's memory: parameters and optimizer state, with AdamW 12 bytes a parameter
(Muon has 4 less for each weight of the blocks' matrices). They're put back bit by bit. What a branch reads are the
tokens that follow in the stream, through batches of its own, so that the trunk's stay where they are.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sweeper.runners.data.dataset import Batch
from sweeper.runners.device.host_memory import NoHostMemory
from sweeper.runners.training.context import JobContext
from sweeper.runners.training.evaluation import held_out_loss, is_worse_than_uniform
from sweeper.runners.training.training import Training
from sweeper.values.records import Job
from sweeper.values.schedule import Branch, Schedule

_ALIGNED = 64


def planned_branches(job: Job, trunk: Schedule) -> list[tuple[float, Schedule]]:
    """The branches that a job asks for, as fraction and schedule, in the order in which they leave the trunk."""
    cooldown = job.config.ours[1].optimizer.cooldown
    found = [(fraction, trunk.branch(fraction, cooldown=cooldown)) for fraction in job.branch_at]
    return sorted(found, key=lambda one: (one[1].stable_until, one[0]))


def missed(context: JobContext, trunk: Schedule, *, step: int, taken: Sequence[Branch]) -> list[Branch]:
    """The branches that a training at `step` hasn't `taken` and is past, without a loss; notes say so."""
    have = {branch.fraction for branch in taken}
    found = []
    for fraction, schedule in planned_branches(context.job, trunk):
        if schedule.stable_until <= step and fraction not in have:
            context.note(f"{_named(fraction)} wasn't taken: the training was past it already")
            found.append(Branch(fraction=fraction, tokens=context.tokens(schedule.steps)))
    return found


def take(context: JobContext, training: Training, fraction: float, schedule: Schedule, *, is_warm: bool) -> Branch:
    """Cool down from here, evaluate, and come back; what goes wrong in it is a note.

    Unless the training `is_warm`, what compiling took isn't told from its steps yet.
    """
    before_s, batches = context.clock.read()["train"], context.batches_after(training.step_index)
    loss = bpb = seconds = None
    try:
        with context.surroundings.uncounted(), away(training, schedule, batches):
            context.clock.enter("branches")
            taken = training.timed_steps(schedule.falling)
            seconds = before_s + taken
            if not is_warm:
                seconds = schedule.steps * taken / schedule.falling if schedule.falling else None
            losses = training.collect_losses()
            held_out = held_out_loss(context, training, part="branches")
            loss, bpb = held_out.loss, held_out.bpb
        worse = is_worse_than_uniform(loss, vocab_size=context.vocab_size)
        if not all(map(math.isfinite, [*losses, loss])) or worse:
            context.note(f"{_named(fraction)} diverged")
            loss = bpb = None
    except NoHostMemory as error:
        context.note(f"{_named(fraction)} wasn't taken: {error}")
    finally:
        batches.close()
    tokens = context.tokens(schedule.steps)
    return Branch(fraction=fraction, tokens=tokens, val_loss=loss, val_bpb=bpb, train_seconds=seconds)


def _named(fraction: float) -> str:
    return f"the branch at {100 * fraction:.3g}% of the tokens"


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
        tensors: list[Tensor] = [*training.model.parameters()]
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
