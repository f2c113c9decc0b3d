"""`benchmarks/gpu_plan.py` on a bare machine, cut and resumed; what its minutes rest on; what may hang."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import psutil
import pytest
import torch

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / "benchmarks"
BARE = ("torch", "numpy", "typing_extensions", "sympy", "mpmath", "filelock", "fsspec", "networkx", "jinja2",
        "MarkupSafe")  # fmt: skip
"""Distributions of a machine that has torch and numpy, and what these need."""
LIMIT_S, REQUIRED_S = 540, 100


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_importable():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def module(name):
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """An interpreter that can import torch, numpy and their needs, and nothing else that isn't Python's own."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in BARE:
        found = distribution(name)
        for top in {str(file).split("/", 1)[0] for file in found.files if not str(file).startswith("..")}:
            if top != "__pycache__":
                (site / top).symlink_to(found.locate_file(top).resolve())
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """What is carried, packed from what is installed here: tests download nothing."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in module("gpu_plan").PACKAGES:
        found = distribution(name)
        with zipfile.ZipFile(folder / f"{name}-{found.version}-py3-none-any.whl", "w") as archive:
            for file in found.files:
                if file.locate().is_file() and not str(file).startswith("..") and file.suffix != ".pyc":
                    archive.write(file.locate(), str(file))
    return folder


def plan(python, wheels, out, *arguments):
    options = ["--device", "cpu", "--wheels", str(wheels), "--out", str(out), *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.Popen(
        [python, str(BENCHMARKS / "gpu_plan.py"), *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT.parent,
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="its tests would run on the device")
def test_the_plan_on_a_bare_machine_is_cut_and_resumed(bare_python, wheels, tmp_path):
    lacking = subprocess.run([bare_python, "-c", "import torchao"], capture_output=True, text=True, check=False)
    assert "No module named 'torchao'" in lacking.stderr
    steps = ("--only", "machine,loss_gradients,fp8_losses")
    first = plan(bare_python, wheels, tmp_path / "first", *steps)
    out = tmp_path / "first" / "gpu.json"
    try:
        wait_for(lambda: first.poll() is not None or status(out, "machine") == "done")
        assert first.poll() is None, first.communicate()[0]
        started = psutil.Process(first.pid).children(recursive=True)
        first.send_signal(signal.SIGTERM)
        said, _ = first.communicate()
    finally:
        first.kill()
    assert first.returncode == 143, said
    assert "plan: tests: none collected, as torch finds no CUDA device here" in said
    wait_for(lambda: not [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE])
    cut = out.read_text()

    second = plan(bare_python, wheels, tmp_path / "second", *steps, "--skip_tests", "--resume", out)
    said, _ = second.communicate()
    assert second.returncode == 0, said
    assert "machine: kept from an earlier run" in said
    assert "plan: tests" not in said
    report = json.loads((tmp_path / "second" / "gpu.json").read_text())
    assert out.read_text() == cut
    assert len(report["runs"]) == 2
    packages = report["steps"]["machine"]["rows"]["packages"]
    assert (packages["pydantic"], packages["ray"], packages["mlflow"]) == (None, None, None)
    assert packages["torchao"] == distribution("torchao").version
    assert report["steps"]["machine"]["rows"] == json.loads(cut)["steps"]["machine"]["rows"]
    for name in ("loss_gradients", "fp8_losses"):
        assert (report["steps"][name]["status"], report["steps"][name]["green"]) == ("done", True)
    assert report["steps"]["fp8_losses"]["rows"]["fp8 torchao, all"]["green"]
    assert (tmp_path / "second" / "gpu.log").read_text() in said


def status(out, step):
    return json.loads(out.read_text())["steps"].get(step, {}).get("status") if out.exists() else None


def wait_for(condition):
    while not condition():
        time.sleep(0.1)


HANGS = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("begun", flush=True)
if os.fork() == 0:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
time.sleep(600)
"""


def test_a_command_that_hangs_with_a_child_of_its_own_is_ended(tmp_path, monkeypatch):
    gpu_plan = module("gpu_plan")
    monkeypatch.setattr(gpu_plan, "GRACE_S", 0.5)
    own = tmp_path / "pids"
    code = gpu_plan.logged([sys.executable, "-c", HANGS, str(own)], tmp_path / "log", os.environ, within_s=8)
    assert code == gpu_plan.TIMED_OUT
    assert (tmp_path / "log").read_text() == "begun\n"
    pids = [int(line) for line in own.read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids))


def test_a_command_that_ends_is_not_waited_for_because_a_child_holds_its_output(tmp_path):
    leaves = "import os, time\nprint('said', flush=True)\nif os.fork() == 0: time.sleep(600)"
    code = module("gpu_plan").logged([sys.executable, "-c", leaves], tmp_path / "log", os.environ, within_s=250)
    assert code == 0
    assert (tmp_path / "log").read_text() == "said\n"


def test_a_failure_in_the_tests_or_in_gpu_py_is_the_plans(tmp_path, monkeypatch):
    gpu_plan = module("gpu_plan")
    codes = iter([1, 0, 0, 2, 5, 0, gpu_plan.TIMED_OUT, -9])
    monkeypatch.setattr(gpu_plan, "logged", lambda *_, **__: next(codes))
    monkeypatch.setattr(gpu_plan, "_importable", lambda *_: True)
    assert [gpu_plan.main(["--out", str(tmp_path)]) for _ in range(4)] == [4, 2, 0, 4]
    assert gpu_plan.main([]) == 2


def test_correctness_ends_within_100_seconds_and_the_whole_plan_within_nine_minutes_whatever_hangs():
    gpu_plan, steps = module("gpu_plan"), module("gpu_steps").STEPS
    harness = module("gpu_steps.harness")
    required = [step for step in steps if step.required]
    assert [step.required for step in steps] == [True] * len(required) + [False] * (len(steps) - len(required))
    assert sum(step.seconds["cuda"] for step in required) <= REQUIRED_S
    assert sum(step.limit_s("cuda") for step in required) + harness.OVERTIME_S <= 60 * gpu_plan.MINUTES
    assert gpu_plan.TESTS_S + gpu_plan.GRACE_S + 60 * gpu_plan.MINUTES + gpu_plan.ENDING_S <= gpu_plan.WHOLE_S
    assert gpu_plan.WHOLE_S + gpu_plan.GRACE_S <= LIMIT_S


def test_what_correctness_compiles_is_compiled_ahead_in_one_go():
    """Otherwise its declared seconds, which are those of finding kernels on disk, would be too few."""
    ahead, scale = module("gpu_steps.ahead"), module("gpu_steps.scale").CUDA
    jobs = ahead.first_jobs(scale)
    assert len(jobs) <= ahead.MOST_AT_ONCE
    have = {(one.precision, one.batch_size, one.seq_len, one.shape["ffn_hidden"]) for one in jobs}
    chain = scale.chain_recipe
    for precision in scale.compiled_precisions:
        assert (precision, *scale.gradient_tokens, scale.gradient_shape["ffn_hidden"]) in have
        sizes = chain["tokens_per_step"] // chain["seq_len"], chain["seq_len"]
        assert (precision, *sizes, scale.chain_shape["ffn_hidden"]) in have
    for batch_size in scale.micro_batches:
        for precision in ("bf16", "fp8 torchao"):
            assert (precision, batch_size, 1024, scale.flagship["ffn_hidden"]) in have
    assert (min(scale.micro_batches), max(scale.micro_batches)) == (8, 96)
    assert all(scale.tokens_per_step % (batch_size * 1024) == 0 for batch_size in scale.micro_batches)


def test_a_run_on_another_machine_compiles_ahead_what_is_left_and_no_more():
    ahead, gpu_steps = module("gpu_steps.ahead"), module("gpu_steps")
    scale = module("gpu_steps.scale").CUDA
    assert [step.name for step in gpu_steps.STEPS if step.each_run] == ["ahead"]
    checked = {key: {"status": "done"} for key in ("model_gradients", "fp8_losses")}
    rows = {ahead.flagship_label("bf16", 8): {}, ahead.flagship_label("fp8 torchao", 96): {}}
    left = ahead.first_jobs(scale, checked | {"flagship": {"rows": rows}})
    assert {(one.precision, one.batch_size) for one in left} == {
        *(("bf16", size) for size in (16, 32, 48, 96)), *(("fp8 torchao", size) for size in (8, 16, 32, 48))
    }  # fmt: skip
    assert len(ahead.first_jobs(scale, {"flagship": {"rows": rows}})) == 8 + 4
    assert len(ahead.preset_jobs(scale, ["current, bf16"])) == len(ahead.preset_jobs(scale)) - 1


def test_every_wheel_that_is_carried_is_pinned_and_they_are_ignored():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert set(module("gpu_plan").PACKAGES) <= set(pinned)
    assert "/wheels/" in (ROOT / ".gitignore").read_text().split()


def test_expectations_come_to_what_reading_the_code_came_to():
    """243k tokens/s and 41% of a dense bf16 peak of 989.4 TFLOP/s at 32 × 768 on an H200, FP8 as fast as bf16."""
    expected, scale = module("gpu_steps.expected"), module("gpu_steps.scale").CUDA
    sizes = {"seq_len": 1024, "batch_size": 96, "tokens_per_step": 98304}
    bf16 = expected.tokens_per_s(scale.flagship, "bf16", **sizes)
    assert bf16 == pytest.approx(243_000, rel=0.02)
    per_token = module("sweeper.model.shape").derive(scale.flagship).train_flops_per_token(1024)
    assert bf16 * per_token / 989.4e12 == pytest.approx(0.41, abs=0.01)
    for precision in ("fp8 torchao", "fp8 torchao, all"):
        assert expected.tokens_per_s(scale.flagship, precision, **sizes) / bf16 == pytest.approx(1.0, abs=0.03)
    assert expected.tokens_per_s(scale.flagship, "fp32", **sizes) is None
    parts = expected.seconds_per_token(module("sweeper.model.shape").derive(scale.flagship), **sizes)
    assert parts["matmuls"] == pytest.approx((per_token - 12 * 32 * 768 * 1024) / 600e12)


def test_rows_and_summary_show_expected_beside_measured():
    expected, aims = module("gpu_steps.expected"), module("gpu_steps.aims")
    row = {"tokens_per_s": 121_000, **expected.beside(121_000, 242_000.4), "source": "a"}
    assert (row["expected"], row["measured_to_expected"]) == (242_000, 0.5)
    assert expected.beside(None, 10.0) == {"expected": 10.0, "measured_to_expected": None}
    steps = {"flagship": {"status": "done", "rows": {"bf16, micro-batch 8": row, "other": {"source": "b"}}}}
    found = aims.summary(steps, device_type="cuda")
    assert found["expected"] == {
        "flagship: bf16, micro-batch 8": {"expected": 242_000, "measured": 121_000, "ratio": 0.5}
    }
    said = list(aims.lines(found))
    assert "flagship: bf16, micro-batch 8: 121000 tokens/s, expected 242000: 0.5 of it" in said
    assert "rows were found by 2 states of the code: each says by which" in said


NOISY = """
import json, sys, time
sys.stderr.write("x" * 2**20)
sys.stderr.flush()
if sys.argv[1] == "slow": time.sleep(600)
if sys.argv[1] == "dies": sys.exit("No module named 'transformers'")
print(json.dumps({"first_step_s": 1.0, "params": 7}), flush=True)
for line in sys.stdin: print(json.dumps({"seconds": float(line), "peak_memory_bytes": 9}), flush=True)
"""


@pytest.fixture
def contestants(tmp_path, monkeypatch):
    """Starts contestants that say more than a pipe holds; they are closed afterwards."""
    peers = module("peers")
    (tmp_path / "noisy.py").write_text(NOISY)
    monkeypatch.setattr(peers, "__file__", str(tmp_path / "noisy.py"))
    monkeypatch.setattr(peers, "CLOSING_S", 0.2)
    task = peers.Task(shape={}, shards="", seq_len=8, batch_size=1, grad_accum_steps=1, precision="fp32", device="cpu")
    running = []

    def start(name, **more):
        running.append(peers.Contestant(name, task, cache=tmp_path, threads=1, **more))
        return running[-1]

    yield start
    for one in running:
        one.close()
        assert one._process.poll() is not None


def test_a_peer_that_says_much_is_not_blocked(contestants):
    peer = contestants("plain")
    assert peer.start == {"first_step_s": 1.0, "params": 7}
    assert peer.seconds(3) == 3.0


def test_a_peer_that_never_starts_or_lacks_a_package_leaves_the_others_running(contestants, monkeypatch):
    rivals, rows = module("gpu_steps.rivals"), module("gpu_steps.rows")
    running = {}
    begun = {name: contestants(name, wait=False) for name in ("plain", "slow", "dies")}
    assert rivals._first_answer(begun["plain"], time.monotonic(), running)["params"] == 7
    monkeypatch.setattr(rivals, "FIRST_STEPS_S", 0)
    with pytest.raises(TimeoutError, match="slow took no step"):
        rivals._first_answer(begun["slow"], time.monotonic(), running)
    monkeypatch.setattr(rivals, "FIRST_STEPS_S", 600)
    with pytest.raises(rows.Unavailable, match="transformers isn't installed"):
        rivals._first_answer(begun["dies"], time.monotonic(), running)
    assert list(running) == ["plain"]


def test_peers_start_at_the_same_time_and_who_cannot_start_is_left_out(contestants, tmp_path, monkeypatch):
    """Contestants that are scripts: of three one lacks its package, and the others are compared."""
    rivals, rows, peers = module("gpu_steps.rivals"), module("gpu_steps.rows"), module("peers")
    script = NOISY.replace('"dies"', '"huggingface"').replace('"slow"', '"nobody"')
    (tmp_path / "noisy.py").write_text(script)
    begun = []

    class Seen(peers.Contestant):
        def __init__(self, name, *positional, wait=True, **more):
            begun.append((name, wait))
            super().__init__(name, *positional, wait=wait, **more)

    monkeypatch.setattr(rivals, "Contestant", Seen)
    task = rows.Task(device="cpu", device_name="x", folder=str(tmp_path), deadline=0, source="a", required=True,
                     found=str(tmp_path / "found.json"))  # fmt: skip
    found = rows.Rows(task)
    rivals.peers(found)
    assert begun == [("sweeper", False), ("plain", False), ("huggingface", False)]
    assert found.rows["huggingface, first step cold"]["unavailable"] == "transformers isn't installed"
    assert found.rows["plain, first step cold"]["beside"] == 2
    side = found.rows["side by side"]
    assert side["sweeper_to_plain"] == pytest.approx(1.0)
    assert set(side["tokens_per_s"]) == {"sweeper", "plain"}
    assert "sweeper_to_huggingface" not in side


@pytest.mark.campaign
def test_kernels_compiled_ahead_for_one_layer_serve_a_deeper_model(tmp_path):
    ahead, rows = module("gpu_steps.ahead"), module("gpu_steps.rows")
    jobs, scale = module("gpu_steps.jobs"), module("gpu_steps.scale").CPU
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(BENCHMARKS)])}
    task = rows.Task(device="cpu", device_name="x", folder=str(tmp_path), deadline=0, source="a", required=True,
                     found=str(tmp_path / "found.json"))  # fmt: skip
    found = rows.Rows(task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment)
        ahead.compile_ahead(found, ahead.first_jobs(scale))
    ((label, row),) = found.rows.items()
    assert label == "width 64, FFN 176, bf16, 8 × 64"
    assert row["status"] == "ok"
    deeper = jobs.Bench(found).job({**scale.flagship, "n_layers": 3}, "bf16", batch_size=8)
    module("sweeper.model.compile").forget_compiled()
    batch = torch.zeros(8, scale.seq_len, dtype=torch.int64)
    training = module("sweeper.runners.training.training").build_training(
        job=deeper, device=torch.device("cpu"), batches=iter([(batch, batch)])
    )
    training.step()
    counted = torch._dynamo.utils.counters["inductor"]
    assert counted["fxgraph_cache_miss"] == 0
    assert counted["fxgraph_cache_hit"] >= 3
    module("sweeper.model.compile").forget_compiled()


def test_a_row_of_a_card_says_what_was_expected_of_it(tmp_path):
    speed, scale = module("gpu_steps.speed"), module("gpu_steps.scale").CUDA

    class Bench:
        device = torch.device("cuda")

    Bench.scale = scale
    measured = {"batch_size": 32, "tokens_per_s": 120_000}
    told = speed._expectation(Bench, measured, scale.flagship, "bf16", {"tokens_per_step": 98304})
    assert told["expected"] == pytest.approx(241_000, rel=0.01)
    assert told["measured_to_expected"] == pytest.approx(0.4975, abs=0.01)
    muon = {"tokens_per_step": 98304, "optimizer": "muon"}
    assert speed._expectation(Bench, measured, scale.flagship, "bf16", muon) == {}
    assert (
        speed._expectation(Bench, {"batch_size": 32}, scale.flagship, "bf16", {"tokens_per_step": 98304})[
            "measured_to_expected"
        ]
        is None
    )
