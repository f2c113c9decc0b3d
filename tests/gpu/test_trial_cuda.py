"""The trial on a CUDA device: every precision trains, FP8 agrees with bf16, memory and device are the card's own."""

import importlib
from dataclasses import replace

import pytest
import torch
import trial_jobs
from trial_jobs import write_chain

from sweeper.runners.training.training import Training, build_training
from sweeper.runners.training.trial import run_job

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder)
    return folder


def job(chain, **changed):
    return replace(trial_jobs.job(chain, **changed), device="cuda")


UNFILTERED = {"precision": "fp8", "fp8_filter": "none"}


def outcome(chain, **changed):
    shape = {"n_layers": 2, "d_model": 256, "head_dim": 64, "n_kv_heads": 2, "ffn_hidden": 704}
    *_, last = run_job(job(chain, shape=shape, compile=True, steps=60, optimizer={"lr": 2e-3}, **changed))
    return last


def test_every_precision_trains_and_fp8_agrees_with_bf16(chain):
    ends = {name: outcome(chain, precision=name) for name in ("fp32", "bf16")}
    ends["fp8"] = outcome(chain, **UNFILTERED, fp8_backend="torchao")
    for name, end in ends.items():
        assert end.status == "ok", name
        assert end.environment["device"] == torch.cuda.get_device_name(0)
        assert 0 < end.peak_memory_bytes <= torch.cuda.get_device_properties(0).total_memory
        assert end.environment["graph_breaks"] == 0
    assert ends["bf16"].val_loss == pytest.approx(ends["fp32"].val_loss, rel=0.01)
    assert ends["fp8"].val_loss == pytest.approx(ends["bf16"].val_loss, rel=0.02)
    assert ends["fp8"].environment["precision"]["converted"] == 8
    assert ends["fp8"].environment["precision"]["emulated"] == (torch.cuda.get_device_capability() < (8, 9))


def test_transformer_engine_trains_and_agrees_with_bf16(chain):
    try:
        importlib.import_module("transformer_engine.pytorch")
    except Exception as error:
        pytest.skip(f"transformer-engine can't be imported: {error}")
    end = outcome(chain, **UNFILTERED, fp8_backend="transformer_engine")
    report = end.environment["precision"]
    assert end.status == "ok"
    assert (report["converted"], report["total"], report["emulated"]) == (8, 8, False)
    assert end.environment["graph_breaks"] == 0
    assert end.val_loss == pytest.approx(outcome(chain, precision="bf16").val_loss, rel=0.02)


def test_what_the_filter_keeps_out_stays_in_bf16_and_the_rest_is_converted(chain):
    shape = {"n_layers": 2, "d_model": 768, "head_dim": 64, "n_kv_heads": 4, "ffn_hidden": 2048}
    *_, last = run_job(job(chain, shape=shape, compile=True, steps=20, precision="fp8"))
    report = last.environment["precision"]
    assert last.status == "ok"
    assert (report["converted"], report["total"]) == (4, 8)
    assert [line.split(": ")[1] for line in report["kept_out"]] == ["attention.out", "ffn.down"]


def test_nothing_of_a_trial_stays_on_the_card_not_even_the_workspaces_of_its_matmuls(chain):
    ends = [outcome(chain, precision=name) for name in ("bf16", "fp32", "bf16")]
    before = [end.environment["allocated_bytes_before"] for end in ends]
    after = [end.environment["allocated_bytes_after"] for end in ends]
    assert max(*before[1:], *after) <= before[0] + 2**20
    assert torch.cuda.memory_allocated() <= before[0] + 2**20
    assert not any("left" in note for end in ends for note in end.notes)
    assert ends[2].peak_memory_bytes == pytest.approx(ends[0].peak_memory_bytes, rel=0.02)


def test_after_a_nan_under_fp8_the_peak_is_that_of_bf16_alone(chain, monkeypatch):
    shape = {"n_layers": 4, "d_model": 1024, "head_dim": 64, "n_kv_heads": 4, "ffn_hidden": 4096}
    common = {"shape": shape, "compile": True, "steps": 20}
    *_, bf16 = run_job(job(chain, precision="bf16", **common))
    real = Training.step

    def loses(training):
        real(training)
        if training.report.name == "fp8" and training.step_index == 5:
            training.losses[-1] = training.losses[-1] * float("nan")

    monkeypatch.setattr(Training, "step", loses)
    *_, again = run_job(job(chain, fp8_backend="torchao", **UNFILTERED, **common))
    assert again.environment["precision"]["name"] == "bf16"
    assert again.peak_memory_bytes == pytest.approx(bf16.peak_memory_bytes, rel=0.05)


def test_out_of_memory_is_a_result(chain):
    shape = {"d_model": 2**16, "head_dim": 2**10, "n_kv_heads": 64, "ffn_hidden": 2**18, "n_layers": 4}
    *_, last = run_job(job(chain, shape=shape, precision="bf16"))
    assert last.status == "out_of_memory"
    assert outcome(chain, precision="bf16").status == "ok"


def test_a_cap_on_memory_stands_for_a_smaller_card(chain):
    """From none to a cap below what the training needs, and back: the same training fits, doesn't, and fits.

    Its states take 1 GB, its activations about 10: below the cap there is room for the context and the states alone.
    """
    shape = {"n_layers": 4, "d_model": 1024, "head_dim": 64, "n_kv_heads": 4, "ffn_hidden": 4096}
    sizes = {"seq_len": 1024, "batch_size": 64, "tokens_per_step": 64 * 1024}
    run = job(chain, shape=shape, steps=12, precision="bf16", compile=True, **sizes)
    *_, free = run_job(run)
    capped = replace(run, memory_bytes=4 * 2**30)
    assert free.peak_memory_bytes > 1.5 * capped.memory_bytes
    *_, out = run_job(capped)
    assert (free.status, out.status) == ("ok", "out_of_memory")
    assert 2 * 2**30 < out.environment["out_of_memory"]["allowed_bytes"] <= capped.memory_bytes
    assert out.peak_memory_bytes <= capped.memory_bytes
    *_, again = run_job(replace(run, memory_bytes=None))
    assert again.status == "ok"


def test_the_record_tells_the_devices_state(chain):
    state = outcome(chain, precision="bf16").environment["device_state"]
    assert state is not None
    assert state["other_processes"] == 0
    assert state["clocks_mhz"]["sm"] > 100
    assert 0 < state["temperature_c"] < 120


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_record_tells_the_attention_kernel_that_runs(chain, precision):
    """Against what a profiler sees of a training's own step; grouped queries, at the lengths that trials have."""
    shape = {"n_layers": 1, "d_model": 256, "head_dim": 64, "n_kv_heads": 2, "ffn_hidden": 704}
    run = job(chain, shape=shape, precision=precision, seq_len=1024, tokens_per_step=8192, steps=2)
    *_, last = run_job(run)
    inputs = torch.randint(0, 16, (8, 1024), device="cuda")
    training = build_training(job=run, device=torch.device("cuda", 0), batches=iter([(inputs, inputs)]))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        training.step()
    names = {event.key for event in profiler.key_averages() if "scaled_dot_product_" in event.key}
    kernel = last.environment["attention"]
    operator = "attention_math" if kernel == "math" else kernel
    assert f"aten::_scaled_dot_product_{operator}" in names


def test_a_step_never_waits_for_the_device(chain):
    training = build_training(job=job(chain, precision="bf16"), device=torch.device("cuda", 0), batches=iter([]))
    inputs = torch.randint(0, 16, (8, 64), device="cuda")
    training.batches = iter([(inputs, inputs)] * 4)
    training.step()
    try:
        torch.cuda.set_sync_debug_mode("error")
        training.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_reference_config_is_measured_on_the_card_and_leaves_it_empty(chain, monkeypatch):
    monkeypatch.setattr("sweeper.runners.training.reference._logs", {})
    run = replace(
        job(chain, steps=20), reference=job(chain, kind="speed", shape={"d_model": 64}), reference_every_s=0.01
    )
    ends = []
    for _ in range(3):
        *_, last = run_job(run)
        ends.append(last)
    assert ["reference" in end.environment for end in ends] == [False, True, True]
    assert {end.environment["device_id"] for end in ends} == {str(torch.cuda.get_device_properties(0).uuid)}
    assert ends[2].environment["allocated_bytes_before"] <= ends[1].environment["allocated_bytes_before"] + 2**20
    assert not any("left" in note for end in ends for note in end.notes)
