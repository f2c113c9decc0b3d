"""What a job's record says of the card while it was timed, and of its memory beside the allocator's."""

import time
from dataclasses import replace

import pytest
import torch
import trial_jobs
from trial_jobs import write_chain

from sweeper.runners.device import device_state, measuring
from sweeper.runners.training.trial import run_job
from sweeper.values.events import memory_needed
from sweeper.values.machine import gpu_count

pytestmark = pytest.mark.gpu

SHAPE = {"n_layers": 4, "d_model": 1024, "head_dim": 64, "n_kv_heads": 4, "ffn_hidden": 4096}


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """Of a shape whose matmuls keep a card busy."""
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder)
    run = trial_jobs.job(folder, kind="speed", shape=SHAPE, precision="bf16", compile=True)
    *_, end = run_job(replace(run, device="cuda"))
    return end


def test_a_context_lies_beside_the_peak_and_both_fit_the_card(probe):
    total = torch.cuda.get_device_properties(0).total_memory
    assert 100 * 2**20 < probe.beside_memory_bytes < 2 * 2**30
    assert probe.peak_memory_bytes < memory_needed(probe.peak_memory_bytes, probe.beside_memory_bytes) <= total


def test_the_state_is_that_of_the_windows():
    """The driver's samples: two seconds of matmuls between two idle ones. Skips what the driver keeps no samples of."""
    device = torch.device("cuda", 0)
    matrix = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    watch = device_state.watch(device)
    assert watch is not None
    matrix @ matrix
    idle = watch.mark()
    measuring.synchronise(device)
    time.sleep(2.0)
    quiet = watch.busy(idle)
    since = watch.mark()
    start = time.monotonic()
    while time.monotonic() - start < 2.0:
        for _ in range(50):
            matrix @ matrix
        measuring.synchronise(device)
    busy, state = watch.busy(since), watch.state(since)
    if busy is None or quiet is None:
        pytest.skip("the driver keeps no samples of this device's utilization")
    assert quiet < 0.5 < busy <= 1.0
    assert state.power_w > 100
    assert state.clocks_mhz["sm"] > 1000


def test_the_devices_that_torch_sees_are_counted_without_it():
    for number in range(torch.cuda.device_count()):
        torch.ones(1, device=torch.device("cuda", number))
    assert gpu_count() == torch.cuda.device_count()


def test_a_speed_says_how_busy_the_card_was(probe):
    assert probe.speed is not None
    assert probe.speed.busy is None or 0 < probe.speed.busy <= 1
