"""What counts as left behind by a job on a CUDA device, whose allocator is made up here."""

import sys
from types import SimpleNamespace

import pytest
import torch

from sweeper.runners.device.memory import is_leak
from sweeper.runners.training import between_jobs

CUDA = torch.device("cuda", 0)
WORKSPACE = 32 * 2**20


class Allocator:
    """Bytes in use by name; cuBLAS's workspaces are there from a matmul on until they are cleared."""

    def __init__(self):
        self.held, self.cached = {}, 0

    def matmul(self):
        for thread in ("forward", "backward"):
            self.held[f"cuBLAS {thread}"] = WORKSPACE

    def clear(self):
        for name in [name for name in self.held if name.startswith("cuBLAS")]:
            self.cached += self.held.pop(name)

    def empty(self):
        self.cached = 0

    def allocated(self, device=None):
        return sum(self.held.values())


@pytest.fixture
def allocator(monkeypatch):
    made_up = Allocator()
    monkeypatch.setattr(torch.cuda, "memory_allocated", made_up.allocated)
    monkeypatch.setattr(torch.cuda, "empty_cache", made_up.empty)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", made_up.clear, raising=False)
    monkeypatch.setattr(between_jobs, "_baseline", {})
    monkeypatch.setattr(between_jobs, "_alive", {})
    return made_up


def leaks(allocator, *jobs):
    """Of each job, told by what it leaves in the allocator, whether it found that earlier ones had left something."""
    found = []
    for left in jobs:
        before, baseline = between_jobs.tensors_before(CUDA)
        found.append(is_leak(before=before, baseline=baseline))
        allocator.matmul()
        allocator.held |= left
        between_jobs.clear_up(CUDA, ended=True)
    return found


def test_the_workspaces_of_matmuls_are_no_leak_and_go_back_to_the_device(allocator):
    assert leaks(allocator, {}, {}, {}) == [False, False, False]
    assert (allocator.allocated(), allocator.cached) == (0, 0)


def test_a_process_that_had_multiplied_before_its_first_job_has_the_same_baseline(allocator):
    allocator.matmul()
    assert leaks(allocator, {}, {"a tensor": 40 * 2**20}, {}) == [False, False, True]


def test_what_the_first_job_leaves_is_a_leak(allocator):
    assert leaks(allocator, {"a tensor": 2**22}, {}) == [False, True]


def test_transformer_engines_workspace_is_no_leak(allocator, monkeypatch):
    function = SimpleNamespace(cache_clear=lambda: allocator.held.pop("engine", None))
    module = SimpleNamespace(get_cublas_workspace=function)
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch.cpp_extensions.gemm", module)
    assert leaks(allocator, {"engine": WORKSPACE}, {"engine": WORKSPACE}, {}) == [False, False, False]
