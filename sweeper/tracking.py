"""Ledger → MLflow, written behind the study by a thread of its own. The only file that imports mlflow.

The ledger is the truth and MLflow its projection: `Projection` says what the runs should hold, `_Writer` finds
out what they do hold and writes the difference. So writing twice changes nothing, and what could not be
written is caught up by the next run of the study. Nothing here stops or slows a study.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml

from sweeper.errors import UsageError
from sweeper.projection import MAX_PARAM, Projection, Record, Run, RunStatus, study_params
from sweeper.run_folder import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER_ID, TRIAL_ID, WRITTEN = "sweeper.folder_id", "sweeper.trial_id", "sweeper.points"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
POINTS_AT_ONCE = 800
MAX_STUDY_PARAMS = 90
"""With `POINTS_AT_ONCE` and the tags within MLflow's limits of one batch: 1000 in all, 100 params, 100 tags."""
PAUSE = 1.0
"""Seconds from one write to the next: what comes within them is written together, a short trial in three calls."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
EXIT_SECONDS = 3.0

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # we retry ourselves; MLflow's own 7 take minutes a call
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""MLflow's settings, unless the user has set them otherwise."""


def default_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI when set, else the SQLite store `mlflow.db` in `runs`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.absolute() / 'mlflow.db'}"


@dataclass(kw_only=True)
class _Remote:
    """What MLflow holds of a run, as far as it matters for the difference."""

    run_id: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Tracker:
    """Keeps MLflow up with a study. All methods return at once, but `drain` and `close`, and none raises.

    One experiment per study, one parent run per run folder, found again by a tag that moves with the folder,
    one child run per trial. Starts to import mlflow, which takes seconds, when it is made.
    """

    def __init__(self, *, uri: str, experiment: str, folder: RunFolder, profile: str, description: str) -> None:
        self.warning: str | None = None
        self._queue: queue.SimpleQueue[Callable[[_Writer], None] | None] = queue.SimpleQueue()
        self._writer = _Writer(uri=uri, experiment=experiment, folder=folder, profile=profile, description=description)
        self._progress = threading.Condition()
        self._received = self._written = 0
        self._error, self._lost, self._closed = "", False, False
        self._hurry = threading.Event()
        self._began = 0.0
        self._thread = threading.Thread(target=self._work, name="sweeper-tracking", daemon=True)
        self._thread.start()

    def catch_up(self, records: Sequence[Record]) -> None:
        """Project the ledger as it stood when this run of the study began."""
        self._put(lambda writer: writer.add(records, live=False))

    def observe(self, record: Record) -> None:
        """Project one new record."""
        self._put(lambda writer: writer.add([record], live=True))

    def log_artifacts(self) -> None:
        """Attach the study, its plan and its results, as far as they exist, to the parent run."""
        self._put(_Writer.want_artifacts)

    def drain(self, timeout: float) -> bool:
        """Wait, at most `timeout` seconds, until all is written; say whether it is."""
        self._hurry.set()
        with self._progress:
            target = self._received
            drained = self._progress.wait_for(lambda: self._written >= target, timeout)
        if not self._closed:
            self._hurry.clear()
        return drained

    def close(self, *, interrupted: bool = False, timeout: float = EXIT_SECONDS) -> None:
        """End the parent run, wait at most `timeout` seconds, and set `warning` when that wasn't enough."""
        self._close("KILLED" if interrupted else "FINISHED", timeout)

    def _close(self, status: RunStatus, timeout: float) -> None:
        if self._closed:
            return
        self._closed = True
        ended = round(time.time() * 1000)
        self._put(lambda writer: writer.end(status, time_ms=ended))
        if not self.drain(timeout) or self._lost:
            why = f" ({self._error})" if self._error else ""
            self.warning = (
                f"MLflow did not take everything in time{why}; "
                "nothing is lost: the next `sweeper run` of this study catches up"
            )
        self._queue.put(None)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended_by_user = kind is not None and issubclass(kind, KeyboardInterrupt)
        self._close("FINISHED" if kind is None else "KILLED" if ended_by_user else "FAILED", EXIT_SECONDS)

    def _put(self, task: Callable[[_Writer], None]) -> None:
        with self._progress:
            self._received += 1
            self._queue.put(task)

    def _work(self) -> None:
        """The thread: take in all that waits, write the difference; after a failure again, ever later."""
        taken, wait, going = 0, 0.0, True
        while going:
            try:
                tasks = self._next_tasks(timeout=wait or None)
                going = None not in tasks
                for task in filter(None, tasks):
                    taken += 1
                    self._take(task)
                self._began = time.monotonic()
                self._writer.write()
            except Exception as error:
                self._note(error)
                wait = min(max(2 * wait, FIRST_WAIT), LONGEST_WAIT)
            else:
                wait = 0.0
                with self._progress:
                    self._written = taken
                    self._progress.notify_all()

    def _take(self, task: Callable[[_Writer], None]) -> None:
        """A record that can't be projected is left out, and the rest goes on."""
        try:
            task(self._writer)
        except Exception as error:
            self._lost = True
            self._note(error)

    def _note(self, error: Exception) -> None:
        self._error = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:MAX_PARAM]

    def _next_tasks(self, timeout: float | None) -> list[Callable[[_Writer], None] | None]:
        tasks = []
        try:
            tasks.append(self._queue.get(timeout=timeout))
            self._hurry.wait(max(0.0, self._began + PAUSE - time.monotonic()))
            while True:
                tasks.append(self._queue.get_nowait())
        except queue.Empty:
            return tasks


class _Writer:
    """Brings MLflow's runs to what the projection says. Used by the tracker's thread alone."""

    def __init__(self, *, uri: str, experiment: str, folder: RunFolder, profile: str, description: str) -> None:
        self._uri, self._experiment, self._folder, self._description = uri, experiment, folder, description
        self._projection = Projection(study=experiment, profile=profile)
        self._profile = profile
        self._changed: dict[str, None] = {}
        self._artifacts_wanted = False
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._parent: _Remote | None = None
        self._children: dict[str, _Remote] = {}

    def add(self, records: Sequence[Record], *, live: bool) -> None:
        for record in records:
            self._projection.add(record, live=live)
            if record.get("trial_id") in self._projection.trials:
                self._changed[record["trial_id"]] = None

    def end(self, status: RunStatus, *, time_ms: int) -> None:
        running = [key for key, run in self._projection.trials.items() if run.status == "RUNNING"]
        self._projection.end(status, time_ms=time_ms)
        self._changed |= dict.fromkeys(running)

    def want_artifacts(self) -> None:
        self._artifacts_wanted = True

    def write(self) -> None:
        """Write all that changed. What fails stays changed; raises a failure, after trying the rest.

        After a failure all runs are searched for again: a run may have been made although its call failed.
        """
        try:
            self._write()
        except Exception:
            self._parent, self._children = None, {}
            raise

    def _write(self) -> None:
        client = self._client = self._client or _open(self._uri)
        parent = self._projection.parent
        if parent is None:
            return
        self._experiment_id = self._experiment_id or self._find_experiment(client)
        if self._parent is None:
            self._find_runs(client, parent)
        failures: list[Exception] = []
        for trial_id in list(self._changed):
            try:
                self._write_child(client, trial_id)
                del self._changed[trial_id]
            except Exception as error:
                failures.append(error)
                if len(failures) > 2:
                    break
        assert self._parent is not None
        _write_run(client, parent, self._parent)
        if self._artifacts_wanted:
            self._write_artifacts(client, self._parent.run_id)
        if failures:
            raise failures[-1]

    def _find_experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            where = artifact_location(self._uri, self._experiment)
            return str(client.create_experiment(self._experiment, artifact_location=where))
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find_runs(self, client: MlflowClient, parent: Run) -> None:
        """The runs of this folder, each searched for once, or the parent made."""
        folder_id = self._projection.folder_id
        parent.tags |= {
            FOLDER_ID: folder_id,
            NOTE: self._description,
            "sweeper.folder": str(self._folder.root),
            "sweeper.study": self._experiment,
            "sweeper.profile": self._profile,
        }
        parent.params |= self._study_params()
        found = self._search(client, f"tags.`{FOLDER_ID}` = '{folder_id}'")
        remote = found[0] if found else self._create(client, parent, {FOLDER_ID: folder_id})
        children = self._search(client, f"tags.`{PARENT}` = '{remote.run_id}'") if found else []
        self._children = {child.tags[TRIAL_ID]: child for child in children if TRIAL_ID in child.tags}
        self._parent = remote

    def _search(self, client: MlflowClient, condition: str) -> list[_Remote]:
        runs: list[Any] = []
        token: str | None = None
        while True:
            page = client.search_runs(
                [self._experiment_id], condition, max_results=1000, order_by=["start_time ASC"], page_token=token
            )
            runs += page
            if not (token := page.token):
                break
        return [
            _Remote(
                run_id=run.info.run_id,
                status=run.info.status,
                params=dict(run.data.params),
                tags=dict(run.data.tags),
            )
            for run in runs
        ]

    def _create(self, client: MlflowClient, run: Run, tags: Mapping[str, str]) -> _Remote:
        made = client.create_run(self._experiment_id, start_time=run.start_ms, run_name=run.name, tags=dict(tags))
        return _Remote(run_id=made.info.run_id, status=made.info.status, tags=dict(tags))

    def _write_child(self, client: MlflowClient, trial_id: str) -> None:
        assert self._parent is not None
        run = self._projection.trials[trial_id]
        if trial_id not in self._children:
            tags = {**run.tags, TRIAL_ID: trial_id, PARENT: self._parent.run_id}
            self._children[trial_id] = self._create(client, run, tags)
        _write_run(client, run, self._children[trial_id])

    def _study_params(self) -> dict[str, str]:
        own = {"name": self._experiment, "profile": self._profile}
        if not self._folder.study.exists():
            return own
        study = yaml.safe_load(self._folder.study.read_text(encoding="utf-8"))
        return dict(list({**own, **study_params(study)}.items())[:MAX_STUDY_PARAMS])

    def _write_artifacts(self, client: MlflowClient, run_id: str) -> None:
        folder = self._folder
        for path in (folder.study, folder.plan, folder.frontier, folder.figure, folder.report):
            if path.exists():
                client.log_artifact(run_id, str(path))
        self._artifacts_wanted = False


def _open(uri: str) -> MlflowClient:
    """A client of the store, made when it isn't there: the first `runs/mlflow.db` takes some 5 s."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"mlflow|alembic|sqlalchemy")
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def serve(runs: Path, *, port: int) -> int:
    """MLflow's pages on what `runs` holds, on this machine only, until Ctrl-C; its exit code.

    Raises UsageError where there is nothing to show.
    """
    if "MLFLOW_TRACKING_URI" not in os.environ and not (runs / "mlflow.db").is_file():
        raise UsageError(f"{runs} holds no results: run a study first, or name its folder with --out")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", default_uri(runs)]
    print(f"http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    return subprocess.call([*command, "--host", "127.0.0.1", "--port", str(port)])


def artifact_location(uri: str, experiment: str) -> str | None:
    """Beside a SQLite store, absolute, as MLflow's own default is the working directory; else the server's."""
    if not uri.startswith("sqlite:///"):
        return None
    store = Path(uri.removeprefix("sqlite:///")).absolute()
    return (store.parent / "mlartifacts" / experiment).as_uri()


def _write_run(client: MlflowClient, run: Run, remote: _Remote) -> None:
    """Write the difference. Params can't be changed once written; of points the first `WRITTEN` are there."""
    from mlflow.entities import Metric, Param, RunTag

    if run.status == "RUNNING" and remote.status != "RUNNING":
        client.update_run(remote.run_id, status="RUNNING")
        remote.status = "RUNNING"
    wanted = {**run.tags, WRITTEN: str(len(run.points))}
    tags = {key: value for key, value in wanted.items() if remote.tags.get(key) != value}
    params = {key: value for key, value in run.params.items() if key not in remote.params}
    metrics = [
        Metric(point.key, point.value, point.time_ms, point.step)
        for point in run.points[int(remote.tags.get(WRITTEN, 0)) :]
    ]
    while len(metrics) > POINTS_AT_ONCE:
        client.log_batch(remote.run_id, metrics=metrics[:POINTS_AT_ONCE])
        metrics = metrics[POINTS_AT_ONCE:]
    if tags or params or metrics:
        client.log_batch(
            remote.run_id,
            metrics=metrics,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        remote.tags |= tags
        remote.params |= params
    if run.status != "RUNNING" and remote.status != run.status:
        client.set_terminated(remote.run_id, run.status, end_time=run.end_ms)
        remote.status = run.status
