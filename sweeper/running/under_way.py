"""A study under way: jobs are asked for, run and told of, all of it written down, until nothing is left to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from sweeper.ledger.file import Ledger, read
from sweeper.ledger.typed import FailedLine, Line
from sweeper.running.preparation import Prepared, prepare
from sweeper.running.progress import Progress
from sweeper.running.session import FingerprintOf, Observer, Session
from sweeper.running.study_run import StudyRun
from sweeper.search.driver import Driver
from sweeper.search.follow_up import to_follow
from sweeper.search.on_kinds import OnKinds
from sweeper.values.errors import CantWrite, JobsFailed
from sweeper.values.paths import results_in, shown
from sweeper.values.records import DeviceType, Job

if TYPE_CHECKING:
    from sweeper.tracking.optuna_storage import Mirror

Runner = Callable[[Session], None]
"""Asks a session for jobs until none is left, runs them, and tells it what happens."""
START_SECONDS = 10.0
DRAIN_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Devices:
    """What a study's jobs run on, `at_a_time` of them at once, and the `runner` that runs them.

    `kinds` are those of the devices, where there are several, the one that the search goes by first.
    """

    runner: Runner
    device: DeviceType
    at_a_time: int
    kinds: Sequence[str] = ()
    fingerprint_of: FingerprintOf


def run_study(
    run: StudyRun,
    devices: Devices,
    *,
    console: Console,
    tracking_uri: str,
    start: Callable[[float], bool] = lambda seconds: True,
    again: Sequence[str] = (),
) -> None:
    """Do what is missing of a study, write its report, and say what came out. KeyboardInterrupt leaves all whole.

    Before anything runs, `start` is given the seconds that it will take by the plan; where it says no, that is
    as if it had been interrupted. Trials of the ids `again` are measured once more.
    Raises UsageError when the data is no longer what kept results were measured on, and, before anything runs,
    when MLflow will never take its store; CantWrite when a file can't be written; after the report JobsFailed, and
    CantWrite where files of MLflow's store couldn't be written.
    """
    from sweeper.report.tables import summary
    from sweeper.tracking.tracker import Tracker

    study, warn = run.loaded.study, partial(console.print, style="yellow", highlight=False)
    with results_in(run.folder.root), Ledger(run.folder.ledger, lock=run.folder.lock) as ledger:
        prepared = prepare(run, ledger.records, devices.at_a_time, devices.kinds, devices.fingerprint_of, again)
        console.print(prepared.text, highlight=False)
        if prepared.seconds and not start(prepared.seconds):
            raise KeyboardInterrupt
        with Tracker(
            uri=tracking_uri,
            experiment=study.name,
            folder=run.folder,
            profile=run.loaded.profile,
            description=study.question,
        ) as tracker:
            tracker.catch_up(ledger.records)
            mirror = _mirror_of(run, ledger.records)
            if not prepared.is_complete:
                # Importing MLflow keeps a core busy: on two cores that would slow the first trial.
                tracker.require_store(away_after=START_SECONDS)
                tracker.drain(START_SECONDS)
                observers = [tracker.observe, *([mirror.observe] if mirror else [])]
                _ask_run_tell(run, devices, prepared, ledger, console, observers)
            if mirror is not None and mirror.warning:
                warn(mirror.warning)
            records = read(run.folder.ledger)
            if spent := _spent(run, run.replayed(records)):
                warn(spent)
            frontier = run.write_report(records)
            tracker.log_artifacts()
            tracker.close(timeout=DRAIN_SECONDS)
            if tracker.warning:
                warn(tracker.warning)
    console.print(summary(frontier))
    console.print(f"report: {shown(run.folder.report)}   curves and runs: sweeper ui")
    _raise_if_failed(run, records)
    if tracker.unwritable:
        raise CantWrite(f"MLflow's store {tracker.unwritable} can't be written; the ledger and the report are whole")


def _ask_run_tell(
    run: StudyRun,
    devices: Devices,
    prepared: Prepared,
    ledger: Ledger,
    console: Console,
    observers: Sequence[Observer],
) -> None:
    """Have the runner do all that is missing: its session asks the search, writes to the ledger, tells the search."""
    driver = run.search.driver(device=devices.device, at_a_time=devices.at_a_time, probed=prepared.probed)
    search = OnKinds(driver, prepared.kinds)
    progress = Progress(
        console,
        jobs=driver.jobs,
        states=search.states,
        more=lambda: driver.to_propose + to_follow(driver),
        label=run.search.labeller(),
        at_a_time=devices.at_a_time,
    )
    progress.note_earlier(ledger.records)
    with progress:
        session = Session(
            search,
            ledger,
            observers=[*observers, progress.observe],
            devices=devices.at_a_time,
            command=run.command,
            fingerprint_of=devices.fingerprint_of,
            again=prepared.again,
        )
        devices.runner(session)


def _mirror_of(run: StudyRun, records: Sequence[Line]) -> Mirror | None:
    """The storage that `search.storage` names, with what is known already."""
    study = run.loaded.study
    if study.search.storage is None:
        return None
    from sweeper.tracking.optuna_storage import Mirror

    mirror = Mirror(
        study.search.storage,
        name=f"{study.name}/{run.loaded.profile}",
        objectives=study.objectives,
        axes=study.differing,
        configs=[planned.config for planned in run.search.candidates],
    )
    mirror.catch_up(records)
    return mirror


def _spent(run: StudyRun, driver: Driver) -> str:
    """That the study ended for want of hours, "" where it didn't."""
    missing = list(driver.states().values()).count("missing") + driver.to_propose + to_follow(driver)
    if not missing or not driver.is_spent:
        return ""
    hours, taken = run.loaded.study.search.max_gpu_hours, driver.device_seconds / 3600
    return (
        f"search.max_gpu_hours {hours:g} is spent ({taken:.3g} taken): {missing} jobs weren't run; "
        "raise it, and the same command does them"
    )


def _raise_if_failed(run: StudyRun, records: Sequence[Line]) -> None:
    """JobsFailed when a job failed three times, naming each and why."""
    driver = run.replayed(records)
    states = driver.states()
    failed = [job_id for job_id, state in states.items() if state == "failed"]
    if failed:
        name = run.search.labeller()
        why = {record.job_id: record.error for record in records if isinstance(record, FailedLine)}
        why |= {job_id: reason.why for job_id in failed if (reason := driver.reason(job_id)) is not None}
        raise JobsFailed(
            f"{len(failed)} of {len(states)} jobs failed three times (logs in {run.folder.logs}):\n"
            + "\n".join(f"  {_called(driver.jobs[i], name)}: {why.get(i, '')}" for i in failed)
        )


def _called(job: Job, label: Callable[[Job], str]) -> str:
    return f"{label(job)} seed {job.seed}" if job.kind == "train" else f"{label(job)} speed"
