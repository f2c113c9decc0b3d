"""Stores that MLflow will never take are refused before anything trains; those that are away are not."""

import json
import logging
import sqlite3
import warnings

import pytest
from command_cases import make_place

from sweeper.commands.main import main
from sweeper.tracking.store import NO_RETRIES, SETTINGS, Writer, may_come_back, unwritable
from sweeper.tracking.tracker import Tracker
from sweeper.values.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """What the process that writes sets for itself, it sets for itself here too."""
    for name in (*SETTINGS, *NO_RETRIES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setattr("gc.set_threshold", lambda *counts: None)
    logger = logging.getLogger("mlflow")
    level = logger.level
    with warnings.catch_warnings():
        yield
    logger.setLevel(level)


def fault(uri, folder):
    """What opening the store raises, None where it opens."""
    try:
        Writer(uri=uri, experiment="tiny", folder=RunFolder(root=folder), profile="full", description="").open()
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize(
    "uri",
    [
        "file:./mlruns",
        "./mlruns",
        "localhost:5000",
        "htp://localhost:5000",
        "http://",
        "http://host:notaport",
        "s3://bucket/runs",
        "sqlite:///{folder}/file/mlflow.db",
        "sqlite:///{folder}/file",
        "postgresql+nodriver://u@127.0.0.1:9/x",
    ],
)
def test_what_mlflow_never_takes(tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a database, and not a folder" * 100)
    error = fault(uri.format(folder=tmp_path), tmp_path)
    assert error is not None
    assert not may_come_back(error)
    assert not unwritable(error)


def test_it_is_said_before_a_server_is_started_and_by_the_doctor(tmp_path, monkeypatch, capsys):
    make_place(tmp_path, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    assert main(["ui"]) == 2
    assert "MLflow can't keep runs in file:./mlruns (" in capsys.readouterr().err
    assert main(["doctor", "--json"]) == 0
    (found,) = [one for one in json.loads(capsys.readouterr().out)["findings"] if one["name"] == "MLflow"]
    assert found["state"] == "wrong"
    assert "store file:./mlruns: MlflowException" in found["found"]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "https://example.invalid/mlflow"])
def test_a_server_is_not_asked_when_it_is_named(tmp_path, uri):
    assert fault(uri, tmp_path) is None


def test_a_database_server_that_is_away_may_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    error = fault("postgresql+psycopg2://u@127.0.0.1:9/x", tmp_path)
    assert error is not None
    assert may_come_back(error)


@pytest.mark.parametrize(
    ("words", "comes_back", "is_unwritable"),
    [
        ("database is locked", True, False),
        ("database or disk is full", True, True),
        ("disk I/O error", True, True),
        ("unable to open database file", False, False),
    ],
)
def test_what_sqlite_says(words, comes_back, is_unwritable):
    from sqlalchemy.exc import OperationalError

    wrapped = RuntimeError("of MLflow")
    wrapped.__cause__ = OperationalError("INSERT", {}, sqlite3.OperationalError(words))
    assert (may_come_back(wrapped), unwritable(wrapped)) == (comes_back, is_unwritable)


def test_a_full_disk_is_told_apart():
    assert unwritable(OSError(28, "No space left on device"))
    assert not unwritable(ConnectionRefusedError(111, "Connection refused"))


def test_the_run_is_refused_before_anything_trains(tmp_path, monkeypatch, capsys):
    """By the process that writes, whatever else is patched."""
    real = Tracker
    make_place(tmp_path, monkeypatch)
    monkeypatch.setattr("sweeper.tracking.tracker.Tracker", real)
    monkeypatch.setattr("sweeper.tracking.sync.Tracker", real)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    assert main(["run", "tiny.yaml", "--runner", "in-process"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("MLflow can't keep runs in file:./mlruns (")
    assert "sqlite:///mlflow.db" in said.err
    assert (tmp_path / "runs" / "tiny" / "full" / "ledger.jsonl").read_text() == ""
    assert main(["sync", "runs/first/full", "--to", "localhost:5000"]) == 2
    assert "MLflow can't keep runs in localhost:5000" in capsys.readouterr().err
