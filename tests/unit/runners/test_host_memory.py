"""Which errors end at a device's memory, and which at the host's beside it."""

import numpy as np
import pytest
import torch
from trial_jobs import job, write_chain

from sweeper.runners.data.dataset import Dataset, train_batches
from sweeper.runners.device import measuring
from sweeper.runners.device.host_memory import NoHostMemory
from sweeper.runners.training.job_run import DEFAULT_TARGET, JobRun
from sweeper.runners.training.training import Training

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def of_the_hosts_allocator():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    return caught.value


@pytest.mark.parametrize(
    ("error", "of_cpu", "of_cuda"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 139 GiB"), True, True),
        (RuntimeError("CUDA error: out of memory"), True, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, True),
        (of_the_hosts_allocator(), True, False),
        (MemoryError("Unable to allocate 3.00 GiB for an array"), True, False),
        (NoHostMemory("8 bytes of the host's memory can't be pinned for a batch"), False, False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
    ],
)
def test_only_the_devices_own_memory_is_its_boundary(error, of_cpu, of_cuda):
    assert measuring.is_out_of_memory(error, CPU) == of_cpu
    assert measuring.is_out_of_memory(error, CUDA) == of_cuda


def batches_on_cuda():
    tokens = np.arange(1000)
    dataset = Dataset(train=tokens, held_out=tokens, bytes_per_token=None, token_bytes=None, fingerprint="0" * 16,
                      vocab_size=1000, description="made up")  # fmt: skip
    return train_batches(dataset, seed=0, batch_size=2, seq_len=4, device=CUDA)


def test_memory_that_cannot_be_pinned_is_the_hosts(monkeypatch):
    def pins(tensor):
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")

    monkeypatch.setattr(torch.Tensor, "pin_memory", pins)
    with pytest.raises(NoHostMemory, match="128 bytes of the host's memory can't be pinned"):
        next(batches_on_cuda())


def test_other_errors_of_pinning_are_what_they_are(monkeypatch):
    def pins(tensor):
        raise RuntimeError("the driver shut down")

    monkeypatch.setattr(torch.Tensor, "pin_memory", pins)
    with pytest.raises(RuntimeError, match="the driver shut down"):
        next(batches_on_cuda())


def test_a_job_without_host_memory_beside_its_device_has_failed(tmp_path, monkeypatch):
    def runs_out(training):
        raise NoHostMemory("128 bytes of the host's memory can't be pinned for a batch")

    write_chain(tmp_path / "chain", train=20_000, held_out=9_000)
    monkeypatch.setattr(Training, "step", runs_out)
    run = JobRun(job(tmp_path / "chain", steps=2), job_target=DEFAULT_TARGET, logs=tmp_path)
    failed = run.next_event()
    run.close()
    assert (failed.type, failed.error) == (
        "failed", "NoHostMemory: 128 bytes of the host's memory can't be pinned for a batch"
    )  # fmt: skip
