"""MLflow's servers and stores for tests: start and kill one, reach it by a bad line, read all that it holds."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sweeper.tracking.links import wait_for
from sweeper.tracking.tracker import SERVER_SETTINGS

START_SECONDS = 180.0


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """`mlflow server` on `backend` (a SQLAlchemy URI), which serves its artifacts from `folder`."""

    def __init__(self, folder: Path, *, backend: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend, "--artifacts-destination",
            str(folder / "served"), "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it answers."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, env={**SERVER_SETTINGS, **os.environ}, stdout=log, stderr=log, start_new_session=True
            )
        assert wait_for(self.url, timeout=START_SECONDS), self._log.read_text()[-2000:]

    def kill(self) -> None:
        """SIGKILL to it and its workers."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running_server(folder: Path, *, backend: str) -> Iterator[Server]:
    """A started server, killed in the end."""
    server = Server(folder, backend=backend)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def bad_line(port: int, *, lose_every: int) -> Iterator[tuple[str, list[str]]]:
    """A way to the server at `port` on which of each kind of POST the third answer gets lost, after the deed, and
    every so many further on.

    Its URL, and the paths of the calls whose answers were lost so far.
    """
    lost: list[str] = []
    posts, lock = Counter[str](), threading.Lock()

    class Line(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
            try:
                headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
                server.request(self.command, self.path, body, headers)
                answer = server.getresponse()
                content = answer.read()
            except OSError:
                self.close_connection = True
                return
            finally:
                server.close()
            if self.command == "POST" and "search" not in self.path:
                with lock:
                    posts[self.path] += 1
                    if posts[self.path] % lose_every == 3:
                        lost.append(self.path.removeprefix("/api/2.0/mlflow/"))
                        self.close_connection = True
                        return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None: ...

    for verb in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Line, f"do_{verb}", Line._pass_on)
    line = ThreadingHTTPServer(("127.0.0.1", 0), Line)
    thread = threading.Thread(target=line.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{line.server_port}", lost
    finally:
        line.shutdown()
        line.server_close()
        thread.join()


def contents(uri: str, experiment: str, *, by: str | None = None) -> dict[str, Any]:
    """All that the store at `uri` holds of a study, by trial_id, the parent as "".

    Artifacts are read `by` another URI of the same store, where they are served. No two runs are of one trial, nor was
    any deleted.
    """
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client, served = MlflowClient(tracking_uri=uri), MlflowClient(tracking_uri=by or uri)
    found_experiment = client.get_experiment_by_name(experiment)
    assert found_experiment is not None
    runs = client.search_runs([found_experiment.experiment_id], run_view_type=ViewType.ALL)
    found: dict[str, Any] = {}
    for run in runs:
        trial_id = run.data.tags.get("sweeper.trial_id", "")
        assert trial_id not in found, "two runs of one trial"
        assert run.info.lifecycle_stage == "active"
        history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        artifacts = served.list_artifacts(run.info.run_id) if not trial_id else []
        found[trial_id] = {
            "id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": run.data.tags,
            "metrics": {key: sorted((m.step, m.value, m.timestamp) for m in points) for key, points in history.items()},
            "artifacts": {file.path: file.file_size for file in artifacts},
            "datasets": sorted(
                (one.dataset.name, one.dataset.digest, one.dataset.source, *((tag.key, tag.value) for tag in one.tags))
                for one in run.inputs.dataset_inputs
            ),
        }
    assert {run["tags"]["mlflow.parentRunId"] for trial, run in found.items() if trial} <= {found[""]["id"]}
    return found


def without_ids(found: dict[str, Any]) -> dict[str, Any]:
    """`contents` without the ids that the store gave."""
    return {
        trial: {
            **{key: value for key, value in run.items() if key != "id"},
            "tags": {key: value for key, value in run["tags"].items() if key != "mlflow.parentRunId"},
        }
        for trial, run in found.items()
    }
