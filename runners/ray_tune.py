"""Runs the jobs of a session on Ray, one per device. Tune places and supervises jobs, and decides nothing.

    session.ask  ◄─ _Asker (Tune's Searcher) ─► config {"job": …} ─► JobTrainable in a worker process
    session.tell ◄─ _Teller (Tune's Scheduler) ◄─ result {"event": …} ◄─ one step() per event

Tune copies and pickles searchers and schedulers as it likes, so what they share stays in `_DESKS`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray._private import worker as ray_worker
from ray.tune import CheckpointConfig, PlacementGroupFactory, TuneError
from ray.tune.experiment import Trial
from ray.tune.result import DONE
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from runners.in_process import Asked
from runners.job_run import DEFAULT_TARGET, JobRun, last_lines, log_path, settle_threads, stopped
from runners.scratch import scratch_folder, scratch_parent
from sweeper.errors import SweeperError, UsageError
from sweeper.records import Continue, Done, Event, Failed, Job, Rung, Stop, Wait

PACKAGES = ("model", "runners", "sweeper")
"""Shipped to workers: their names are generic, so a worker never looks for them in a working directory."""

OBJECT_STORE_BYTES = 80 * 2**20
"""Only small events pass through the store; Ray wants 75 MiB at least."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker without a GPU of its own sees none
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints tables even at verbosity 0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's would finish the running step first
    "TUNE_GLOBAL_CHECKPOINT_S": "1e12",  # the ledger is the only memory
    "TUNE_MAX_PENDING_TRIALS_PG": "1",  # as many as there is room for, once that is known
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
"""Read from the environment by Ray and Tune, here and in the workers."""


RECYCLED = "the worker that ran out of memory isn't given another job"
"""What a worker says that wants to be replaced."""


class JobTrainable(tune.Trainable):
    """A worker process: runs one job after another, one `step` per event, until one has run out of memory.

    What is left of the memory then may be in pieces, on the device and on the host: the next job gets a new process.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Before torch is imported: all CPUs of the job for its threads."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver ends us
        settle_threads(config["cpus"])
        self._start(config)

    def _start(self, config: Mapping[str, Any]) -> None:
        job = Job.from_dict(json.loads(config["job"]))
        self._run = JobRun(job, job_target=config["target"], logs=Path(config["logs"]))
        self._spent = False

    def step(self) -> dict[str, Any]:
        """The next event of the job."""
        event = self._run.next_event()
        self._spent = getattr(event, "status", None) == "out_of_memory"
        return {"event": event, DONE: not isinstance(event, Rung)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another job in the same process.

        Raises SweeperError instead when that process is to be replaced. (Returning False would lose the job: Tune
        ends the trial then without telling anyone.)
        """
        self._run.close()
        if self._spent:
            raise SweeperError(RECYCLED)
        self._start(new_config)
        return True

    def cleanup(self) -> None:
        """Let the last job release what it holds."""
        self._run.close()


class _Desk:
    """What searcher and scheduler share: the session, and which job each of Tune's trials is."""

    def __init__(self, session: Asked, *, room: int, job_config: Mapping[str, Any]) -> None:
        self._session, self._room, self._job_config = session, room, job_config
        self._jobs: dict[str, Job] = {}
        self._again: list[Job] = []
        self._rungs: dict[str, list[Rung]] = {}
        self._began: dict[str, float] = {}
        self.error: Exception | None = None

    def ask(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial's config; None when no device is free or no job is ready; Searcher.FINISHED at the end."""
        if len(self._jobs) >= self._room:
            return None
        with self._keep_error():
            answer = self._again.pop() if self._again else self._session.ask()
            if isinstance(answer, Wait) and not self._jobs:
                raise SweeperError("the search waits for an outcome, but no job is running")
        if isinstance(answer, Done):
            return Searcher.FINISHED
        if isinstance(answer, Wait):
            return None
        self._jobs[trial_id], self._rungs[trial_id], self._began[trial_id] = answer, [], time.monotonic()
        return {**self._job_config, "job": json.dumps(answer.to_dict())}

    def on_rung(self, trial_id: str, rung: Rung) -> Continue | Stop:
        """Tell a job's progress."""
        self._rungs[trial_id].append(rung)
        with self._keep_error():
            return self._session.tell(rung)

    def on_end(self, trial_id: str, event: Event) -> None:
        """Tell a job's outcome. A last event that is a Rung is that of a job told to stop."""
        job, rungs = self._jobs.pop(trial_id), self._rungs.pop(trial_id)
        seconds = time.monotonic() - self._began.pop(trial_id)
        with self._keep_error():
            self._session.tell(stopped(job, rungs, seconds=seconds) if isinstance(event, Rung) else event)

    def on_death(self, trial_id: str, report: str) -> None:
        """Tell that a job's process died; `report` is what Ray says about it. A job not begun is handed out again."""
        job = self._jobs.pop(trial_id)
        del self._rungs[trial_id], self._began[trial_id]
        if RECYCLED in report:
            self._again.append(job)
            return
        said = last_lines(log_path(job, Path(self._job_config["logs"])))
        with self._keep_error():
            self._session.tell(Failed(job=job, error=cause_of_death(report), traceback=said))

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

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return _DESKS[self._key].ask(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Outcomes reach the session through the scheduler, which is given the error too."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the only memory."""

    restore = save


class _Teller(FIFOScheduler):
    """Tune's Scheduler: passes on what jobs say, and what the session decides."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        answer = _DESKS[self._key].on_rung(trial.trial_id, result["event"])
        decision: str = TrialScheduler.STOP if isinstance(answer, Stop) else TrialScheduler.CONTINUE
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        _DESKS[self._key].on_end(trial.trial_id, result["event"])

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
    and ends it again. What a job prints goes to `logs/<job_id>.log`. Raises UsageError when no node has room
    for a job, and what the session raises.
    """
    key = uuid.uuid4().hex
    job_config = {"target": job_target, "cpus": cpus, "logs": str(logs.absolute())}
    with connected(address), _environment(SETTINGS), _quiet(), scratch_folder(scratch_parent()) as storage:
        room = room_for(cpus=cpus, gpus=gpus)
        desk = _DESKS[key] = _Desk(session, room=room, job_config=job_config)
        # Else Tune starts workers one after another, and short jobs take the idle ones before a new one is up.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(room)
        try:
            tune.run(
                JobTrainable,
                name=key,
                search_alg=_Asker(key),
                scheduler=_Teller(key),
                num_samples=-1,
                resources_per_trial=PlacementGroupFactory([{"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}]),
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


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connected to Ray: as this process is already, else to `address`, else to a local Ray of our own.

    Workers get PACKAGES shipped and an empty working directory, so that neither the driver's directory nor
    anything in it is on their import path.
    """
    if ray.is_initialized():
        yield
        return
    with _environment(SETTINGS), _quiet(), scratch_folder(scratch_parent()) as scratch:
        empty = scratch / "empty"
        empty.mkdir()
        runtime_env = {
            "working_dir": str(empty),
            "py_modules": [_folder_of(package) for package in PACKAGES],
            "env_vars": SETTINGS,
        }
        local = {
            "num_cpus": len(os.sched_getaffinity(0)),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(scratch),
        }
        try:
            with _interrupt_afterwards():
                ray.init(
                    address=address or "local",
                    namespace="sweeper",
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    runtime_env=runtime_env,
                    **({} if address else local),
                )
            with _sigterm_interrupts():
                yield
        finally:
            with _interrupt_afterwards():
                ray.shutdown()


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SweeperError(f"the package {package} is not installed as a folder")
    return str(Path(next(iter(spec.submodule_search_locations))).absolute())


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM (a scheduler's, or `timeout`'s) ends a run as Ctrl-C does; Ray's own handler would dump its stack."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if callable(before) else signal.SIG_DFL)


@contextlib.contextmanager
def _interrupt_afterwards() -> Iterator[None]:
    """Ctrl-C waits for the end of the block: a Ray half started crashes when it is shut down. A second doesn't."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of Ray's own on the terminal: what matters comes back as events and errors."""
    logger = logging.getLogger("ray")
    level, show = logger.level, ray_worker.print_to_stdstream
    logger.setLevel(logging.CRITICAL)
    # Ray prints "A worker died or was killed" whatever log_to_driver says, and has no switch for it.
    ray_worker.print_to_stdstream = lambda *_, **__: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        ray_worker.print_to_stdstream = show


def room_for(*, cpus: int, gpus: int) -> int:
    """How many jobs fit on the connected Ray at once. Raises UsageError when none does."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = 0
    for node in nodes:
        fits = int(node.get("CPU", 0)) // cpus
        # Jobs that compute on the same processor would measure each other's speed: one a node.
        room += min(fits, int(node.get("GPU", 0)) // gpus) if gpus else min(fits, 1)
    if not room:
        most = {name: int(max(node.get(name, 0) for node in nodes)) for name in ("CPU", "GPU")}
        raise UsageError(
            f"resources: no node has {cpus} CPUs and {gpus} GPUs for a job: "
            f"the most that one has are {most['CPU']} CPUs and {most['GPU']} GPUs"
        )
    return room


def cause_of_death(report: str) -> str:
    """One line on why a worker process ended, from what Ray says."""
    for sign, cause in _SIGNS.items():
        if sign in report:
            return f"the job's process died: {cause}"
    lines = report.strip().splitlines() or ["Ray doesn't say why"]
    return f"the job's process died: {lines[-1].strip()}"


_SIGNS = {
    "low on memory": "Ray ended it because the machine was running out of memory",
    "Worker unexpectedly exits": "it was killed (out of memory?) or crashed",
}
