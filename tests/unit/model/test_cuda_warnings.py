"""Warnings that torch gives on CUDA alone: as errors they would end the tests of a device in their first case."""

import warnings

import pytest
import torch
from torch._inductor import compile_fx
from torch._inductor.fx_passes import fuse_attention


@pytest.fixture
def _hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))


@pytest.mark.usefixtures("_hopper")
@pytest.mark.parametrize("module", [compile_fx, fuse_attention])
def test_that_tf32_is_off_is_no_error(module):
    """Inductor's own functions, which it calls for an fp32 matmul on CUDA; each warns once in a process."""
    warns = module._warn_tf32_disabled.__wrapped__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warns()
    assert len(caught) == 1
    warns()


@pytest.mark.parametrize(
    "message",
    [
        "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations "
        "(Triggered internally at /pytorch/torch/csrc/cuda/Module.cpp:1024.)",
        "\nOnline softmax is disabled on the fly since Inductor decides to\nsplit the reduction.",
        "Attempting to run cuBLAS, but there was no current CUDA context! Attempting to set the primary context...",
    ],
)
def test_what_only_cudas_own_code_says_is_no_error(message):
    warnings.warn(message, UserWarning, stacklevel=1)


def test_other_warnings_are_errors():
    with pytest.raises(UserWarning, match="CUDA is not available"):
        warnings.warn("CUDA is not available", UserWarning, stacklevel=1)
