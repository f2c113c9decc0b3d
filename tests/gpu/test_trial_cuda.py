"""The trial on a CUDA device: every precision trains, FP8 agrees with bf16, memory and device are the card's own."""

import pytest
import torch
from trial_jobs import job, write_chain

from runners.trial import run_job

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder)
    return folder


def outcome(chain, **changed):
    shape = {"n_layers": 2, "d_model": 256, "head_dim": 64, "n_kv_heads": 2, "ffn_hidden": 704}
    *_, last = run_job(job(chain, shape=shape, compile=True, steps=60, optimizer={"lr": 2e-3}, **changed))
    return last


def test_every_precision_trains_and_fp8_agrees_with_bf16(chain):
    ends = {name: outcome(chain, precision=name) for name in ("fp32", "bf16", "fp8")}
    for name, end in ends.items():
        assert end.status == "ok", name
        assert end.environment["device"] == torch.cuda.get_device_name(0)
        assert 0 < end.peak_memory_bytes <= torch.cuda.get_device_properties(0).total_memory
        assert end.environment["graph_breaks"] == 0
    assert ends["bf16"].val_loss == pytest.approx(ends["fp32"].val_loss, rel=0.01)
    assert ends["fp8"].val_loss == pytest.approx(ends["bf16"].val_loss, rel=0.02)
    assert ends["fp8"].environment["precision"]["converted"] == 8
    assert ends["fp8"].environment["precision"]["emulated"] == (torch.cuda.get_device_capability() < (8, 9))


def test_nothing_of_a_trial_stays_on_the_card(chain):
    outcome(chain, precision="bf16")
    before = torch.cuda.memory_allocated()
    outcome(chain, precision="bf16")
    assert torch.cuda.memory_allocated() <= before * 1.05 + 2**20


def test_out_of_memory_is_a_result(chain):
    shape = {"d_model": 2**16, "head_dim": 2**10, "n_kv_heads": 64, "ffn_hidden": 2**18, "n_layers": 4}
    *_, last = run_job(job(chain, shape=shape, precision="bf16"))
    assert last.status == "out_of_memory"
    assert outcome(chain, precision="bf16").status == "ok"
