"""The ledger's projection in a real SQLite store of MLflow."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow_places
import psutil
import pytest
from ledger_lines import as_line, record_of

from sweeper.ledger.file import Ledger, read
from sweeper.running.session import Session
from sweeper.tracking.store import WRITTEN, Writer
from sweeper.tracking.store_uri import sqlite_uri
from sweeper.tracking.tracker import Tracker
from sweeper.values.events import Failed, Rung
from sweeper.values.records import Job
from sweeper.values.run_folder import RunFolder
from tests.fakes import FakeSession, make_final, make_job

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, with SQLAlchemy 2.1

ROOT = Path(__file__).parents[3]
LONG = 240.0
FOR_EVER = 1e6


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return sqlite_uri(tmp_path / "runs" / "mlflow.db")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder.of(out=tmp_path / "runs", study="depth", profile="cpu")
    folder.root.mkdir(parents=True)
    folder.study.write_text("name: depth\nquestion: deep or wide?\nbudget: {params: {target: 500000}}\n")
    folder.plan.write_text("{}")
    return folder


def tracker(uri: str, folder: RunFolder) -> Tracker:
    return Tracker(uri=uri, experiment="depth", folder=folder, profile="cpu", description="deep or wide?")


def run_jobs(folder: RunFolder, jobs: list[Job], *observers: Callable[[Any], None], until: Job | None = None) -> None:
    """Ask for `jobs` and tell their outcomes; leaves `until` asked, as a killed driver does."""
    with Ledger(folder.ledger, lock=folder.lock) as ledger:
        session = Session(FakeSession(jobs), ledger, observers=observers)  # type: ignore[arg-type]
        while isinstance(job := session.ask(), Job):
            session.tell(Rung(job=job, tokens=1024, loss=5.0, tokens_per_s=1e5))
            if job == until:
                return
            session.tell(make_final(job))


def contents(uri: str) -> dict[str, Any]:
    return mlflow_places.contents(uri, "depth")


def test_a_study_is_one_parent_with_a_child_per_trial(uri: str, folder: RunFolder, tmp_path: Path, capfd) -> None:
    jobs = [make_job(seed) for seed in range(3)]
    with tracker(uri, folder) as one:
        one.catch_up([])
        run_jobs(folder, jobs, one.observe)
        one.log_artifacts()
        one.close(timeout=LONG)
        assert one.warning is None
    assert capfd.readouterr() == ("", "")
    found = contents(uri)
    assert found.keys() == {"", *(job.trial_id for job in jobs)}
    parent, child = found[""], found[jobs[1].trial_id]
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    assert child["tags"]["mlflow.parentRunId"] == parent["id"]
    assert child["name"] == "d96 L2 f352 · seed 1"
    assert child["params"]["params.total"] == "276960"
    assert [step for step, *_ in child["metrics"]["train_loss"]] == [1024, 51200, 102400]
    assert child["metrics"]["val_loss"][0][:2] == (102400, 1.51)
    assert child["metrics"]["rung_loss"][0][:2] == (1024, 5.0)
    assert parent["tags"]["mlflow.note.content"] == "deep or wide?"
    assert parent["params"]["budget.params.target"] == "500000"
    assert [value for _, value, _ in parent["metrics"]["trials.done"]] == [1, 2, 3]
    assert parent["artifacts"].keys() == {"study.yaml", "plan.json"}
    assert (tmp_path / "runs" / "mlartifacts" / "depth" / parent["id"] / "artifacts" / "study.yaml").exists()


def test_projecting_twice_changes_nothing(uri: str, folder: RunFolder) -> None:
    from mlflow import MlflowClient

    with tracker(uri, folder) as one:
        run_jobs(folder, [make_job(seed) for seed in range(2)], one.observe)
        one.close(timeout=LONG)
    before = contents(uri)
    client = MlflowClient(tracking_uri=uri)
    for run in before.values():  # as after a kill between the points, the count of them, and the end
        client.update_run(run["id"], status="RUNNING")
        assert WRITTEN not in run["tags"], "an ended run needs none"
    for _ in range(2):
        with tracker(uri, folder) as one:
            one.catch_up(read(folder.ledger))
            one.close(timeout=LONG)
            assert one.warning is None
    after = contents(uri)
    before[""].pop("times")  # the parent ends when the last run of the study does
    after[""].pop("times")
    assert after == before


def test_an_interrupted_trial_is_killed_and_goes_on_in_its_own_run(uri: str, folder: RunFolder) -> None:
    first, second = make_job(0), make_job(1)
    dead = tracker(uri, folder)
    run_jobs(folder, [first, second], dead.observe, until=second)
    assert dead.drain(LONG)
    dead._process.kill()  # with its driver
    dead.close(timeout=1)
    killed = contents(uri)
    assert (killed[""]["status"], killed[second.trial_id]["status"]) == ("RUNNING", "RUNNING")
    with open(folder.ledger, "a") as file:
        file.write('{"type": "final", "torn')
    with tracker(uri, folder) as one:
        one.catch_up(read(folder.ledger))
        assert one.drain(LONG)
        assert contents(uri)[second.trial_id]["status"] == "KILLED"
        run_jobs(folder, [second], one.observe)
        one.close(timeout=LONG)
    after = contents(uri)
    assert {trial: run["id"] for trial, run in after.items()} == {trial: run["id"] for trial, run in killed.items()}
    assert {run["status"] for run in after.values()} == {"FINISHED"}
    assert after[first.trial_id] == killed[first.trial_id]


def test_ctrl_c_leaves_nothing_running(uri: str, folder: RunFolder) -> None:
    job = make_job()

    def interrupted() -> None:
        with tracker(uri, folder) as one:
            run_jobs(folder, [job], one.observe, until=job)
            assert one.drain(LONG)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {run["status"] for run in contents(uri).values()} == {"KILLED"}


def test_a_moved_folder_keeps_its_runs(uri: str, folder: RunFolder, tmp_path: Path) -> None:
    with tracker(uri, folder) as one:
        run_jobs(folder, [make_job(0)], one.observe)
        one.close(timeout=LONG)
    before = contents(uri)
    moved = RunFolder(root=tmp_path / "elsewhere")
    folder.root.rename(moved.root)
    with tracker(uri, moved) as one:
        one.catch_up(read(moved.ledger))
        one.close(timeout=LONG)
    after = contents(uri)
    assert {key: run["id"] for key, run in after.items()} == {key: run["id"] for key, run in before.items()}
    assert after[""]["tags"]["sweeper.folder"] == str(moved.root)


def test_another_micro_batch_or_a_failure_does_not_block_a_trial(uri: str, folder: RunFolder) -> None:
    job = make_job()
    bigger = Job.from_dict({**job.to_dict(), "execution": {"batch_size": 8, "compile": False}, "attempt": 2})
    with Ledger(folder.ledger, lock=folder.lock) as ledger, tracker(uri, folder) as one:
        session = Session(FakeSession([job, bigger]), ledger, observers=[one.observe])  # type: ignore[arg-type]
        session.ask()
        session.tell(Failed(job=job, error="it died", traceback="…"))
        assert one.drain(LONG)
        assert contents(uri)[job.trial_id]["status"] == "FAILED"
        session.ask()
        session.tell(make_final(bigger))
        one.close(timeout=LONG)
        assert one.warning is None
    assert contents(uri)[job.trial_id]["status"] == "FINISHED"


def test_a_store_that_is_away_stops_nothing_and_is_said(tmp_path: Path, folder: RunFolder) -> None:
    (tmp_path / "file").write_text("not a folder")
    with tracker(sqlite_uri(tmp_path / "file" / "mlflow.db"), folder) as one:
        one._process.send_signal(signal.SIGSTOP)  # whoever waits for it now waits for ever
        run_jobs(folder, [make_job(seed) for seed in range(200)], one.observe)
        one.log_artifacts()
        one._process.send_signal(signal.SIGCONT)
        one.close(timeout=3)
    assert one.warning is not None
    assert "catches up" in one.warning
    assert "\n" not in one.warning


def test_a_store_that_comes_back_gets_everything(empty_store: Path, folder: RunFolder, tmp_path: Path) -> None:
    home, ready = tmp_path / "store", tmp_path / "ready"
    (tmp_path / "file").write_text("not a folder")
    home.symlink_to(tmp_path / "file")
    ready.mkdir()
    shutil.copy(empty_store, ready / "mlflow.db")
    with tracker(sqlite_uri(home / "mlflow.db"), folder) as one:
        run_jobs(folder, [make_job(0)], one.observe)
        assert not one.drain(2)
        (tmp_path / "link").symlink_to(ready)
        (tmp_path / "link").replace(home)
        one.close(timeout=LONG)
        assert one.warning is None
    assert contents(sqlite_uri(home / "mlflow.db"))[make_job(0).trial_id]["status"] == "FINISHED"


def test_a_locked_store_is_waited_for(uri: str, folder: RunFolder, tmp_path: Path) -> None:
    with tracker(uri, folder) as one:
        lock = sqlite3.connect(tmp_path / "runs" / "mlflow.db", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        run_jobs(folder, [make_job(0)], one.observe)
        assert not one.drain(1)
        lock.execute("COMMIT")
        lock.close()
        one.close(timeout=LONG)
        assert one.warning is None
    assert len(contents(uri)) == 2


def test_a_writing_process_that_dies_is_said_and_caught_up(uri: str, folder: RunFolder) -> None:
    with tracker(uri, folder) as one:
        run_jobs(folder, [make_job(0)], one.observe)
        assert one.drain(LONG)
        one._process.kill()
        one._process.wait()
        run_jobs(folder, [make_job(1)], one.observe)
        one.close(timeout=FOR_EVER)  # and yet there is nothing to wait for
    assert one.warning is not None
    assert "catches up" in one.warning
    assert len(contents(uri)) == 2
    with tracker(uri, folder) as one:
        one.catch_up(read(folder.ledger))
        one.close(timeout=LONG)
        assert one.warning is None
    assert contents(uri)[make_job(1).trial_id]["status"] == "FINISHED"


def written(uri: str, folder: RunFolder) -> Writer:
    """A writer that has just brought the store to what the ledger says."""
    writer = Writer(uri=uri, experiment="depth", folder=folder, profile="cpu", description="deep or wide?")
    writer.add(read(folder.ledger), live=False)
    writer.end("FINISHED", time_ms=round(time.time() * 1000))
    writer.write()
    return writer


def test_runs_that_were_made_twice_are_one_again(uri: str, folder: RunFolder) -> None:
    """As when a server goes on with a call that the client has given up."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    run_jobs(folder, [make_job(0), make_job(1)])
    written(uri, folder)
    before, client = contents(uri), MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("depth").experiment_id
    parent, trial = before[""], before[make_job(1).trial_id]
    for twice, tags in ((parent, ("sweeper.folder_id",)), (trial, ("sweeper.trial_id", "mlflow.parentRunId"))):
        client.create_run(experiment, start_time=2**41, tags={tag: twice["tags"][tag] for tag in tags})
    written(uri, folder)
    assert {run.info.run_id for run in client.search_runs([experiment])} == {run["id"] for run in before.values()}
    assert len(client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)) == 2


def test_runs_are_named_as_the_report_names_configs(uri: str, folder: RunFolder) -> None:
    """By what tells the planned configs apart; where that changes, names follow."""
    deep = make_job(0, n_layers=4)
    run_jobs(folder, [make_job(1), deep])
    written(uri, folder)
    assert contents(uri)[deep.trial_id]["name"] == "d96 L4 f352 · seed 0"
    folder.plan.write_text(json.dumps({"configs": [make_job().config.to_dict(), deep.config.to_dict()]}))
    written(uri, folder)
    found = contents(uri)
    assert {run["name"] for run in found.values()} == {"depth · cpu", "L2 · seed 1", "L4 · seed 0"}
    assert found[deep.trial_id]["tags"]["mlflow.runName"] == "L4 · seed 0"


def test_the_answer_comes_with_the_artifacts(uri: str, folder: RunFolder) -> None:
    run_jobs(folder, [make_job(0)])
    writer = written(uri, folder)
    assert contents(uri)[""]["tags"]["mlflow.note.content"] == "deep or wide?"
    folder.frontier.write_text('{"answer": ["One is on the frontier:", "L2."]}')
    writer.want_artifacts()
    writer.write()
    parent = contents(uri)[""]
    assert parent["tags"]["mlflow.note.content"] == "deep or wide?\n\nOne is on the frontier: L2."
    assert "frontier.json" in parent["artifacts"]
    assert parent["datasets"] == [("fake", "abc", '{"data": "fake"}', ("mlflow.data.context", "training"))]


DRIVER = """
import sys, time
from pathlib import Path
from sweeper.values.run_folder import RunFolder
from sweeper.tracking.tracker import Tracker

folder = RunFolder(root=Path(sys.argv[2]))
one = Tracker(uri=sys.argv[1], experiment="depth", folder=folder, profile="cpu", description="")
print(one._process.pid, flush=True)
time.sleep(600)
"""


def test_the_writing_process_ends_with_a_driver_that_is_killed(uri: str, folder: RunFolder) -> None:
    program = [sys.executable, "-c", DRIVER, uri, str(folder.root)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT) as driver:
        assert driver.stdout is not None
        writer = psutil.Process(int(driver.stdout.readline()))
        assert writer.is_running()
        driver.kill()
    psutil.wait_procs([writer])


def test_observing_goes_on_while_draining(uri: str, folder: RunFolder) -> None:
    jobs = [make_job(seed) for seed in range(12)]
    with tracker(uri, folder) as one:
        driver = threading.Thread(target=run_jobs, args=(folder, jobs, one.observe))
        driver.start()
        while driver.is_alive():
            one.drain(0.05)
        driver.join()
        one.close(timeout=LONG)
        assert one.warning is None
    found = contents(uri)
    assert len(found) == 13
    assert all(len(run["metrics"]["train_loss"]) == 3 for trial, run in found.items() if trial)


def test_a_record_that_is_no_record_is_left_out_and_said(uri: str, folder: RunFolder) -> None:
    with tracker(uri, folder) as one:
        one.observe(as_line(record_of("final", time="yesterday")))
        run_jobs(folder, [make_job(0)], one.observe)
        one.close(timeout=LONG)
    assert one.warning is not None
    assert contents(uri)[make_job(0).trial_id]["status"] == "FINISHED"
