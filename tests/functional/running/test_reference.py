"""The reference config in the process that runs jobs: when it is measured, where it is told, what it leaves alone."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_study import finals, folder, ledger, write_study
from trial_jobs import job, write_chain

from sweeper.commands.main import main
from sweeper.planning.resolving import steps_in
from sweeper.runners.device import measuring
from sweeper.runners.device.device_state import DeviceInUse
from sweeper.runners.training import reference
from sweeper.runners.training.training import Training
from sweeper.runners.training.trial import run_job
from sweeper.values.records import Job

EVERY = 900.0
CLOCKS = {"set_up", "compile", "train", "evaluate", "branches", "timing"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder)
    return folder


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Windows that are taken for the speed alone last 10 ms; nothing is noted of what else the machine does."""
    monkeypatch.setattr("sweeper.runners.training.step_times.PROBE_WINDOW_SECONDS", 0.01)
    monkeypatch.setattr(measuring.OtherLoad, "cores", lambda self: 0.0)


@pytest.fixture
def clock(monkeypatch):
    """The clock by which the reference is due, at 0; nothing has been measured by this process yet."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(reference, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.setattr(reference, "_logs", {})
    return now


@pytest.fixture
def run(chain):
    """A training job of 20 steps that brings a reference along."""
    measured = job(chain, kind="speed", shape={"d_model": 48})
    return replace(job(chain, steps=20), reference=measured, reference_every_s=EVERY)


def last(run):
    *_, outcome = run_job(run)
    return outcome


def notes(outcome):
    return list(outcome.notes) if outcome.type == "final" else outcome.environment["notes"]


def plant(monkeypatch, happens):
    """Have `happens()` in the third step of jobs of the reference's width."""
    real = Training.step

    def step(self):
        real(self)
        if self.job.config.shape.d_model == 48 and self.step_index == 3:
            happens()

    monkeypatch.setattr(Training, "step", step)


def test_it_is_measured_when_it_is_due(clock, run):
    """First when a third of the interval has passed since the process' first job, then each interval."""
    due = []

    def fail(job):
        assert job == run.reference
        due.append(clock.seconds)
        raise ValueError("planted")

    for at in (0, 299, 300, 301, 900, 1199, 1200, 1201, 8100):
        clock.seconds = at
        reference.look(run, fail)
    assert due == [300, 1200, 8100]
    clock.seconds = 10**6
    reference.look(replace(run, reference=None), fail)
    other = replace(run, reference=replace(run.reference, config=run.config))
    reference.look(other, fail)
    assert due == [300, 1200, 8100], "no reference; another one, which this process meets for the first time"


@pytest.mark.parametrize("kind", ["train", "speed"])
def test_the_job_is_as_without_it(clock, run, kind):
    run = replace(run, kind=kind)
    plain = last(replace(run, reference=None))
    last(run)
    clock.seconds = EVERY
    outcome = last(run)
    (told,) = outcome.environment["reference"]
    assert told["probe_id"] == run.reference.probe_id != outcome.job.probe_id
    assert told["low"] <= told["tokens_per_s"] <= told["high"]
    assert len(told["windows"]) >= 3
    assert (outcome.job.job_id, outcome.job.config) == (plain.job.job_id, plain.job.config)
    if kind == "train":
        assert (outcome.val_loss, outcome.curve) == (plain.val_loss, plain.curve)
    assert notes(outcome) == []
    assert outcome.environment["allocated_bytes_after"] <= plain.environment["allocated_bytes_after"] + 2**10
    assert set(plain.seconds) == CLOCKS
    assert set(outcome.seconds) == {*CLOCKS, "reference"}


def test_its_seconds_are_on_none_of_the_jobs_clocks(monkeypatch, clock, run):
    """By a clock on which the reference's third step takes an hour."""
    plant(monkeypatch, lambda: setattr(clock, "seconds", clock.seconds + 3600))
    last(run)
    clock.seconds = EVERY
    outcome = last(run)
    assert outcome.seconds["reference"] == 3600
    assert sum(outcome.seconds[name] for name in CLOCKS) < 1800
    assert clock.seconds + EVERY == reference._logs["cpu", run.reference.probe_id].due, "an interval from its end on"


def out_of_memory():
    raise torch.OutOfMemoryError("planted")


def in_use():
    raise DeviceInUse("others")


def breaks():
    raise ValueError("planted")


@pytest.mark.parametrize("kind", ["train", "speed"])
@pytest.mark.parametrize(
    ("happens", "why"),
    [(out_of_memory, "out of memory"), (in_use, "other processes use the device"), (breaks, "ValueError")],
)
def test_what_fails_in_it_fails_no_job(monkeypatch, clock, run, happens, why, kind):
    run = replace(run, kind=kind)
    last(run)
    clock.seconds = EVERY
    with monkeypatch.context() as patch:
        plant(patch, happens)
        outcome, after = last(run), last(run)
    assert (outcome.status, outcome.speed is not None) == ("ok", True)
    assert notes(outcome) == [f"the reference config couldn't be measured: {why}"]
    assert "reference" not in outcome.environment
    assert outcome.seconds["reference"] == 0
    assert notes(after) == [], "it is tried again when it's due again, not before each job"


def test_what_a_job_without_a_record_measured_is_told_by_the_next(clock, run):
    last(run)
    for hours in (1, 2):
        clock.seconds = 3600 * hours
        events = run_job(run)
        assert next(events).type == "rung"
        events.close()  # told to stop
    outcome = last(run)
    assert len(outcome.environment["reference"]) == 2
    assert "reference" not in outcome.seconds, "they weren't taken before this very job"
    assert "reference" not in last(run).environment


def test_it_travels_with_the_job(run):
    again = Job.from_dict(json.loads(json.dumps(run.to_dict())))
    assert again == run
    assert (again.trial_id, again.probe_id) == (replace(run, reference=None).trial_id, run.probe_id)


def run_tiny(place, monkeypatch, *overrides):
    monkeypatch.chdir(place)
    for name in ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(name, "1")
    flags = [part for override in overrides for part in ("--set", override)]
    assert main(["run", "tiny.yaml", "--runner", "in-process", "--yes", *flags]) == 0


def test_a_study_measures_it_and_says_what_came_out(place, monkeypatch, capsys):
    """Minutes are resolved from the study's own probes, and ids are those of a study without a reference."""
    write_study(place, edit=lambda text: text.replace("tokens: 5k", "minutes: 0.005").replace("[32, 48]", "[32]"))
    run_tiny(place, monkeypatch, "resources.reference_every=0.1s")
    capsys.readouterr()
    records = ledger(place)
    outcomes = [record for record in records if record["type"] in ("speed", "final")]
    told = [one for record in outcomes for one in record["environment"].get("reference", ())]
    assert len(outcomes) == 2 + 4
    assert "reference" not in outcomes[0]["environment"]
    assert len(told) >= 4
    smallest = min(outcomes, key=lambda record: record["params"]["total"])
    assert {one["probe_id"] for one in told} == {smallest["probe_id"]}, "the lower median of two"
    for record in outcomes:
        assert ("reference" in record["seconds"]) == ("reference" in record["environment"])
    speeds = {record["probe_id"]: record["speed"]["tokens_per_s"] for record in outcomes if record["type"] == "speed"}
    for record in finals(place):
        steps = steps_in(0.005, speeds[record["probe_id"]], 256)
        assert (record["resolved"]["steps"], record["tokens"]) == (steps, steps * 256)
    (frontier,) = json.loads((folder(place) / "frontier.json").read_text())["frontiers"]
    assert frontier["drift"]["measurements"] == len(told)
    assert main(["report", "runs/tiny/full", "--details"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"the reference config was measured {len(told)} times on 1 device" in said
    assert "the reference config was measured" in (folder(place) / "report.html").read_text()
    assert all(record["job"]["reference"] is None for record in records if record["type"] == "asked")

    ids = {record.get("trial_id") or record["probe_id"] for record in outcomes}
    run_tiny(place, monkeypatch, "resources.reference_every=off")
    assert "6 kept, 0 to do" in capsys.readouterr().out
    assert {record.get("trial_id") or record["probe_id"] for record in ledger(place) if "probe_id" in record} == ids
