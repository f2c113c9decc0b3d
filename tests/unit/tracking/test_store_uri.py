"""URLs of databases in folders with odd names, read by SQLAlchemy itself."""

from pathlib import Path

import pytest
from sqlalchemy import make_url
from test_doctor import facts

from sweeper.commands.doctor import examine
from sweeper.tracking.store import artifact_location
from sweeper.tracking.store_uri import sqlite_file, sqlite_uri
from sweeper.tracking.tracker import default_uri

ODD = ("q?x", "My%20Project", "a%3Fb", "100%", "with space", "a#b", "a@b:c", "é", "a+b&c=d;e", "x" * 200)


@pytest.mark.parametrize("name", ODD)
def test_a_url_names_the_file_it_was_made_from(name):
    file = Path("/home") / name / "mlflow.db"
    assert make_url(sqlite_uri(file)).database == str(file)
    assert sqlite_file(sqlite_uri(file)) == file


def test_plain_paths_have_plain_urls():
    assert sqlite_uri(Path("/a/b c/é.db")) == "sqlite:////a/b c/é.db"


def test_users_own_urls_are_read_as_sqlalchemy_does():
    for uri in ("sqlite:///runs/m.db", "sqlite:////a/m.db?timeout=5", "sqlite:////a%20b/m.db"):
        assert str(sqlite_file(uri)) == make_url(uri).database
    assert sqlite_file("sqlite:///:memory:") is None
    assert sqlite_file("sqlite://") is None
    assert sqlite_file("postgresql://somebody@db/runs") is None


@pytest.mark.parametrize("name", ODD)
def test_the_default_store_and_its_artifacts_lie_in_the_runs_folder(name, tmp_path):
    runs = tmp_path / name / "runs"
    assert sqlite_file(default_uri(runs)) == runs / "mlflow.db"
    assert artifact_location(default_uri(runs), "depth", runs=Path("x")) == (runs / "mlartifacts" / "depth").as_uri()


@pytest.mark.parametrize("name", ODD)
def test_the_doctor_looks_at_the_very_file(name, tmp_path):
    """SQLite's own URLs end a path at `?` and `#`, and unquote `%`: another file was looked at, or none."""
    runs = tmp_path / name
    runs.mkdir()
    uri = default_uri(runs)

    def store():
        findings = examine(facts(tmp_path), runs=runs, tracking_uri=uri)
        return next(finding.state for finding in findings if finding.name == "MLflow")

    assert store() == "ok", "nothing there yet"
    (runs / "mlflow.db").write_bytes(b"")
    assert store() == "ok", "a database without tables"
    (runs / "mlflow.db").write_bytes(b"no database, " * 100)
    assert store() == "wrong"
