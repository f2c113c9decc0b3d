"""What MLflow should hold for a ledger, without MLflow."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ledger_lines import as_line

from sweeper.ledger.lines import event_record
from sweeper.tracking.projection import MAX_PARAM, Dataset, Projection, milliseconds, study_params, trial_params
from sweeper.tracking.store import artifact_location
from sweeper.tracking.tracker import default_uri
from sweeper.values.events import Event, Failed, Rung, Speed, SpeedSummary
from sweeper.values.records import SCHEMA, Job
from tests.fakes import make_final, make_job

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def asked(job: Job, *, seconds: float) -> dict:
    return {"schema": SCHEMA, "type": "asked", **job.ids(), "attempt": job.attempt, "job": job.to_dict()} | {
        "time": at(seconds)
    }


def told(event: Event, *, seconds: float) -> dict:
    return {**event_record(event), "time": at(seconds)}


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def project(*records: dict, live: bool = True) -> Projection:
    projection = Projection(study="depth", profile="cpu")
    for record in records:
        projection.add(as_line(record), live=live)
    return projection


def test_a_trial_runs_from_asked_to_final() -> None:
    job = make_job(seed=1)
    trial = project(asked(job, seconds=0), told(make_final(job), seconds=100)).trials[job.trial_id]
    begin = milliseconds(at(0))
    assert (trial.status, trial.start_ms, trial.end_ms) == ("FINISHED", begin, begin + 100_000)
    assert trial.name == "d96 L2 f352 · seed 1"
    assert trial.tags["sweeper.status"] == "ok"
    assert trial.tags["sweeper.device"] == "cpu"
    assert trial.tags["sweeper.version.torch"] == "2.13.0"
    curve = [(p.step, p.value, p.time_ms - begin) for p in trial.points if p.key == "train_loss"]
    assert curve == [(1024, 5.5, 1000), (51200, 2.5, 50_000), (102400, 1.6, 100_000)]
    figures = {p.key: p.value for p in trial.points if p.key != "train_loss"}
    assert figures["val_loss"] == pytest.approx(1.51)
    assert figures["tokens_per_s_low"] == 9e4
    assert figures["seconds.train"] == 1.0
    assert figures["peak_memory_bytes"] == 2**28


def test_params_are_shape_recipe_counts_and_execution() -> None:
    params = trial_params(make_job(seed=3))
    assert params["n_layers"] == "2"
    assert params["tie_embeddings"] == "true"
    assert params["optimizer.lr"] == "0.002"
    assert params["optimizer.betas"] == "[0.9, 0.95]"
    # 2·(2·96·96 + 2·96·32 + 3·96·352 + 2·96) + 96 = 252,384 and 256·96 = 24,576
    assert (params["params.trunk"], params["params.total"]) == ("252384", "276960")
    assert (params["batch_size"], params["compile"], params["seed"]) == ("4", "false", "3")


@pytest.mark.parametrize(("live", "status"), [(True, "RUNNING"), (False, "KILLED")])
def test_a_trial_without_outcome_runs_only_while_its_driver_does(live: bool, status: str) -> None:
    job = make_job()
    projection = project(asked(job, seconds=0), told(Rung(job=job, tokens=1, loss=5.0), seconds=1), live=live)
    assert projection.trials[job.trial_id].status == status
    projection.end("KILLED", time_ms=7)
    assert projection.trials[job.trial_id].status == "KILLED"
    assert projection.parent.status == "KILLED"


def test_a_failed_trial_keeps_its_run_when_it_is_tried_again() -> None:
    first, second = make_job(), make_job(attempt=2)
    records = [asked(first, seconds=0), told(Failed(job=first, error="it died"), seconds=5)]
    failed = project(*records)
    assert failed.trials[first.trial_id].status == "FAILED"
    assert failed.trials[first.trial_id].tags["sweeper.error"] == "it died"
    again = project(*records, asked(second, seconds=10), told(make_final(second), seconds=20))
    assert list(again.trials) == [first.trial_id]
    assert again.trials[first.trial_id].status == "FINISHED"
    times = [p.time_ms - milliseconds(at(10)) for p in again.trials[first.trial_id].points if p.key == "train_loss"]
    assert min(times) >= 0
    counts = [(p.key, p.value) for p in again.parent.points]
    assert counts[:2] == [("trials.done", 0), ("trials.failed", 1)]
    assert counts[2:] == [("trials.done", 1), ("trials.failed", 0)]


def test_diverged_is_a_result() -> None:
    job = make_job()
    final = make_final(job, status="diverged", val_loss=None, val_bpb=None, curve=((10, None), (20, 3.0)))
    trial = project(asked(job, seconds=0), told(final, seconds=9)).trials[job.trial_id]
    assert trial.status == "FINISHED"
    assert trial.tags["sweeper.status"] == "diverged"
    assert [p.value for p in trial.points if p.key == "train_loss"] == [3.0]
    assert not {"val_loss", "val_bpb"} & {p.key for p in trial.points}


def test_probes_are_metrics_of_the_parent() -> None:
    job = Job(kind="speed", config=make_job().config, execution=make_job().execution)
    speed = SpeedSummary(tokens_per_s=1e4, low=9e3, high=1.1e4, windows=(1e4,), step_ms=2.0)
    outcome = Speed(job=job, status="ok", speed=speed, peak_memory_bytes=None, seconds={}, environment={})
    projection = project(asked(job, seconds=0), told(outcome, seconds=1))
    assert projection.trials == {}
    assert {p.key.removeprefix(f"probe.{job.probe_id}."): p.value for p in projection.parent.points} == {
        "tokens_per_s": 1e4, "tokens_per_s_low": 9e3, "tokens_per_s_high": 1.1e4, "step_ms": 2.0,
    }  # fmt: skip


def test_data_sets_are_known_from_the_asking_or_the_outcome() -> None:
    early, late = make_job(data="text"), make_job(seed=1)
    records = [
        asked(replace(early, data_fingerprint="f00"), seconds=0),
        asked(late, seconds=1),
        told(make_final(late), seconds=2),
    ]
    assert list(project(*records[:2]).datasets) == [Dataset(name="text", digest="f00")]
    assert list(project(*records, records[2]).datasets) == [
        Dataset(name="text", digest="f00"), Dataset(name="fake", digest="abc"),
    ]  # fmt: skip


def test_points_only_grow() -> None:
    """What was written of an earlier state is a beginning of the later one: so the difference is its end."""
    first, second = make_job(), make_job(seed=1)
    records = [
        asked(first, seconds=0),
        told(Rung(job=first, tokens=10, loss=5.0, tokens_per_s=3.0), seconds=1),
        told(make_final(first), seconds=2),
        asked(second, seconds=3),
        told(make_final(second), seconds=4),
    ]
    whole = project(*records)
    for count in range(1, len(records)):
        part = project(*records[:count], live=False)
        assert part.folder_id == whole.folder_id
        assert part.parent.points == whole.parent.points[: len(part.parent.points)]
        for trial_id, run in part.trials.items():
            assert run.points == whole.trials[trial_id].points[: len(run.points)]


def test_study_params_are_flat_and_short() -> None:
    params = study_params(
        {
            "name": "x",
            "question": "why?",
            "axes": {"n_layers": [1, 2]},
            "budget": {"params": {"target": 5, "min": None}},
            "profiles": {"cpu": {}},
            "trial": {"data": "y" * 1000},
        }
    )
    assert params.keys() == {"name", "axes.n_layers", "budget.params.target", "trial.data"}
    assert params["axes.n_layers"] == "[1, 2]"
    assert len(params["trial.data"]) == MAX_PARAM


def test_the_store_lies_beside_the_runs_unless_said_otherwise(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    uri = default_uri(Path("runs"))
    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert artifact_location(uri, "depth", runs=Path("x")) == f"file://{tmp_path}/runs/mlartifacts/depth"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert default_uri(Path("runs")) == "http://127.0.0.1:5000"
    assert artifact_location("http://127.0.0.1:5000", "depth", runs=Path("x")) is None
    postgres = "postgresql+psycopg2://me@there/store"
    assert artifact_location(postgres, "depth", runs=Path("x")) == f"file://{tmp_path}/x/mlartifacts/depth"
