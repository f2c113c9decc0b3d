"""Ledger → MLflow: brings MLflow's runs to what the ledger says. The only file that imports mlflow.

`Projection` says what the runs should hold, `Writer` finds out what they do hold and writes the difference. So writing
twice changes nothing, and what could not be written is caught up by the next run of the study. As a program it writes
what `sweeper.tracking` sends it, in a process of its own: MLflow's store is Python that computes, and would keep the
driver's thread waiting for the interpreter.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import queue
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import yaml

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
NICENESS = 10
"""Of the process that writes: trials that are timed on the same cores come first."""
COLLECT_AFTER = (50_000, 20, 100)
"""The garbage collector's thresholds there: its own look at every 700 objects takes a fifth of the time of a write."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # we retry ourselves; MLflow's own 7 take minutes a call
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""MLflow's settings, unless the user has set them otherwise."""

Task = tuple[Any, ...]
"""("add", records, whether they are new), ("artifacts",), ("end", status, milliseconds). And ("hurry", whether to),
which doesn't count as one."""


def main() -> None:
    """Take the writer's fields and then tasks from standard input, pickled; say on standard output how far it is."""
    os.nice(NICENESS)
    tasks, said = sys.stdin.buffer, os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # MLflow may print
    _Loop(Writer(**pickle.load(tasks)), said).run(tasks)


class _Loop:
    """Takes in all that waits, writes the difference; after a failure again, ever later. Ends with its input."""

    def __init__(self, writer: Writer, said: TextIO) -> None:
        self._writer, self._said = writer, said
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._began, self._error, self._lost = 0.0, "", False

    def run(self, tasks: BinaryIO) -> None:
        """Until the input ends, which is when the study's driver does: what isn't written then is caught up later."""
        threading.Thread(target=self._read, args=(tasks,), daemon=True).start()
        taken, wait, waiting = 0, 0.0, self._next_tasks(None)
        while None not in waiting:
            for task in waiting:
                taken += 1
                self._take(task)
            self._began = time.monotonic()
            try:
                self._writer.write()
            except Exception as error:
                self._note(error)
                wait = min(max(2 * wait, FIRST_WAIT), LONGEST_WAIT)
                self._say(written=None)
            else:
                wait = 0.0
                self._error = self._error if self._lost else ""
                self._say(written=taken)
            waiting = self._next_tasks(wait or None)

    def _read(self, tasks: BinaryIO) -> None:
        try:
            while True:
                task = pickle.load(tasks)
                if task[0] != "hurry":
                    self._queue.put(task)
                elif task[1]:
                    self._hurry.set()
                else:
                    self._hurry.clear()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._hurry.set()
            self._queue.put(None)

    def _take(self, task: Task | None) -> None:
        """A record that can't be projected is left out, and the rest goes on."""
        try:
            match task:
                case ("add", records, live):
                    self._writer.add(records, live=live)
                case ("artifacts",):
                    self._writer.want_artifacts()
                case ("end", status, time_ms):
                    self._writer.end(status, time_ms=time_ms)
        except Exception as error:
            self._lost = True
            self._note(error)

    def _note(self, error: Exception) -> None:
        self._error = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:MAX_PARAM]

    def _say(self, *, written: int | None) -> None:
        print(json.dumps({"written": written, "error": self._error, "lost": self._lost}), file=self._said)

    def _next_tasks(self, timeout: float | None) -> list[Task | None]:
        tasks = []
        try:
            tasks.append(self._queue.get(timeout=timeout))
            self._hurry.wait(max(0.0, self._began + PAUSE - time.monotonic()))
            while True:
                tasks.append(self._queue.get_nowait())
        except queue.Empty:
            return tasks


@dataclass(kw_only=True)
class _Remote:
    """What MLflow holds of a run, as far as it matters for the difference.

    `written` says how many points there are; None until that is known of a run that was found.
    """

    run_id: str
    status: str
    end_ms: int | None = None
    written: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Writer:
    """Brings MLflow's runs to what the projection says."""

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
        """Project records: `live` ones of the run that goes on, or those of earlier ones."""
        for record in records:
            self._projection.add(record, live=live)
            if record.get("trial_id") in self._projection.trials:
                self._changed[record["trial_id"]] = None

    def end(self, status: RunStatus, *, time_ms: int) -> None:
        """The study's run has ended, and with it what was still running."""
        running = [key for key, run in self._projection.trials.items() if run.status == "RUNNING"]
        self._projection.end(status, time_ms=time_ms)
        self._changed |= dict.fromkeys(running)

    def want_artifacts(self) -> None:
        """Attach the files of the run folder with the next write."""
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
                end_ms=run.info.end_time,
                params=dict(run.data.params),
                tags=dict(run.data.tags),
            )
            for run in runs
        ]

    def _create(self, client: MlflowClient, run: Run, tags: Mapping[str, str]) -> _Remote:
        made = client.create_run(self._experiment_id, start_time=run.start_ms, run_name=run.name, tags=dict(tags))
        return _Remote(run_id=made.info.run_id, status=made.info.status, written=0, tags=dict(tags))

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
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def artifact_location(uri: str, experiment: str) -> str | None:
    """Beside a SQLite store, absolute, as MLflow's own default is the working directory; else the server's."""
    if not uri.startswith("sqlite:///"):
        return None
    store = Path(uri.removeprefix("sqlite:///")).absolute()
    return (store.parent / "mlartifacts" / experiment).as_uri()


def _write_run(client: MlflowClient, run: Run, remote: _Remote) -> None:
    """Write the difference. Params can't be changed once written; points are written in order."""
    from mlflow.entities import Metric, Param, RunTag

    written = _written(run, remote)
    if run.status == "RUNNING" and remote.status != "RUNNING":
        client.update_run(remote.run_id, status="RUNNING")
        remote.status = "RUNNING"
    wanted = dict(run.tags)
    if run.status == "RUNNING":
        wanted[WRITTEN] = str(len(run.points))
    tags = {key: value for key, value in wanted.items() if remote.tags.get(key) != value}
    params = {key: value for key, value in run.params.items() if key not in remote.params}
    metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in run.points[written:]]
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
    remote.written = len(run.points)
    if run.status != "RUNNING" and (remote.status, remote.end_ms) != (run.status, run.end_ms):
        client.set_terminated(remote.run_id, run.status, end_time=run.end_ms)
        remote.status, remote.end_ms = run.status, run.end_ms
    if run.status != "RUNNING" and remote.tags.pop(WRITTEN, None) is not None:
        client.delete_tag(remote.run_id, WRITTEN)


def _written(run: Run, remote: _Remote) -> int:
    """How many of a run's points are there, at least: writing one again, at its own time, changes nothing.

    A run that ended as it should have is whole, and no tag need say so; of another a tag says how far it got.
    """
    if remote.written is None and (remote.status, remote.end_ms) == (run.status, run.end_ms):
        remote.written = len(run.points)
    return int(remote.tags.get(WRITTEN, 0)) if remote.written is None else remote.written
