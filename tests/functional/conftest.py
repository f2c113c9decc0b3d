"""What tests of whole runs share."""

import shutil

import pytest
from tiny_study import write_text

from sweeper.tracking.store_uri import sqlite_uri
from sweeper.tracking.tracker import Tracker
from sweeper.values.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _brief_windows(monkeypatch):
    """What is timed for the speed alone takes a tenth of a second, not two and a half."""
    monkeypatch.setattr("sweeper.runners.training.step_times.PROBE_WINDOW_SECONDS", 0.02)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """MLflow's database without runs; making one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    uri = sqlite_uri(folder / "mlflow.db")
    where = RunFolder(root=folder)
    with Tracker(uri=uri, experiment="empty", folder=where, profile="full", description="") as one:
        one.close(timeout=240.0)
        assert one.warning is None
    return folder / "mlflow.db"


@pytest.fixture
def place(tmp_path, empty_store):
    """A folder with text to train on, for `tiny_study.write_study`, and with a store for its runs."""
    write_text(tmp_path / "text")
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return tmp_path
