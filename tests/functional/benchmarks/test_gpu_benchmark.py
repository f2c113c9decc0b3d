"""`benchmarks/gpu.py` on a CPU: as one command where only torch is installed, its harness against what can go wrong."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / "benchmarks"
CORRECTNESS = ("machine", "ahead", "loss_gradients", "model_gradients", "fp8_losses", "out_of_memory", "memory_cap")
STATUSES = ("done", "cut short: out of time", "not run: out of time")

BLOCKED = ("ray", "mlflow", "optuna", "torchao", "pydantic", "psutil", "tokenizers", "transformers", "yaml", "rich",
           "scipy", "moocore", "matplotlib", "pynvml", "transformer_engine")  # fmt: skip
BLOCKER = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_importable():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT.parent, check=False,
    )  # fmt: skip


def test_one_command_where_only_torch_is_installed(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    out = tmp_path / "gpu.json"
    ran = command("--device", "cpu", "--minutes", "0.1", "--out", out, PYTHONPATH=str(tmp_path))
    report = json.loads(out.read_text())
    steps = report["steps"]
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    for name in CORRECTNESS:
        assert (steps[name]["status"], steps[name]["green"]) == ("done", True), steps[name]
    assert report["summary"]["green"] >= 16
    assert set(steps) == {step.name for step in importlib.import_module("gpu_steps").STEPS}
    assert all(step["status"] in STATUSES for step in steps.values())
    late = [name for name, step in steps.items() if step["status"] == "not run: out of time"]
    assert late, "nothing was left out in six seconds"
    assert all(f"{name}: not run: out of time" in ran.stdout for name in late)
    packages = steps["machine"]["rows"]["packages"]
    assert packages["torch"] == torch.__version__
    assert {name: packages[name] for name in ("ray", "pydantic", "torchao")} == dict.fromkeys(
        ("ray", "pydantic", "torchao")
    )
    assert "needs torchao" in steps["fp8_losses"]["rows"]["fp8 torchao, all"]["unavailable"]
    (run,) = report["runs"]
    assert run["command"].startswith("python benchmarks/gpu.py --device cpu --minutes 0.1")
    assert run["versions"]["torch"] == torch.__version__
    assert len(run["source"]) == 12
    assert str(tmp_path) not in json.dumps(run)


def test_fp8_is_compared_with_bf16_and_converts_every_matmul(tmp_path):
    out = tmp_path / "gpu.json"
    ran = command("--device", "cpu", "--only", "fp8_losses,model_gradients", "--out", out)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    steps = json.loads(out.read_text())["steps"]
    row = steps["fp8_losses"]["rows"]["fp8 torchao, all"]
    assert row["environment"]["precision"]["converted"] == row["environment"]["precision"]["total"] == 4
    assert 0 < row["apart"] <= 0.01
    for head in ("tied", "untied"):
        found = steps["model_gradients"]["rows"][f"fp8 torchao, all, {head}"]
        assert found["converted"] == found["matmuls"]
        assert 0.01 < found["gradient_error"] <= 0.25


def test_wrong_arguments_and_no_such_device(tmp_path):
    unknown = command("--only", "flagship,nothing,never")
    assert unknown.returncode == 2
    assert "no step nothing, never: there are machine, ahead" in unknown.stderr
    listed = command("--list")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()][:7] == list(CORRECTNESS)
    if not torch.cuda.is_available():
        absent = command("--device", "cuda", "--out", tmp_path / "gpu.json")
        assert absent.returncode == 2
        assert "can use no CUDA device here" in absent.stderr
        assert not (tmp_path / "gpu.json").exists()


def fake(name, **more):
    step = importlib.import_module("gpu_steps.harness").Step
    fields = {"what": name, "function": f"gpu_fake_steps:{name}", "seconds": {"cpu": 1}, **more}
    return step(name=name, **fields)


@pytest.fixture
def harness(tmp_path, monkeypatch):
    """Runs fake steps; what is in the file afterwards."""
    module = importlib.import_module("gpu_steps.harness")
    rows = importlib.import_module("gpu_steps.rows")
    monkeypatch.setattr(module, "LEAST_LIMIT_S", 5)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def run(*steps, minutes=1.0, source="a", device="here", **more):
        report = module.Report(tmp_path / "gpu.json", {"device": device})
        report.begin({"minutes": minutes})
        deadline = time.monotonic() + 60 * minutes
        task = rows.Task(device="cpu", device_name=device, folder=str(scratch), deadline=deadline, source=source)
        module.run_steps(steps, report, task, **more)
        return json.loads((tmp_path / "gpu.json").read_text())["steps"]

    return run


def test_a_step_that_fails_dies_or_hangs_is_recorded_and_the_rest_runs(harness, tmp_path):
    steps = harness(*map(fake, ("raises", "dies", "hangs", "finds", "is_red", "finds_all")))
    assert steps["raises"]["status"] == "failed"
    assert steps["raises"]["error"] == "ValueError: planted"
    assert "in _fails" in steps["raises"]["traceback"]
    assert steps["dies"]["status"] == f"died with exit code -{signal.SIGSEGV.value}"
    assert steps["hangs"]["status"] == "ended at its limit of time"
    for name in ("raises", "dies", "hangs"):
        assert steps[name]["rows"]["good"]["value"] == 1
    hanging = int((tmp_path / "hanging").read_text())
    assert not [process for process in psutil.process_iter() if process.pid == hanging]
    assert steps["finds"]["status"] == "1 of 3 rows failed"
    assert steps["finds"]["rows"]["lacking"] == {"unavailable": "the thing isn't here", "source": "a"}
    assert steps["finds"]["rows"]["bad"]["error"] == "ValueError: planted"
    assert not steps["finds"]["green"]
    assert (steps["is_red"]["status"], steps["is_red"]["green"]) == ("done", False)
    assert (steps["finds_all"]["status"], steps["finds_all"]["green"]) == ("done", True)
    assert steps["finds_all"]["rows"]["good"]["value"] == "nan"
    found = importlib.import_module("gpu_steps.aims").summary(steps, device_type="cpu")
    assert found["red"] == ["is_red: wrong"]
    assert set(found["error"]) == {"finds: bad", "raises"}
    assert found["unavailable"] == {"finds: lacking": "the thing isn't here"}


def test_what_is_done_is_kept_unless_asked_for_again(harness, tmp_path):
    asked = tmp_path / "asked"
    harness(fake("finds_all"))
    harness(fake("finds_all"), source="b")
    assert asked.read_text() == "x"
    harness(fake("finds_all"), again=True)
    assert asked.read_text() == "xx"
    late = harness(fake("finds_all", seconds={"cpu": 1000}), again=True, minutes=0.05)
    assert late["finds_all"]["status"] == "done"
    with pytest.raises(ValueError, match="holds results of here, not of there"):
        harness(fake("finds_all"), device="there")


def test_what_was_red_or_lacking_is_found_again_once_the_code_has_changed_and_the_rest_kept(harness):
    first = harness(fake("grows"))["grows"]
    same = harness(fake("grows"))["grows"]
    assert (same["rows"], first["status"], first["green"]) == (first["rows"], "done", False)
    again = harness(fake("grows"), source="b")["grows"]
    assert again["rows"]["good"] == first["rows"]["good"]
    assert again["rows"]["good"]["source"] == "a"
    for label in ("red", "lacking"):
        assert again["rows"][label] == {"value": "b", "green": True, "source": "b"} | {
            "row_s": again["rows"][label]["row_s"]
        }
    assert again["green"]


def test_a_step_of_each_run_is_repeated(harness, tmp_path):
    for _ in range(2):
        harness(fake("finds_all", each_run=True))
    assert (tmp_path / "asked").read_text() == "xx"


def test_a_run_goes_on_from_a_file_that_lies_elsewhere_and_leaves_it_alone(tmp_path):
    module = importlib.import_module("gpu_steps.harness")
    earlier = tmp_path / "came_back.json"
    earlier.write_text(json.dumps({"device": "here", "runs": [{}], "steps": {"machine": {"status": "done"}}}))
    report = module.Report(tmp_path / "gpu.json", {"device": "here"}, before=earlier)
    report.begin({})
    report.keep("next", {"status": "done"})
    assert set(json.loads((tmp_path / "gpu.json").read_text())["steps"]) == {"machine", "next"}
    assert len(json.loads(earlier.read_text())["runs"]) == 1
    own = module.Report(tmp_path / "gpu.json", {"device": "here"}, before=earlier)
    assert set(own.data["steps"]) == {"machine", "next"}
    assert module.Report(tmp_path / "new.json", {"device": "here"}, before=tmp_path / "none").data["steps"] == {}
    with pytest.raises(ValueError, match=r"came_back\.json holds results of here, not of there"):
        module.Report(tmp_path / "new.json", {"device": "there"}, before=earlier)


def test_a_required_step_that_hangs_ends_at_its_own_limit_and_the_next_runs(harness, monkeypatch):
    monkeypatch.setattr(importlib.import_module("gpu_steps.harness"), "REQUIRED_LEAST_LIMIT_S", {"cpu": 5})
    steps = harness(fake("hangs", required=True), fake("finds_all", required=True), minutes=0)
    assert steps["hangs"]["status"] == "ended at its limit of time"
    assert steps["finds_all"]["status"] == "done"


def test_a_step_that_outlasts_the_run_is_cut_short_and_no_failure(harness, monkeypatch):
    monkeypatch.setattr(importlib.import_module("gpu_steps.harness"), "OVERTIME_S", 0)
    steps = harness(fake("hangs"), minutes=0.03)  # which would hang for longer than a test may
    assert steps["hangs"]["status"] == "cut short: out of time"
    assert steps["hangs"]["rows"]["good"]["value"] == 1


def test_a_step_without_time_is_not_run_unless_it_is_required(harness):
    long = {"cpu": 1000}
    steps = harness(fake("finds_all", seconds=long), fake("is_red", seconds=long, required=True), minutes=0.05)
    assert steps["finds_all"] == {"status": "not run: out of time"}
    assert steps["is_red"]["status"] == "done"


def test_rows_without_time_are_found_by_the_next_run_and_the_others_kept(harness):
    first = harness(fake("slow"))["slow"]
    assert first["status"] == "cut short: out of time"
    assert first["rows"]["second"] == {"not_run": "out of time"}
    second = harness(fake("slow"), minutes=100)["slow"]
    assert second["status"] == "done"
    assert second["rows"]["first"] == first["rows"]["first"]
    changed = harness(fake("slow"), again=True, source="b")["slow"]
    assert changed["rows"]["first"] != first["rows"]["first"]


KILLED = """
import sys, time
sys.path[:0] = [{benchmarks!r}, {root!r}, {here!r}, {helpers!r}]
if __name__ == "__main__":
    from pathlib import Path
    from gpu_steps import harness, rows
    from test_gpu_benchmark import fake
    report = harness.Report(Path({out!r}), {{"device": "here"}})
    report.begin({{}})
    task = rows.Task(device="cpu", device_name="here", folder={folder!r}, deadline=time.monotonic() + 300, source="a")
    harness.run_steps([fake("finds_all"), fake("hangs")], report, task)
"""


def test_a_run_that_is_killed_keeps_what_it_has_and_leaves_no_process(tmp_path):
    out, scratch = tmp_path / "gpu.json", tmp_path / "scratch"
    scratch.mkdir()
    script = tmp_path / "run.py"
    script.write_text(KILLED.format(benchmarks=str(BENCHMARKS), root=str(ROOT), here=str(Path(__file__).parent),
                                    helpers=str(Path(__file__).parents[1]),
                                    out=str(out), folder=str(scratch)))  # fmt: skip
    run = subprocess.Popen([sys.executable, str(script)])
    try:
        wait_for(lambda: (tmp_path / "hanging").exists() and "hangs" in json.loads(out.read_text())["steps"])
        wait_for(lambda: "good" in json.loads(out.read_text())["steps"]["hangs"]["rows"])
        started = psutil.Process(run.pid).children(recursive=True)
        assert int((tmp_path / "hanging").read_text()) in [process.pid for process in started]
        run.kill()
        run.wait()
        wait_for(lambda: not [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE])
    finally:
        run.kill()
        run.wait()
    steps = json.loads(out.read_text())["steps"]
    assert steps["finds_all"]["status"] == "done"
    assert (steps["hangs"]["status"], steps["hangs"]["rows"]["good"]["value"]) == ("running", 1)


def wait_for(condition):
    while not condition():
        time.sleep(0.1)


def bench(tmp_path):
    rows = importlib.import_module("gpu_steps.rows")
    task = rows.Task(device="cpu", device_name="x", folder=str(tmp_path), deadline=0, source="a",
                     found=str(tmp_path / "found.json"), required=True)  # fmt: skip
    return importlib.import_module("gpu_steps.jobs").Bench(rows.Rows(task))


def test_wrong_gradients_are_red(tmp_path, monkeypatch):
    gradients = importlib.import_module("gpu_steps.gradients")
    inputs = gradients._drawn((64, 16, 32), torch.device("cpu"))
    exact = gradients._with_gradients(gradients._exact_loss, inputs, torch.float64)
    assert gradients._loss_row("full", "fp32", False, inputs, exact)["green"]
    shifted = {**exact, "weight": exact["weight"] * 1.001}
    assert not gradients._loss_row("full", "fp32", False, inputs, shifted)["green"]
    here = bench(tmp_path)
    batch = gradients._batch(here, 512)
    found = {}
    assert gradients._model_row(here, here.scale.gradient_shape, "bf16", batch, found)["green"]
    found["blocks.1.attention.qkv.weight"] *= 1.5
    row = gradients._model_row(here, here.scale.gradient_shape, "bf16", batch, found)
    assert (row["green"], row["worst"]) == (False, "blocks.1.attention.qkv.weight")


class Trace:
    """A profiler whose trace has two kernels that overlap, a copy after a pause, and what isn't device work."""

    events = (
        {"cat": "kernel", "name": "nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "ts": 10, "dur": 50},
        {"cat": "kernel", "name": "triton_poi_fused__to_copy_add_3", "ts": 40, "dur": 40},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned -> Device)", "ts": 100, "dur": 10},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 0, "dur": 500},
        {"ph": "M", "name": "process_name"},
    )

    def export_chrome_trace(self, path):
        Path(path).write_text(json.dumps({"traceEvents": self.events}))


def test_idle_time_is_what_no_device_work_covers(tmp_path):
    work = importlib.import_module("gpu_steps.kernels")._device_work(Trace(), tmp_path)
    assert work["idle_share"] == pytest.approx(0.2)  # 20 of the 100 microseconds from 10 to 110
    assert work["shares"] == {"matmul": 0.5, "compiled elementwise and reductions": 0.4, "copies": 0.1}
    assert work["top"][0]["ms_a_step"] == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128", "attention"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x64x128", "matmul"),
        ("void cutlass::device_kernel<flash::enable_sm90<...>>", "attention"),
        ("triton_red_fused__log_softmax_nll_loss_forward_view_2", "loss"),
        ("triton_per_fused__to_copy_add_mean_mul_rsqrt_0", "compiled elementwise and reductions"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>", "optimizer and clipping"),
        ("void at::native::vectorized_elementwise_kernel<4, FillFunctor>", "uncompiled elementwise and reductions"),
        ("void at::native::embedding_backward_kernel", "embedding"),
    ],
)  # fmt: skip
def test_kernels_are_told_apart_by_their_names(name, kind):
    assert importlib.import_module("gpu_steps.kernels").kind_of(name) == kind
