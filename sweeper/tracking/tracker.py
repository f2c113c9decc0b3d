"""Keeps MLflow up with a study, written behind it by a process of its own (`sweeper.tracking.writer_process`).

The ledger is the truth and MLflow its projection. Nothing here stops or slows a study.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sweeper.ledger.typed import Line
from sweeper.tracking.links import study_links, wait_for
from sweeper.tracking.projection import RunStatus
from sweeper.tracking.store_uri import sqlite_uri
from sweeper.values.errors import UsageError
from sweeper.values.paths import PACKAGE_PARENT
from sweeper.values.run_folder import RunFolder

EXIT_SECONDS = 3.0
STORE_SECONDS = 120.0
"""For a store that can't be away to be opened: MLflow is imported for some 5 s, on a busy machine for many more."""
SERVERS = ("postgresql", "mysql", "mssql")
"""Stores that MLflow connects to when it opens them. An http server is first spoken to afterwards."""
SERVER_SECONDS = 120.0
"""For MLflow's server to answer, which imports for some 10 s."""
SERVER_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",
}
"""Of MLflow's server, unless set otherwise: without its seven processes for jobs of other kinds than ours."""
_QUIETLY = ("--workers", "1", "--uvicorn-opts", "--log-level warning")
"""One person looks at the pages, and wants no line for each request."""
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from sweeper.tracking.writer_process import main; main()"
"""Finds this very package first, whatever the working directory holds."""
_ASK = "import sys; sys.path.insert(0, sys.argv[1]); from sweeper.tracking.writer_process import ask; ask(sys.argv[2])"
_REFUSED = (
    "MLflow can't keep runs in {uri} ({why}): name another store with MLFLOW_TRACKING_URI, like sqlite:///mlflow.db or "
    "http://HOST:PORT, or unset it"
)


def default_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI when set, else the SQLite store `mlflow.db` in `runs`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(runs / "mlflow.db")


def refusal(uri: str) -> str:
    """Why MLflow will never take the store at `uri`, "" where it may, or where that can't be told from its name."""
    if uri.startswith(("sqlite:", "sqlite+pysqlite:", "http:", "https:", *SERVERS)):
        return ""
    ask = [sys.executable, "-c", _ASK, str(PACKAGE_PARENT), uri]
    with contextlib.suppress(subprocess.TimeoutExpired):
        ran = subprocess.run(ask, capture_output=True, text=True, errors="replace", timeout=STORE_SECONDS, check=False)
        return (ran.stdout.strip().splitlines() or [""])[-1]
    return ""


class Tracker:
    """Sends ledger records on to the process that writes them. All methods return at once, but `drain` and `close`,
    and none raises.

    One experiment per study, one parent run per run folder, found again by a tag that moves with the folder, one child
    run per trial. The process, which imports mlflow for seconds, starts when the tracker is made and ends with it; when
    the driver is killed it ends too. Ctrl-C doesn't reach it.
    """

    def __init__(self, *, uri: str, experiment: str, folder: RunFolder, profile: str, description: str) -> None:
        self.warning: str | None = None
        self._progress = threading.Condition()
        self._received = self._written = 0
        self._error, self._lost, self._closed, self._gone, self._ended = "", False, False, False, False
        self._uri, self._opened, self._refused, self._unwritable, self._failures = uri, False, False, False, 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(PACKAGE_PARENT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        fields = {
            "uri": uri,
            "experiment": experiment,
            "folder": folder,
            "profile": profile,
            "description": description,
        }
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox.put(fields)
        for work in (self._send, self._listen):
            threading.Thread(target=work, name="sweeper-tracking", daemon=True).start()

    def catch_up(self, records: Sequence[Line]) -> None:
        """Project the ledger as it stood when this run of the study began."""
        self._put("add", list(records), False)

    def observe(self, record: Line) -> None:
        """Project one new record."""
        self._put("add", [record], True)

    def log_artifacts(self) -> None:
        """Attach the study, its plan and its results, as far as they exist, to the parent run."""
        self._put("artifacts")

    @property
    def error(self) -> str:
        """Why the latest write failed, "" where it didn't."""
        return self._error

    @property
    def unwritable(self) -> str:
        """Why a file of the store can't be written, "" where all were when last tried."""
        return f"{self._uri} ({self._error})" if self._unwritable else ""

    def require_store(self, *, away_after: float) -> None:
        """Wait until the store is open. UsageError where MLflow will never take it.

        One that may only be away, a server's, is waited for at most `away_after` seconds.
        """
        timeout = away_after if self._uri.startswith(SERVERS) else STORE_SECONDS
        with self._progress:
            self._progress.wait_for(lambda: self._opened or self._gone, timeout)
            refused, why = self._refused, self._error
        if refused:
            raise UsageError(_REFUSED.format(uri=self._uri, why=why))

    def end(self, time_ms: int, status: RunStatus = "FINISHED") -> None:
        """End the parent run as of `time_ms` since the epoch; only the first end counts."""
        if not self._ended:
            self._ended = True
            self._put("end", status, time_ms)

    def drain(self, timeout: float) -> bool:
        """Wait, at most `timeout` seconds, until all is written or it can't be; say whether it is."""
        self._outbox.put(("hurry", True))
        with self._progress:
            target, failed = self._received, self._failures

            def settled() -> bool:
                hopeless = (self._refused or self._unwritable) and self._failures > failed + 1
                return self._written >= target or self._gone or hopeless

            self._progress.wait_for(settled, timeout)
            drained = self._written >= target
        if not self._closed:
            self._outbox.put(("hurry", False))
        return drained

    def close(self, *, interrupted: bool = False, timeout: float = EXIT_SECONDS) -> None:
        """End the parent run, wait at most `timeout` seconds, and set `warning` when that wasn't enough."""
        self._close("KILLED" if interrupted else "FINISHED", timeout)

    def _close(self, status: RunStatus, timeout: float) -> None:
        if self._closed:
            return
        self._closed = True
        self.end(round(time.time() * 1000), status)
        drained = self.drain(timeout)
        if not drained or self._lost:
            why = f" ({self._error})" if self._error else ""
            self.warning = (
                f"MLflow did not take everything in time{why}; "
                "nothing is lost: `sweeper sync`, or the next `sweeper run` of this study, catches up"
            )
        self._outbox.put(None)
        if not drained:
            self._process.kill()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended_by_user = kind is not None and issubclass(kind, KeyboardInterrupt)
        self._close("FINISHED" if kind is None else "KILLED" if ended_by_user else "FAILED", EXIT_SECONDS)

    def _put(self, *task: Any) -> None:
        with self._progress:
            self._received += 1
            if not self._gone:
                self._outbox.put(task)

    def _send(self) -> None:
        """A thread: what is in the outbox goes to the process, whenever that takes it."""
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(OSError), pipe:
            while (task := self._outbox.get()) is not None:
                pickle.dump(task, pipe)
                pipe.flush()

    def _listen(self) -> None:
        """A thread: how far the process is, until it ends."""
        pipe = self._process.stdout
        assert pipe is not None
        with pipe:
            for line in pipe:
                said = json.loads(line)
                with self._progress:
                    self._written = max(self._written, said["written"] or 0)
                    self._error, self._lost = said["error"], said["lost"]
                    self._opened, self._refused = said["opened"], said["refused"]
                    self._unwritable = said["unwritable"]
                    self._failures += said["written"] is None
                    self._progress.notify_all()
        with self._progress:
            self._gone = True
            self._error = self._error or "the process that writes to MLflow ended"
            self._progress.notify_all()


def serve(runs: Path, *, port: int) -> int:
    """MLflow's pages on what `runs` holds, on this machine only, until Ctrl-C; its exit code.

    Says where they are, and each study's trials once the server answers. Raises UsageError where there is nothing to
    show.
    """
    if "MLFLOW_TRACKING_URI" not in os.environ and not (runs / "mlflow.db").is_file():
        raise UsageError(f"{runs} holds no results: run a study first, or name its folder with --out")
    if why := refusal(default_uri(runs)):
        raise UsageError(_REFUSED.format(uri=default_uri(runs), why=why))
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", default_uri(runs)]
    base = f"http://127.0.0.1:{port}"
    print(f"{base} (Ctrl-C ends it)", flush=True)
    threading.Thread(target=_say_links, args=(base,), daemon=True).start()
    where = ["--host", "127.0.0.1", "--port", str(port)]
    return subprocess.call([*command, *where, *_QUIETLY], env={**SERVER_SETTINGS, **os.environ})


def _say_links(base: str) -> None:
    """A thread: print the links once the server answers."""
    if not wait_for(base, timeout=SERVER_SECONDS) or not (links := study_links(base)):
        return
    print("Trials, lowest loss first (select all and Compare: parallel coordinates, loss against speed):")
    for study, link in links.items():
        print(f"  {study}: {link}", flush=True)
