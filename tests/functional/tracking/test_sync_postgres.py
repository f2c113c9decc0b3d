"""`sweeper sync` into PostgreSQL, directly and through `mlflow server`, and into SQLite: the same content."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_places import contents, free_port, running_server, without_ids

from sweeper.commands.main import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, with SQLAlchemy 2.1

ROOT = Path(__file__).parents[3]
LEFT_OUT = "no PostgreSQL (Debian: apt-get install postgresql): MLflow's store on it was not tested"


def binaries() -> Path:
    """Where PostgreSQL's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip(LEFT_OUT)
    return found[-1].parent


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URI of an empty cluster, without a database's name. Root may not run PostgreSQL: then its own user does."""
    programs, port = binaries(), free_port()
    with tempfile.TemporaryDirectory(prefix="sweeper-postgres-") as home:
        own = {}
        if os.geteuid() == 0:
            own = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(home, "postgres", "postgres")
        data = f"{home}/data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "sweeper", "--auth", "trust", "--no-sync"],
            check=True, capture_output=True, cwd=home, **own,
        )  # fmt: skip
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", home, "-h", "127.0.0.1", "-p", str(port), "-c", "fsync=off"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home, **own,
        )  # fmt: skip
        try:
            ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            while subprocess.run(ready, check=False).returncode != 0:
                assert server.poll() is None
                time.sleep(0.1)
            for name in ("direct", "served"):
                create = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "sweeper", name]
                subprocess.run(create, check=True)
            yield f"postgresql+psycopg2://sweeper@127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)  # doesn't wait for clients to leave, as SIGTERM does
            server.wait()


def test_postgres_directly_or_served_and_sqlite_become_the_same(postgres: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "first" / "full"
    shutil.copytree(ROOT / "benchmarks" / "results" / "first", folder)
    (folder / "report.html").write_text("<!doctype html><title>first</title>")
    (folder / "frontier.png").write_bytes(b"\x89PNG")
    assert main(["sync", str(folder)]) == 0
    sqlite = without_ids(contents(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}", "first"))
    assert len(sqlite) == 10
    assert sqlite[""]["artifacts"].keys() == {"study.yaml", "plan.json", "frontier.json", "frontier.png", "report.html"}
    assert [(name, context) for name, _, _, context in sqlite[""]["datasets"]] == [
        ("python-stdlib", ("mlflow.data.context", "training"))
    ]
    assert main(["sync", str(folder), "--to", f"{postgres}/direct"]) == 0
    assert without_ids(contents(f"{postgres}/direct", "first")) == sqlite
    assert (tmp_path / "runs" / "mlartifacts" / "first").is_dir(), "not where one happens to be"
    assert not (tmp_path / "mlruns").exists()
    with running_server(tmp_path, backend=f"{postgres}/served") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        assert main(["sync", str(folder)]) == 0
        assert without_ids(contents(f"{postgres}/served", "first", by=server.url)) == sqlite
