"""The step of `benchmarks/gpu.py` that measures activations, at a CPU's sizes: what a compiled layer really holds."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))  # as a script sees its folder

from gpu_steps import activations
from gpu_steps.jobs import Bench
from gpu_steps.rows import Rows, Task


@pytest.fixture
def bench(tmp_path):
    task = Task(
        device="cpu", device_name="cpu", folder=str(tmp_path), deadline=time.monotonic() + 600, source="",
        step="activations", found=str(tmp_path / "found.json"),
    )  # fmt: skip
    return Bench(Rows(task))


def test_a_compiled_layer_holds_what_is_predicted_in_bf16(bench):
    """The values' whole product among it, of which they are a view. A CPU and CUDA keep the same in bf16."""
    row = activations._layer(bench, "bf16")
    assert row["green"]
    assert row["measured_bytes"] == pytest.approx(row["predicted_bytes"], rel=0.001)
    assert row["allocated_bytes"] is None
    # 2 bytes of each weight of the block: 64 · (64 + 2 · 32) + 64 · 64 + 3 · 64 · 176.
    assert row["copies_bytes"] == 2 * (64 * 128 + 64 * 64 + 3 * 64 * 176)
