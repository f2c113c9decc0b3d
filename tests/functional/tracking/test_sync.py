"""`sweeper sync`: MLflow's store again from a run folder's ledger, the same whatever it was written to before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlflow_places
import pytest
from mlflow_places import without_ids

from sweeper.commands.main import main
from sweeper.ledger.file import held
from sweeper.tracking.store_uri import sqlite_uri
from sweeper.values.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, with SQLAlchemy 2.1

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The README's recorded study as a run folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(ROOT / "benchmarks" / "results" / "first", tmp_path / "runs" / "first" / "full")
    return Path("runs/first/full")


def contents(uri: str) -> dict[str, Any]:
    return without_ids(mlflow_places.contents(uri, "first"))


def test_two_empty_stores_become_the_same_and_writing_again_changes_nothing(folder: Path, capsys) -> None:
    assert main(["sync", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "runs/first/full: 9 trials are in sqlite:///" in said
    first = contents(sqlite_uri(Path.cwd() / "runs" / "mlflow.db"))
    assert len(first) == 10
    assert {run["status"] for run in first.values()} == {"FINISHED"}
    assert {"study.yaml", "ledger.jsonl", "frontier.json", "report.html"} & set(first[""]["artifacts"])
    other = sqlite_uri(Path.cwd() / "other" / "store.db")
    for _ in range(2):
        assert main(["sync", str(folder), "--to", other]) == 0
        assert contents(other) == first


def test_a_part_that_is_there_is_completed(folder: Path) -> None:
    """As after a store that was away while the study ran: half of the ledger is there, with its last trial running."""
    ledger = folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    finals = [number for number, line in enumerate(lines) if '"type": "final"' in line]
    uri = sqlite_uri(Path.cwd() / "store.db")
    ledger.write_text("".join(lines[: finals[4]]))
    assert main(["sync", str(folder), "--to", uri]) == 0
    half = contents(uri)
    assert sorted(run["status"] for run in half.values()) == ["FINISHED"] * 5 + ["KILLED"]
    ledger.write_text("".join(lines))
    assert main(["sync", str(folder), "--to", uri]) == 0
    whole = sqlite_uri(Path.cwd() / "whole.db")
    assert main(["sync", str(folder), "--to", whole]) == 0
    assert contents(uri) == contents(whole)


def test_what_cannot_be_synced_is_said(folder: Path, capsys, monkeypatch) -> None:
    assert main(["sync", "runs"]) == 2
    assert "no run folder" in capsys.readouterr().err
    with held(RunFolder(root=folder.absolute()).lock):
        assert main(["sync", str(folder)]) == 2
    assert "another sweeper run is writing" in capsys.readouterr().err
    monkeypatch.setattr("sweeper.tracking.sync.PATIENCE", 1.0)
    assert main(["sync", str(folder), "--to", "http://127.0.0.1:9"]) == 1
    assert "http://127.0.0.1:9 can't be written" in capsys.readouterr().err
