"""What trials in one process leave each other, and what they do when their device isn't theirs alone."""

import gc
import weakref

import pytest
import torch
from ledger_lines import plain_lines
from torch.utils._python_dispatch import TorchDispatchMode
from trial_jobs import job, write_chain

from sweeper.ledger.file import Ledger
from sweeper.runners import in_process
from sweeper.runners.device import device_state, measuring
from sweeper.runners.device.memory import resident_bytes
from sweeper.runners.device.peaks import Peak
from sweeper.runners.training import attempt, between_jobs, surroundings, trial
from sweeper.runners.training.training import Training, build_training
from sweeper.running.progress import Progress
from sweeper.running.session import Session
from sweeper.tracking.projection import Projection
from sweeper.values.events import Failed
from tests.fakes import FakeSession


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder)
    return folder


@pytest.fixture
def brief(monkeypatch):
    """Windows that are taken for the speed alone last a hundredth of a second."""
    monkeypatch.setattr("sweeper.runners.training.step_times.PROBE_WINDOW_SECONDS", 0.01)


def last(run):
    return list(trial.run_job(run))[-1]


def plant(monkeypatch, *, at, happens):
    """Have `happens(training)` after the step numbered `at`, from 1."""
    real = Training.step

    def step(self):
        real(self)
        if self.step_index == at:
            happens(self)

    monkeypatch.setattr(Training, "step", step)


def lose(training, *, only="fp8"):
    if training.job.precision in (only, "bf16" if only == "both" else only) or only == "both":
        training.losses[-1] = torch.tensor(float("nan"))


def kept_by_the_compiler():
    """How many entries Dynamo's and Inductor's caches have in this process."""
    from torch._dynamo.convert_frame import input_codes
    from torch._inductor.codecache import PyCodeCache
    from torch.compiler._cache import CacheArtifactManager

    return {
        "code that Dynamo has seen": len(input_codes.seen),
        "modules of generated code": len(PyCodeCache.modules),
        "copies of artifacts": sum(map(len, CacheArtifactManager._new_cache_artifacts.values())),
    }


def test_six_shapes_compile_alike_in_one_process_and_leave_nothing_behind(chain, brief, jobs_freeze):
    """What stays resident is the allocator's affair too: `tests/campaign/test_quiet_machine.py` has a close bound."""
    outcomes, kept, resident = [], [], []
    for width in (16, 32, 48, 64, 80, 96):
        outcomes.append(last(job(chain, compile=True, steps=30, shape={"d_model": width, "ffn_hidden": 2 * width})))
        kept.append(kept_by_the_compiler())
        resident.append(resident_bytes())
    environments = [outcome.environment for outcome in outcomes]
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert {environment["graph_breaks"] for environment in environments} == {0}
    assert len({environment["compiled_graphs"] for environment in environments}) == 1
    assert environments[0]["compiled_graphs"] > 0
    second, end = environments[1]["allocated_bytes_after"], environments[-1]["allocated_bytes_after"]
    assert end <= second * 1.05 + 2**10
    assert not any("left" in note for outcome in outcomes for note in outcome.notes)
    assert kept[1:] == [kept[0]] * 5
    assert (resident[-1] - resident[1]) / 4 < 50e6, "ten times what was ever seen"


def test_tensors_that_a_trial_leaves_behind_are_found(chain, brief):
    held = []
    last(job(chain, steps=1))
    with pytest.MonkeyPatch.context() as patch:
        plant(patch, at=1, happens=lambda training: held.append(torch.zeros(2**20)))
        leaking = last(job(chain, steps=1))
    after = last(job(chain, steps=1))
    before = leaking.environment["allocated_bytes_before"]
    assert (
        leaking.environment["allocated_bytes_after"] == after.environment["allocated_bytes_before"] > before + 2**22 - 1
    )
    assert any("earlier jobs left" in note and "MiB of tensors" in note for note in after.notes)
    held.clear()
    assert last(job(chain, steps=1)).environment["allocated_bytes_after"] < before + 2**20


def test_the_garbage_collector_rests_in_timed_steps_alone(chain, brief, monkeypatch, jobs_freeze):
    seen = []
    plant(monkeypatch, at=3, happens=lambda training: seen.append(gc.isenabled()))
    last(job(chain, steps=12))

    def breaks(training):
        raise ValueError("broken")

    plant(monkeypatch, at=4, happens=breaks)
    with pytest.raises(ValueError, match="broken"):
        last(job(chain, steps=12))
    assert seen == [False, False]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


class Synchronisations(TorchDispatchMode):
    """Counts the reads of a tensor's value by Python: on CUDA each would wait for the device."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("optimizer", [{}, {"name": "muon", "momentum": 0.95}])
def test_a_step_never_waits_for_a_value(chain, optimizer):
    inputs = torch.randint(0, 16, (4, 64))
    run = job(chain, batch_size=4, optimizer=optimizer)
    training = build_training(job=run, device=torch.device("cpu"), batches=iter([(inputs, inputs)] * 6))
    with Synchronisations() as mode:
        training.step()
        training.step()
        assert mode.count == 0
        training.losses[0].item()
    assert mode.count == 1


def test_a_nan_under_fp8_is_trained_again_in_bf16_with_the_same_seed(chain, brief, monkeypatch):
    fp8 = {"precision": "fp8", "fp8_backend": "torchao", "fp8_filter": "none"}
    bf16 = last(job(chain, precision="bf16", seed=3))
    plant(monkeypatch, at=20, happens=lose)
    *rungs, outcome = trial.run_job(job(chain, seed=3, **fp8))
    assert (outcome.status, outcome.val_loss, outcome.curve) == ("ok", bf16.val_loss, bf16.curve)
    assert outcome.job.config.recipe.precision == "fp8"
    assert (outcome.job.resolved.precision, outcome.job.trial_id) == ("bf16", job(chain, seed=3, **fp8).trial_id)
    assert outcome.notes[0] == "FP8 gave NaN at step 20; trained again in bf16"
    assert outcome.environment["precision"]["name"] == "bf16"
    assert outcome.speed is not None
    tokens = [rung.tokens for rung in rungs]
    begun = next(n for n in range(1, len(tokens)) if tokens[n] <= tokens[n - 1])
    assert {rung.job.precision for rung in rungs[:begun]} == {"fp8"}
    assert {rung.job.precision for rung in rungs[begun:]} == {"bf16"}
    assert tokens[begun:] == [rung.tokens for rung in list(trial.run_job(job(chain, precision="bf16", seed=3)))[:-1]]
    assert outcome.seconds["timing"] > 0  # the steps of the lost training, none of which was useful
    assert bf16.seconds["timing"] == 0


@pytest.mark.parametrize("compile", [False, True])
def test_nothing_of_a_training_lost_to_a_nan_lives_beside_the_next(chain, brief, monkeypatch, jobs_freeze, compile):
    """Compiled blocks are in cycles that `gc.freeze` keeps from being collected."""
    held, alive, peaks = [], [], []
    real = attempt.build_training

    def loses(training):
        if training.job.precision == "fp8":
            held.extend(map(weakref.ref, [training, training.model, *training.model.parameters()]))
            held.extend(weakref.ref(value) for state in training.optimizer.state.values() for value in state.values())
            peaks.append(9 * 2**30)
        lose(training)

    def builds(**parts):
        alive.append(sum(one() is not None for one in held))
        return real(**parts)

    monkeypatch.setattr(attempt, "build_training", builds)
    monkeypatch.setattr(measuring, "reset_peak_memory", lambda device: peaks.__setitem__(slice(None), [2**30]))
    monkeypatch.setattr(measuring, "peak_memory_bytes", lambda device: max(peaks))
    plant(monkeypatch, at=20, happens=loses)
    fp8 = {"precision": "fp8", "fp8_backend": "torchao", "fp8_filter": "none"}
    outcome = last(job(chain, compile=compile, shape={"n_layers": 2}, **fp8))
    assert outcome.environment["precision"]["name"] == "bf16"
    assert len(held) > 20
    assert alive == [0, 0]
    assert outcome.peak_memory_bytes == 2**30


def test_a_nan_under_bf16_too_is_diverged(chain, brief, monkeypatch):
    plant(monkeypatch, at=20, happens=lambda training: lose(training, only="both"))
    outcome = last(job(chain, precision="fp8", fp8_backend="torchao", fp8_filter="none"))
    assert (outcome.status, outcome.val_loss, outcome.job.precision) == ("diverged", None, "bf16")
    assert len(outcome.curve) < 60


def test_a_repeated_rung_passes_through_session_projection_and_progress(chain, brief, monkeypatch, tmp_path):
    from rich.console import Console

    plant(monkeypatch, at=20, happens=lose)
    run = job(chain, precision="fp8", fp8_backend="torchao", fp8_filter="none")
    fake = FakeSession([run])
    projection = Projection(study="chain", profile="cpu")
    progress = Progress(
        Console(quiet=True), jobs={run.job_id: run}, states=lambda: {run.job_id: "running"}, label=lambda job: "chain"
    )
    observers = [lambda record: projection.add(record, live=True), progress.observe]
    with Ledger(tmp_path / "ledger.jsonl", lock=tmp_path / "lock") as ledger:
        in_process.run(Session(fake, ledger, observers=observers), logs=tmp_path / "logs")
    kinds = [record["type"] for record in plain_lines(tmp_path / "ledger.jsonl")]
    rungs = [event for event in fake.events if event.type == "rung"]
    (outcome,) = fake.outcomes()
    assert outcome.status == "ok"
    assert kinds == ["started", "asked", *["rung"] * len(rungs), "final"]
    points = [point for point in projection.trials[run.trial_id].points if point.key == "rung_loss"]
    assert [(point.step, point.value) for point in points] == [(rung.tokens, rung.loss) for rung in rungs]
    assert len({rung.tokens for rung in rungs}) < len(rungs)


def test_where_memory_ran_out_is_recorded(chain, brief, monkeypatch):
    def runs_out(training):
        raise torch.OutOfMemoryError("planted\nwith a long report")

    with pytest.MonkeyPatch.context() as patch:
        plant(patch, at=5, happens=runs_out)
        outcome = last(job(chain, kind="speed", batch_size=4))
    assert outcome.status == "out_of_memory"
    boundary = outcome.environment["out_of_memory"]
    assert boundary["bytes"] == pytest.approx(outcome.peak_memory_bytes, rel=0.01)
    assert (boundary["batch_size"], boundary["allowed_bytes"], boundary["error"]) == (4, None, "planted")
    before, after = (outcome.environment[f"allocated_bytes_{when}"] for when in ("before", "after"))
    assert after <= before + 2**10
    assert last(job(chain, steps=1)).status == "ok"


def test_a_cap_on_memory_ends_a_trial_on_a_cpu(chain, brief):
    from dataclasses import replace

    shape = {"n_layers": 2, "d_model": 512, "ffn_hidden": 1024}  # 4.7M parameters: 75 MB with their optimizer state
    big = job(chain, shape=shape, steps=1)
    capped = last(replace(big, memory_bytes=30_000_000))
    assert capped.status == "out_of_memory"
    assert capped.environment["out_of_memory"]["allowed_bytes"] == 30_000_000
    assert last(replace(big, memory_bytes=2**32)).status != "out_of_memory"


@pytest.mark.parametrize(
    ("kind", "length", "seconds"),
    [
        ("speed", {}, 0.5),
        ("speed", {"steps": None, "minutes": 0.2}, 0.5),
        ("speed", {"steps": None, "minutes": 2.0}, 1.2),
        ("speed", {"steps": None, "minutes": 60.0}, 4.0),
        ("train", {"steps": 12}, 0.5),
    ],
)
def test_a_probe_that_sizes_trainings_by_minutes_is_as_long_as_they_need(chain, monkeypatch, kind, length, seconds):
    """In a world where a step takes 10 ms."""
    monkeypatch.setattr("sweeper.runners.training.step_times.PROBE_WINDOW_SECONDS", 0.5)
    taken = []

    def steps(training, count):
        taken.append(count)
        training.step_index += count
        training.losses += [torch.zeros(())] * count
        return 0.01 * count

    monkeypatch.setattr(Training, "timed_steps", steps)
    assert last(job(chain, kind=kind, **length)).speed.tokens_per_s == pytest.approx(51_200)
    assert taken[-5:] == [round(100 * seconds)] * 5


def test_speed_is_also_told_in_flops_and_as_a_share_of_the_peak(chain, brief, monkeypatch):
    unknown = last(job(chain, kind="speed"))
    assert (unknown.environment["peak_bf16_tflops"], unknown.speed.mfu) == (None, None)
    monkeypatch.setattr(surroundings, "bf16_peak", lambda name: Peak(tflops=0.5, source="a datasheet"))
    run = job(chain, kind="speed")
    outcome = last(run)
    # 6 FLOPs per matmul parameter, 12 · heads · head_dim · T for attention: 11,008 of the former, one layer.
    flops = 6 * (32 * 64 + 32 * 32 + 3 * 32 * 64 + 16 * 32) + 12 * 32 * 64
    assert outcome.speed.tflops_per_s == pytest.approx(outcome.speed.tokens_per_s * flops / 1e12)
    assert outcome.speed.mfu == pytest.approx(outcome.speed.tflops_per_s / 0.5)
    assert outcome.environment["peak_bf16_tflops"] == {"value": 0.5, "source": "a datasheet"}


class FakeWatch:
    """Others use the device at the looks numbered `looks`."""

    def __init__(self, looks):
        self.looks, self.number = looks, -1

    def others(self):
        self.number += 1
        return ["process 7 python (3.0 GiB)"] if self.number in self.looks else []

    def mark(self):
        return device_state.Mark(time_us=0, slowed_ns={})

    def busy(self, since):
        return 0.5

    def state(self, since):
        assert since is not None
        return device_state.DeviceState(
            clocks_mhz={"sm": 1980 - self.number, "memory": 2619}, throttle_reasons=("power cap",), temperature_c=60,
            power_w=500.0 + self.number, other_processes=len(self.others()),
        )  # fmt: skip


def watched(monkeypatch, looks):
    monkeypatch.setattr(device_state, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(device_state, "watch", lambda device: FakeWatch(looks))


@pytest.mark.parametrize("kind", ["train", "speed"])
def test_a_device_that_others_use_is_not_timed_unless_told(chain, brief, monkeypatch, tmp_path, kind):
    from dataclasses import replace

    watched(monkeypatch, range(100))
    run = job(chain, kind=kind, steps=40)
    session = FakeSession([replace(run, attempt=3)])
    in_process.run(session, logs=tmp_path)
    (outcome,) = session.outcomes()
    assert isinstance(outcome, Failed)
    assert "process 7 python (3.0 GiB)" in outcome.error
    assert "`resources.allow_shared: true`" in outcome.error
    told = last(replace(run, shared_ok=True))
    assert told.speed is not None
    assert told.environment["device_state"]["other_processes"] == 1


def test_windows_that_others_disturb_are_dropped(chain, brief, monkeypatch):
    watched(monkeypatch, (3, 4, 5))
    outcome = last(job(chain, steps=60))
    assert len(outcome.speed.windows) == 7
    state = outcome.environment["device_state"]
    assert (state["other_processes"], state["throttle_reasons"]) == (0, ["power cap"])
    assert outcome.speed.busy == 0.5
    watched(monkeypatch, range(1, 100))
    outcome = last(job(chain, steps=60))
    assert (outcome.status, outcome.speed) == ("ok", None)
    assert any("speed isn't known" in note for note in outcome.notes)
    with pytest.raises(device_state.DeviceInUse):
        last(job(chain, kind="speed"))


def test_how_busy_a_device_was_is_not_told_of_windows_with_something_else_in_them(chain, monkeypatch):
    watched(monkeypatch, ())
    around = surroundings.Surroundings(job(chain, steps=60), torch.device("cpu"))
    clock = iter([0.0, 1.0, 1.0, 2.0, 2.0, 3.0])
    monkeypatch.setattr(surroundings.time, "perf_counter", lambda: next(clock))
    for seconds in (0.95, 0.6, 0.95):
        around.begin_window()
        assert around.alone(seconds)
    assert around._busy == [0.5, None, 0.5]
    around._busy[0] = 0.1
    assert around.summarise([(1, 1.0)] * 3).busy == pytest.approx(0.3)
    around._busy.append(0.7)
    assert around.summarise([(1, 1.0)] * 3).busy == pytest.approx(0.6), "of the windows that are the speed's"


@pytest.mark.parametrize(("looks", "ended", "beside"), [((), True, 10), (range(100), True, None), ((), False, None)])
def test_what_lies_beside_the_peak_is_read_on_a_card_that_nobody_else_uses(chain, monkeypatch, looks, ended, beside):
    watched(monkeypatch, looks)
    around = surroundings.Surroundings(job(chain, steps=60), torch.device("cpu"))
    around._device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30)
    monkeypatch.setattr(measuring, "peak_memory_bytes", lambda device: 35)
    monkeypatch.setattr(between_jobs, "clear_up", lambda device, ended: 0)
    around.close(ended=ended)
    assert (around.peak_memory_bytes, around.beside_memory_bytes) == (35, beside)


def test_a_loaded_cpu_is_noted(chain, brief, monkeypatch):
    monkeypatch.setattr(measuring.OtherLoad, "cores", lambda self: 1.25)
    assert "other processes kept 1.2 CPU cores busy while the trial ran" in last(job(chain, steps=1)).notes
    assert last(job(chain, kind="speed")).environment["notes"]


def test_an_embedded_corpus_is_opened_once_and_a_folder_each_time(chain, monkeypatch):
    opened = []

    def opens(name, path, vocab_size):
        opened.append(name)
        return object()

    monkeypatch.setattr(between_jobs, "open_data", opens)
    between_jobs._embedded.cache_clear()
    for _ in range(2):
        between_jobs.data_of("python-stdlib", None, 256)
        between_jobs.data_of("mine", str(chain), 256)
    between_jobs._embedded.cache_clear()
    assert opened == ["python-stdlib", "mine", "mine"]
