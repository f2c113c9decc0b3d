"""A real `mlflow server` is killed while a study runs, and answers get lost: the study goes on, and nothing is missing.

What MLflow should hold is taken from the ledger's lines here, not from sweeper's own projection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ledger_lines import plain_lines
from mlflow_places import Server, bad_line, contents, running_server

from sweeper.commands.main import main
from sweeper.ledger.file import Ledger
from sweeper.running.session import Session
from sweeper.tracking import sync
from sweeper.tracking.store_uri import sqlite_uri
from sweeper.tracking.tracker import Tracker
from sweeper.values.events import Rung
from sweeper.values.records import Job
from sweeper.values.run_folder import RunFolder
from tests.fakes import FakeSession, make_final, make_job

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, with SQLAlchemy 2.1

STUDY = """
name: depth
question: Deep or wide?
model: {vocab_size: 256, d_model: 96, head_dim: 32, n_kv_heads: 1, ffn_hidden: 352}
axes: {n_layers: [2]}
trial: {data: python-stdlib, tokens: 102400, seq_len: 256, tokens_per_step: 1024, batch_size: 4, precision: fp32}
"""
RUNGS = 4


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder.of(out=tmp_path / "runs", study="depth", profile="full")
    folder.root.mkdir(parents=True)
    folder.study.write_text(STUDY)
    folder.frontier.write_text('{"answer": ["Of 1 shape,", "one."]}')
    return folder


def pretend(
    folder: RunFolder, uri: str, *, trials: int, seconds: float, at: Callable[[int], None], timeout: float
) -> tuple[str | None, float]:
    """A study of `trials` that take so many seconds each; `at` is called with a trial's number when it begins.

    The tracker's warning, and how many seconds of the study were not its trials'.
    """
    jobs = [make_job(seed) for seed in range(trials)]
    began = time.monotonic()
    tracker = Tracker(uri=uri, experiment="depth", folder=folder, profile="full", description="Deep or wide?")
    with tracker, Ledger(folder.ledger, lock=folder.lock) as ledger:
        assert tracker.drain(240)  # as a study does before its first trial
        began = time.monotonic()
        session = Session(FakeSession(jobs), ledger, observers=[tracker.observe])  # type: ignore[arg-type]
        while isinstance(job := session.ask(), Job):
            at(job.seed)
            for rung in range(RUNGS):
                time.sleep(seconds / RUNGS)
                session.tell(Rung(job=job, tokens=1024 * (rung + 1), loss=5.0 - rung, tokens_per_s=1e5 + rung))
            session.tell(make_final(job))
        took = time.monotonic() - began
        tracker.log_artifacts()
        tracker.close(timeout=timeout)
    return tracker.warning, took - trials * seconds


def milliseconds(time_: str) -> int:
    return round(datetime.fromisoformat(time_).timestamp() * 1000)


def check_all_is_there_once(found: dict[str, Any], records: Sequence[dict[str, Any]], *, trials: int) -> int:
    """How many points there are."""
    assert len(found) == trials + 1
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    points = 0
    for final in (record for record in records if record["type"] == "final"):
        trial_id = final["trial_id"]
        own = [record for record in records if record.get("trial_id") == trial_id]
        rungs = [record for record in own if record["type"] == "rung"]
        asked, ended, metrics = milliseconds(own[0]["time"]), milliseconds(final["time"]), found[trial_id]["metrics"]
        assert metrics["rung_loss"] == [(r["tokens"], r["loss"], milliseconds(r["time"])) for r in rungs]
        assert len(metrics["rung_tokens_per_s"]) == len(rungs) == RUNGS
        assert metrics["val_loss"] == [(final["tokens"], final["val_loss"], ended)]
        assert [(step, loss) for step, loss, _ in metrics["train_loss"]] == [tuple(pair) for pair in final["curve"]]
        assert metrics["tokens_per_s"] == [(final["tokens"], final["speed"]["tokens_per_s"], ended)]
        assert found[trial_id]["times"] == (asked, ended)
        assert found[trial_id]["tags"]["sweeper.status"] == "ok"
        assert found[trial_id]["params"]["seed"] == str(final["seed"])
        points += sum(len(history) for history in metrics.values())
    parent = found[""]
    assert [done for _, done, _ in parent["metrics"]["trials.done"]] == list(range(1, trials + 1))
    assert parent["tags"]["mlflow.note.content"] == "Deep or wide?\n\nOf 1 shape, one."
    assert parent["artifacts"].keys() == {"study.yaml", "frontier.json"}
    assert [one[:2] for one in parent["datasets"]] == [("fake", "abc")]
    return points + sum(len(history) for history in parent["metrics"].values())


def check_a_killed_server(folder: RunFolder, home: Path, *, trials: int, seconds: float) -> None:
    """The server is killed after a third of the trials and started again after two thirds; answers get lost.

    A study that waited for the server would wait for ever, as only its trials bring it back.
    """
    store = sqlite_uri(home / "server.db")
    with running_server(home, backend=store) as server, bad_line(server.port, lose_every=7) as (uri, lost):
        moments: list[float] = []

        def at(number: int) -> None:
            if number in (trials // 3, 2 * trials // 3):
                (server.start if moments else server.kill)()
                moments.append(time.monotonic())

        warning, added = pretend(folder, uri, trials=trials, seconds=seconds, at=at, timeout=600)
        caught_up = time.monotonic()
        assert warning is None
        found = contents(store, "depth", by=server.url)
    points = check_all_is_there_once(found, plain_lines(folder.ledger), trials=trials)
    assert {path.split("/")[-1] for path in lost} >= {"create", "log-batch"}, "of runs and of points"
    killed, back = moments
    print(
        f"{trials} trials of {seconds:g} s, server away for {back - killed:.0f} s: {points} points once each, "
        f"{len(lost)} answers lost, {added:.2f} s between trials (starting the server too), "
        f"caught up {caught_up - back:.1f} s after the server was back"
    )


def test_a_server_that_is_killed_and_started_again_has_everything_once(folder: RunFolder, tmp_path: Path) -> None:
    check_a_killed_server(folder, tmp_path, trials=12, seconds=0.6)


@pytest.mark.campaign
def test_a_server_that_stays_away_is_said_and_sync_completes_it(
    folder: RunFolder, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sync, "PATIENCE", 2.0)
    store = sqlite_uri(tmp_path / "server.db")
    server = Server(tmp_path, backend=store)
    warning, _ = pretend(folder, server.url, trials=3, seconds=0.2, at=lambda number: None, timeout=3)
    assert warning is not None
    assert "`sweeper sync`" in warning
    assert "\n" not in warning
    assert main(["sync", str(folder.root), "--to", server.url]) == 1
    assert f"{server.url} can't be written" in capsys.readouterr().err
    server.start()
    try:
        for _ in range(2):
            assert main(["sync", str(folder.root), "--to", server.url]) == 0
        found = contents(store, "depth", by=server.url)
    finally:
        server.kill()
    check_all_is_there_once(found, plain_lines(folder.ledger), trials=3)
