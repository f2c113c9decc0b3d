"""Runs the jobs of a session on Ray, one per device. Tune places and supervises jobs, and decides nothing.

    session.ask  ◄─ _Asker (Tune's Searcher) ─► config {"job": …} ─► JobTrainable in a worker process
    session.tell ◄─ _Teller (Tune's Scheduler) ◄─ result {"event": …} ◄─ one step() per event

Tune copies and pickles searchers and schedulers as it likes, so what they share stays in `_DESKS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import CheckpointConfig, PlacementGroupFactory, TuneError
from ray.tune.experiment import Trial
from ray.tune.result import DONE
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeper.runners.device.scratch import scratch_folder, scratch_parent
from sweeper.runners.device.stack import Worker, inventory
from sweeper.runners.in_process import Asked
from sweeper.runners.ray import connection, node_logs
from sweeper.runners.ray.connection import SETTINGS, Room
from sweeper.runners.ray.node_logs import Piece
from sweeper.runners.training.job_run import DEFAULT_TARGET, JobRun, last_lines, log_path, settle_threads, stopped
from sweeper.values.errors import SweeperError
from sweeper.values.events import Continue, Done, Event, Failed, Final, Rung, Speed, Stop, Wait
from sweeper.values.machine import ACCELERATOR_TYPE
from sweeper.values.records import Job

RECYCLED = "the worker that ran out of memory isn't given another job"
"""What a worker says that wants to be replaced."""


STRANDED_SECONDS = 120.0
"""How long a device type of which no node is left is waited for, when nothing else runs."""

LOG_SECONDS = 20.0
"""How long the driver waits for the last lines of a dead worker's log, whose node may be gone too."""


class JobTrainable(tune.Trainable):
    """A worker process: runs one job after another, one `step` per event, until one has run out of memory.

    What is left of the memory then may be in pieces, on the device and on the host: the next job gets a new process.
    Afar from the driver a worker tells before each job where it runs and on what: the job may end it without another
    word.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Before torch is imported: all CPUs of the job for its threads."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver ends us
        settle_threads(config["cpus"])
        self._worker = Worker(
            node=ray.util.get_node_ip_address(),
            node_id=ray.get_runtime_context().get_node_id(),
            stack=inventory(cuda=config["gpus"] > 0, threads=config["cpus"]),
        )
        self._start(config)

    def _start(self, config: Mapping[str, Any]) -> None:
        job = Job.from_dict(json.loads(config["job"]))
        logs = Path(config["logs"]) if config["logs"] else node_logs.folder_of(config["run"], job)
        self._run = JobRun(job, job_target=config["target"], logs=logs)
        self._handed_over = None if config["logs"] else Piece(text=b"", end=0)
        self._log = log_path(job, logs)
        self._told, self._spent = bool(config["logs"]), False

    def step(self) -> dict[str, Any]:
        """From afar the worker itself; then event by event of the job, each with what was logged meanwhile."""
        if not self._told:
            self._told = True
            return {"worker": self._worker, DONE: False}
        event = self._run.next_event()
        self._spent = getattr(event, "status", None) == "out_of_memory"
        if self._handed_over is not None:
            self._handed_over = node_logs.added(self._log, self._handed_over.end)
        return {"event": event, "log": self._handed_over, DONE: not isinstance(event, Rung)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another job in the same process.

        Raises SweeperError instead when that process is to be replaced. (Returning False would lose the job: Tune
        ends the trial then without telling anyone.)
        """
        self.cleanup()
        if self._spent:
            raise SweeperError(RECYCLED)
        self._start(new_config)
        return True

    def cleanup(self) -> None:
        """Let the last job release what it holds."""
        self._run.close()
        if self._handed_over is not None:
            node_logs.remove(self._log)

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """The job's cores and devices, of the kind that it is asked for."""
        cpus, gpus, on = config["cpus"], config["gpus"], config["on"]
        # Of the kind that a node has there is one on it, whatever the number of devices: a small part of it tells.
        kind = {ACCELERATOR_TYPE + on: 0.001} if on else {}
        return PlacementGroupFactory([{"CPU": cpus, **({"GPU": gpus} if gpus else {}), **kind}])


@dataclass
class _Handed:
    """A job that was handed out, and what was heard of it: its worker, its rungs, how much of its log."""

    job: Job
    began: float = field(default_factory=time.monotonic)
    worker: Worker | None = None
    rungs: list[Rung] = field(default_factory=list)
    logged: int = 0


class _Desk:
    """What searcher and scheduler share: the session, and which job each of Tune's trials is.

    `logs` is the driver's folder; `afar`: workers don't write there, but on their own nodes' disks. Else they run on
    what is found `here`.
    """

    def __init__(
        self, session: Asked, *, room: Room, job_config: Mapping[str, Any], logs: Path, here: Mapping[str, Any] | None
    ) -> None:
        self._session, self._room, self._job_config = session, room, job_config
        self._logs, self._here, self._afar = logs, here or {}, here is None
        self._handed: dict[str, _Handed] = {}
        self._again: list[Job] = []
        self._stranded: float | None = None
        self.error: Exception | None = None

    def ask(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial's config; None when no device is free or no job is ready; Searcher.FINISHED at the end."""
        with self._keep_error():
            answer = self._next()
            if isinstance(answer, Wait):
                self._check_waiting()
        if isinstance(answer, Done):
            return Searcher.FINISHED
        if isinstance(answer, Wait):
            return None
        self._handed[trial_id] = _Handed(job=answer)
        return {**self._job_config, "job": json.dumps(answer.to_dict()), "on": answer.on}

    def _free(self) -> tuple[str, ...] | None:
        """The device types that have room for another job; None where they aren't told apart."""
        if not self._session.kinds:
            return None
        taken = Counter(handed.job.on for handed in self._handed.values())
        return tuple(kind for kind in self._session.kinds if taken[kind] < self._room.of_kind(kind))

    def _next(self) -> Job | Wait | Done:
        free = self._free()
        if len(self._handed) >= self._room.jobs() or free == ():
            return Wait()
        return self._again.pop() if self._again else self._session.ask(free or ())

    def _check_waiting(self) -> None:
        """SweeperError where nobody is at work who could end the wait; of kinds without a node, after a while."""
        kinds = self._session.kinds
        if not kinds and not self._handed:
            raise SweeperError("the search waits for an outcome, but no job is running")
        if not kinds or any(self._room.of_kind(str(handed.job.on)) for handed in self._handed.values()):
            self._stranded = None
            return
        self._stranded = self._stranded or time.monotonic()
        if time.monotonic() - self._stranded > STRANDED_SECONDS:
            lost = [kind for kind in kinds if not self._room.of_kind(kind)]
            raise SweeperError(
                f"no node with {' or '.join(lost)} is left, and what there is to do waits for one: the same command "
                "goes on with the kinds that there are"
            )

    def on_result(self, trial_id: str, result: Mapping[str, Any]) -> Continue | Stop:
        """Take in which worker has a job, or tell the job's progress."""
        handed = self._handed[trial_id]
        if "worker" in result:
            handed.worker = result["worker"]
            return Continue()
        self._keep_log(handed, result["log"])
        handed.rungs.append(result["event"])
        with self._keep_error():
            return self._session.tell(result["event"])

    def on_end(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Tell a job's outcome. A last event that is a Rung is that of a job told to stop."""
        handed, event = self._handed.pop(trial_id), result["event"]
        if isinstance(event, Rung):
            event = stopped(handed.job, handed.rungs, seconds=time.monotonic() - handed.began)
        else:
            self._keep_log(handed, result["log"])
        with self._keep_error():
            self._session.tell(self._placed(event, handed.worker))

    def on_death(self, trial_id: str, report: str) -> None:
        """Tell that a job's process died; `report` is what Ray says about it. A job not begun is handed out again."""
        handed = self._handed.pop(trial_id)
        self._room.forget()
        if RECYCLED in report:
            self._again.append(handed.job)
            return
        lost = self._fetch_log(handed) if self._afar else ""
        said = "\n".join(filter(None, [last_lines(log_path(handed.job, self._logs)), lost]))
        event = Failed(job=handed.job, error=cause_of_death(report), traceback=said)
        with self._keep_error():
            self._session.tell(self._placed(event, handed.worker))

    def _placed(self, event: Final | Speed | Failed, worker: Worker | None) -> Event:
        """An outcome with where it comes from: a failure with its worker's stack, from afar any with its node."""
        node = {"node": worker.node} if worker else {}
        if not isinstance(event, Failed):
            return replace(event, environment={**event.environment, **node})
        error = f"{event.error} (on node {worker.node})" if worker else event.error
        stack = worker.stack if worker else self._here
        return replace(event, error=error, environment={**stack, **event.environment, **node})

    def _keep_log(self, handed: _Handed, piece: Piece | None) -> None:
        if piece is not None:
            with self._keep_error():
                node_logs.keep(piece, log_path(handed.job, self._logs))
            handed.logged = piece.end

    def _fetch_log(self, handed: _Handed) -> str:
        """Get what a dead worker has left of its log; "", or why it isn't to be had."""
        if handed.worker is None:
            return "(its worker died before the job began: Ray's own logs on its node may say why)"
        node_id, run, job = handed.worker.node_id, self._job_config["run"], handed.job
        try:
            piece = connection.on_node(node_id, node_logs.rest, run, job, handed.logged, seconds=LOG_SECONDS)
        except (RayError, TimeoutError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            folder = f"{node_logs.BASE}-*/{run}-{job.job_id}-{job.attempt}"
            return f"(its last lines stay on node {handed.worker.node}, in {folder} of the temporary folder: {why})"
        self._keep_log(handed, piece)
        return ""

    @contextlib.contextmanager
    def _keep_error(self) -> Iterator[None]:
        """Tune wraps what its callbacks raise: keep the original for `run` to raise."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise


_DESKS: dict[str, _Desk] = {}


class _Asker(Searcher):
    """Tune's Searcher: passes on what the session asks for."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        return _DESKS[self._key].ask(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Outcomes reach the session through the scheduler, which is given the error too."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the only memory."""

    restore = save


class _Teller(FIFOScheduler):
    """Tune's Scheduler: passes on what jobs say, and what the session decides."""

    def __init__(self, key: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._key = key

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        answer = _DESKS[self._key].on_result(trial.trial_id, result)
        decision: str = TrialScheduler.STOP if isinstance(answer, Stop) else TrialScheduler.CONTINUE
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        _DESKS[self._key].on_end(trial.trial_id, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        report = Path(trial.error_file).read_text() if trial.error_file else ""
        _DESKS[self._key].on_death(trial.trial_id, report)


def run(
    session: Asked,
    *,
    job_target: str = DEFAULT_TARGET,
    cpus: int,
    gpus: int,
    logs: Path,
    address: str | None = None,
) -> None:
    """Run jobs until none is left, each with `cpus` cores and `gpus` accelerators of its own.

    Uses the Ray that this process is connected to already; else connects to `address`, or starts a local Ray
    and ends it again. What a job prints goes to `logs/<job_id>.log`; with an `address`, as it is heard of: nothing
    is taken for shared with the cluster's nodes. Raises UsageError when no node has room for a job, and what the
    session raises.
    """
    key, logs = uuid.uuid4().hex, logs.absolute()
    own = {"target": job_target, "cpus": cpus, "gpus": gpus, "run": key, "logs": None if address else str(logs)}
    settings, quiet = connection.environment(SETTINGS), connection.quiet()
    with connection.connected(address), settings, quiet, scratch_folder(scratch_parent()) as storage:
        room = Room(cpus=cpus, gpus=gpus)
        here = None if address else inventory(cuda=gpus > 0, threads=cpus)
        desk = _DESKS[key] = _Desk(session, room=room, job_config=own, logs=logs, here=here)
        # Else Tune starts workers one after another, and short jobs take the idle ones before a new one is up.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(room.jobs())
        try:
            tune.run(
                JobTrainable,
                name=key,
                search_alg=_Asker(key),
                scheduler=_Teller(key),
                num_samples=-1,
                reuse_actors=True,
                storage_path=str(storage),
                checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
                raise_on_failed_trial=False,
                verbose=0,
            )
        except TuneError:
            if desk.error is None:
                raise
        finally:
            del _DESKS[key]
    if desk.error is not None:
        raise desk.error


def _trial_name(trial: Trial) -> str:
    return str(trial.trial_id)


def cause_of_death(report: str) -> str:
    """One line on why a worker process ended, from what Ray says."""
    for sign, cause in _SIGNS.items():
        if sign in report:
            return f"the job's process died: {cause}"
    lines = report.strip().splitlines() or ["Ray doesn't say why"]
    return f"the job's process died: {lines[-1].strip()}"


_SIGNS = {
    "its node has died": "its node was lost",
    "temporarily unavailable": "its node doesn't answer any more",
    "low on memory": "Ray ended it because the machine was running out of memory",
    "Worker unexpectedly exits": "it was killed (out of memory?) or crashed",
}
