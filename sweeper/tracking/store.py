"""Ledger → MLflow: brings MLflow's runs to what the ledger says. The only file that imports mlflow.

`Projection` says what the runs should hold, `Writer` finds out what they do hold and writes the difference. So writing
twice changes nothing, and what could not be written is caught up later.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import secrets
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from sweeper.ledger.typed import JobLine, Line
from sweeper.tracking.projection import Dataset, Projection, Run, RunStatus, study_params
from sweeper.tracking.store_uri import sqlite_file, sqlite_uri
from sweeper.values.labels import differing
from sweeper.values.run_folder import UNWRITABLE, RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER_ID, TRIAL_ID, WRITTEN = "sweeper.folder_id", "sweeper.trial_id", "sweeper.frontier.points"
PARENT, NOTE, NAME = "mlflow.parentRunId", "mlflow.note.content", "mlflow.runName"
POINTS_AT_ONCE = 800
MAX_STUDY_PARAMS = 90
"""With `POINTS_AT_ONCE` and the tags within MLflow's limits of one batch: 1000 in all, 100 params, 100 tags."""
COLLECT_AFTER = (50_000, 20, 100)
"""The garbage collector's thresholds there: its own look at every 700 objects takes a fifth of the time of a write."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""MLflow's settings, unless the user has set them otherwise."""
NO_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""We try again ourselves, after a look at what is there: where the answer to a call was lost, MLflow's own next try
would make a run a second time."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Where MLflow's client writes itself, and so artifacts too."""
MAX_NOTE = 5000
"""Characters of a description that every MLflow store takes."""


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
    datasets: set[Dataset] = field(default_factory=set)


class Writer:
    """Brings MLflow's runs to what the projection says."""

    def __init__(self, *, uri: str, experiment: str, folder: RunFolder, profile: str, description: str) -> None:
        self._uri, self._experiment, self._folder, self._description = uri, experiment, folder, description
        self._projection = Projection(study=experiment, profile=profile, named_by=_named_by(folder))
        self._profile = profile
        self._changed: dict[str, None] = {}
        self._artifacts_wanted = False
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._parent: _Remote | None = None
        self._children: dict[str, _Remote] = {}

    def open(self) -> None:
        """Make a client of the store, and the store where it isn't there. Raises what MLflow does."""
        self._client = self._client or open_store(self._uri)

    def add(self, records: Sequence[Line], *, live: bool) -> None:
        """Project records: `live` ones of the run that goes on, or those of earlier ones."""
        for record in records:
            self._projection.add(record, live=live)
            if isinstance(record, JobLine) and record.trial_id in self._projection.trials:
                self._changed[record.trial_id] = None

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
        self.open()
        client = self._client
        assert client is not None
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
        if self._artifacts_wanted:
            parent.tags[NOTE] = self._note()
            self._write_artifacts(client, self._parent.run_id)
        _write_run(client, parent, self._parent)
        _write_datasets(client, list(self._projection.datasets), self._parent)
        if failures:
            raise failures[-1]

    def _find_experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            where = artifact_location(self._uri, self._experiment, runs=self._folder.root.parent.parent)
            return str(client.create_experiment(self._experiment, artifact_location=where))
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find_runs(self, client: MlflowClient, parent: Run) -> None:
        """The runs of this folder, each searched for once, or the parent made."""
        folder_id = self._projection.folder_id
        parent.tags |= {
            FOLDER_ID: folder_id,
            NOTE: self._note(),
            "sweeper.folder": str(self._folder.root),
            "sweeper.study": self._experiment,
            "sweeper.profile": self._profile,
        }
        parent.params |= self._study_params()
        found = self._search(client, f"tags.`{FOLDER_ID}` = '{folder_id}'")
        remote = found[0] if found else self._create(client, parent, {FOLDER_ID: folder_id})
        children = self._search(client, f"tags.`{PARENT}` = '{remote.run_id}'") if found else []
        self._children, again = {}, found[1:]
        for child in children:
            if TRIAL_ID in child.tags and self._children.setdefault(child.tags[TRIAL_ID], child) is not child:
                again.append(child)
        for one in again:  # made by a call that was given up, but not by the server
            client.delete_run(one.run_id)
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
                datasets={
                    Dataset(name=one.dataset.name, digest=one.dataset.digest) for one in run.inputs.dataset_inputs
                },
            )
            for run in runs
        ]

    def _create(self, client: MlflowClient, run: Run, tags: Mapping[str, str]) -> _Remote:
        made = client.create_run(self._experiment_id, start_time=run.start_ms, run_name=run.name, tags=dict(tags))
        return _Remote(run_id=made.info.run_id, status=made.info.status, written=0, tags={**tags, NAME: run.name})

    def _write_child(self, client: MlflowClient, trial_id: str) -> None:
        assert self._parent is not None
        run = self._projection.trials[trial_id]
        if trial_id not in self._children:
            tags = {**run.tags, TRIAL_ID: trial_id, PARENT: self._parent.run_id}
            self._children[trial_id] = self._create(client, run, tags)
        _write_run(client, run, self._children[trial_id])

    def _note(self) -> str:
        """The question, and the answer as the folder has it."""
        try:
            answer = " ".join(json.loads(self._folder.frontier.read_text(encoding="utf-8"))["answer"])
        except (OSError, ValueError, KeyError, TypeError):
            answer = ""
        return f"{self._description}\n\n{answer}".strip()[:MAX_NOTE]

    def _study_params(self) -> dict[str, str]:
        own = {"name": self._experiment, "profile": self._profile}
        if not self._folder.study.exists():
            return own
        study = yaml.safe_load(self._folder.study.read_text(encoding="utf-8"))
        return dict(list({**own, **study_params(study)}.items())[:MAX_STUDY_PARAMS])

    def _write_artifacts(self, client: MlflowClient, run_id: str) -> None:
        folder = self._folder
        for path in (folder.study, folder.plan, folder.frontier, folder.figure, folder.vector_figure, folder.report):
            if path.exists():
                client.log_artifact(run_id, str(path))
        self._artifacts_wanted = False


def open_store(uri: str) -> MlflowClient:
    """A client of the store, made when it isn't there: the first `runs/mlflow.db` takes some 5 s."""
    _check_address(uri)
    os.environ.update({**SETTINGS, **os.environ, **NO_RETRIES})
    warnings.filterwarnings("ignore", module=r"mlflow|alembic|sqlalchemy")
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    if (file := sqlite_file(uri)) and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _make_database(file)
    return MlflowClient(tracking_uri=uri)


def _make_database(file: Path) -> None:
    """Make the SQLite store, whole or not at all: MLflow can't go on with one that was half made."""
    from mlflow import MlflowClient

    new = file.with_name(f"{file.name}.{secrets.token_hex(4)}.writing")
    try:
        MlflowClient(tracking_uri=sqlite_uri(new))
        with contextlib.closing(sqlite3.connect(new)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(new, file)
    finally:
        for part in ("", "-journal", "-wal", "-shm"):
            new.with_name(new.name + part).unlink(missing_ok=True)


def may_come_back(error: BaseException) -> bool:
    """Whether a store that couldn't be opened may be away, rather than one that MLflow will never take."""
    from sqlalchemy.exc import OperationalError

    local = ("unable to open database file", "readonly database")
    for one in _causes(error):
        if isinstance(one, OperationalError):
            return not any(words in str(one) for words in local)
        if isinstance(one, ConnectionError | TimeoutError):
            return True
    return unwritable(error)


def unwritable(error: BaseException) -> bool:
    """Whether a write failed because a file of the store can't be written: the disk is full, or read-only."""
    words = ("database or disk is full", "disk I/O error", "readonly database", "No space left on device")
    return any(
        (isinstance(one, OSError) and one.errno in UNWRITABLE) or any(said in str(one) for said in words)
        for one in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _check_address(uri: str) -> None:
    """Raises ValueError for an http address without a host, or with a port that is none."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and not (parts.hostname and (parts.port is None or parts.port > 0)):
        raise ValueError("it names no host: write http://HOST:PORT")


def artifact_location(uri: str, experiment: str, *, runs: Path) -> str | None:
    """Beside a SQLite store; of another database in `runs`; else the server's own.

    Absolute, as MLflow's own default is the working directory.
    """
    if file := sqlite_file(uri):
        runs = file.parent
    elif not uri.startswith(DATABASES):
        return None
    return (runs.absolute() / "mlartifacts" / experiment).as_uri()


def _named_by(folder: RunFolder) -> tuple[str, ...]:
    """The fields that tell the planned configs apart."""
    try:
        return differing(json.loads(folder.plan.read_text(encoding="utf-8"))["configs"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _write_datasets(client: MlflowClient, wanted: Sequence[Dataset], remote: _Remote) -> None:
    """Log as inputs what isn't one yet."""
    from mlflow import entities
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    missing = [one for one in wanted if one not in remote.datasets]
    if not missing:
        return
    context = entities.InputTag(MLFLOW_DATASET_CONTEXT, "training")
    made = [
        entities.Dataset(name=one.name, digest=one.digest, source_type="sweeper", source=json.dumps({"data": one.name}))
        for one in missing
    ]
    client.log_inputs(remote.run_id, [entities.DatasetInput(dataset, [context]) for dataset in made])
    remote.datasets |= set(missing)


def _write_run(client: MlflowClient, run: Run, remote: _Remote) -> None:
    """Write the difference. Params can't be changed once written; points are written in order."""
    from mlflow.entities import Metric, Param, RunTag

    written = _written(run, remote)
    if run.status == "RUNNING" and remote.status != "RUNNING":
        client.update_run(remote.run_id, status="RUNNING")
        remote.status = "RUNNING"
    wanted = {**run.tags, NAME: run.name}
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
