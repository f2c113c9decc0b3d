"""A study under way: plan, ledger, Driver, tracker and report put together, for any runner."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from sweeper.ledger.file import Ledger, held, read
from sweeper.ledger.typed import FailedLine, FinalLine, Line, MeasuredLine, OutcomeLine
from sweeper.measurements.measured import PlannedPoint
from sweeper.planning.plan import MOST_AVERAGED, Plan, plan_json
from sweeper.running.progress import Progress
from sweeper.running.session import FingerprintOf, Session
from sweeper.running.study_search import StudySearch
from sweeper.search.driver import Driver
from sweeper.search.follow_up import followed, to_follow
from sweeper.search.job_states import replay
from sweeper.search.on_kinds import OnKinds
from sweeper.study.schema import LoadedStudy
from sweeper.values.errors import JobsFailed, UsageError
from sweeper.values.home import may_write
from sweeper.values.labels import duration
from sweeper.values.paths import command_of
from sweeper.values.records import Config, DeviceType, Job
from sweeper.values.run_folder import RunFolder, write_atomically

if TYPE_CHECKING:
    from sweeper.compare.comparison import Comparison, Side
    from sweeper.frontier.frontiers import Frontier
    from sweeper.tracking.optuna_storage import Mirror

Runner = Callable[[Session], None]
START_SECONDS = 10.0
DRAIN_SECONDS = 60.0
DRAIN_SECONDS_INTERRUPTED = 3.0


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A study, its plan and its folder. `command` is what a user types to do it again, "" where that isn't known."""

    loaded: LoadedStudy
    plan: Plan
    folder: RunFolder
    command: str = ""

    @cached_property
    def search(self) -> StudySearch:
        """What the search chooses from."""
        return StudySearch(loaded=self.loaded, configs=self.plan.configs)

    def replayed(self, records: Sequence[Line]) -> Driver:
        """A Driver that knows what the ledger knows."""
        driver = self.search.driver(probed=_on_several_kinds(records))
        replay(records, driver)
        return driver

    def points(self, driver: Driver, records: Sequence[Line]) -> list[PlannedPoint]:
        """The points that the study asks for: a config each, or one per micro-batch where that is an axis."""
        return self.search.points_of(set(driver.seeds), probed=_on_several_kinds(records))

    def seeds(self, driver: Driver, records: Sequence[Line]) -> dict[str, int]:
        """By config id, how many seeds the study asks for, and beyond them those that were trained in a row.

        What was chosen for another seed once may not be now, as speeds are measured anew: the result stands.
        """
        driver.states()
        trained = {(record.config_id, record.seed) for record in records if isinstance(record, FinalLine)}
        wanted = dict(driver.seeds)
        for config_id in wanted:
            while wanted[config_id] < self.loaded.study.trial.most_seeds and (config_id, wanted[config_id]) in trained:
                wanted[config_id] += 1
        return wanted | dict.fromkeys(followed(driver), self.loaded.study.trial.first_seeds)

    def follow_ups(self, driver: Driver) -> dict[str, PlannedPoint]:
        """What is trained longer of which config, by the study's own config ids."""
        return self.search.follow_up_points(known) if (known := followed(driver)) else {}

    def run(
        self,
        runner: Runner,
        *,
        console: Console,
        tracking_uri: str,
        at_a_time: int,
        device: DeviceType,
        kinds: Sequence[str] = (),
        fingerprint_of: FingerprintOf,
        start: Callable[[float], bool] = lambda seconds: True,
    ) -> tuple[list[Line], Frontier, str]:
        """Do what is missing. Returns the ledger's records, the frontier, and why files of MLflow's store couldn't be
        written, "" where they could. KeyboardInterrupt leaves all whole.

        `kinds` are those of the devices, where there are several, the one that the search goes by first.
        Before anything runs, `start` is given the seconds that it will take by the plan; where it says no, that is
        as if it had been interrupted.
        Raises UsageError when the data is no longer what kept results were measured on, and, before anything runs,
        when MLflow will never take its store; CantWrite when a file can't be written.
        """
        from sweeper.tracking.tracker import Tracker

        study = self.loaded.study
        with Ledger(self.folder.ledger, lock=self.folder.lock) as ledger:
            kinds = kinds_as_before(kinds, ledger.records)
            probed = len(kinds) > 1 or _on_several_kinds(ledger.records)
            everywhere = OnKinds(self.search.driver(probed=probed), kinds)
            replay(ledger.records, everywhere)
            known = everywhere.driver
            self._check_data(known, ledger.records, fingerprint_of)
            self._check_logs()
            self.write_study()
            seconds = self.seconds_missing(known) / at_a_time
            about = f", about {duration(seconds)}" if seconds else ""
            console.print(_census(everywhere, ledger.records, branch_at=study.trial.branch_at) + about, highlight=False)
            if seconds and not start(seconds):
                raise KeyboardInterrupt
            with Tracker(
                uri=tracking_uri,
                experiment=study.name,
                folder=self.folder,
                profile=self.loaded.profile,
                description=study.question,
            ) as tracker:
                tracker.catch_up(ledger.records)
                mirror = self._mirror(ledger.records)
                try:
                    if "missing" in everywhere.states().values() or known.to_propose or to_follow(known):
                        # Importing MLflow keeps a core busy: on two cores that would slow the first trial.
                        tracker.require_store(away_after=START_SECONDS)
                        tracker.drain(START_SECONDS)
                        own = self.search.driver(device=device, at_a_time=at_a_time, probed=probed)
                        search = OnKinds(own, kinds)
                        observers = [tracker.observe, *([mirror.observe] if mirror else [])]
                        self._drive(search, ledger, runner, console, observers, at_a_time, fingerprint_of)
                except KeyboardInterrupt:
                    tracker.close(interrupted=True, timeout=DRAIN_SECONDS_INTERRUPTED)
                    raise
                if mirror is not None and mirror.warning:
                    console.print(mirror.warning, style="yellow", highlight=False)
                records = read(self.folder.ledger)
                if spent := self._spent(self.replayed(records)):
                    console.print(spent, style="yellow", highlight=False)
                found = self.write_report(records)
                tracker.log_artifacts()
                tracker.close(timeout=DRAIN_SECONDS)
                if tracker.warning:
                    console.print(tracker.warning, style="yellow", highlight=False)
        return records, found, tracker.unwritable

    def _mirror(self, records: Sequence[Line]) -> Mirror | None:
        """The storage that `search.storage` names, with what is known already."""
        study = self.loaded.study
        if study.search.storage is None:
            return None
        from sweeper.tracking.optuna_storage import Mirror

        mirror = Mirror(
            study.search.storage,
            name=f"{study.name}/{self.loaded.profile}",
            objectives=study.objectives,
            axes=study.differing,
            configs=[planned.config for planned in self.search.candidates],
        )
        mirror.catch_up(records)
        return mirror

    def _drive(
        self,
        search: OnKinds,
        ledger: Ledger,
        runner: Runner,
        console: Console,
        observers: Sequence[Callable[[Line], None]],
        at_a_time: int,
        fingerprint_of: FingerprintOf,
    ) -> None:
        driver = search.driver
        progress = Progress(
            console,
            jobs=driver.jobs,
            states=search.states,
            more=lambda: driver.to_propose + to_follow(driver),
            label=self.search.labeller(),
            at_a_time=at_a_time,
        )
        progress.note_earlier(ledger.records)
        with progress:
            observers = [*observers, progress.observe]
            session = Session(
                search,
                ledger,
                observers=observers,
                devices=at_a_time,
                command=self.command,
                fingerprint_of=fingerprint_of,
            )
            runner(session)

    def seconds_missing(self, driver: Driver) -> float:
        """Device-seconds of the trainings that are missing, by the plan; no more than what is left of the hours."""
        each = {planned.config.config_id: planned.seconds for planned in self.search.candidates}
        states, hours = driver.states(), self.loaded.study.search.max_gpu_hours
        trainings = [
            job for job_id, job in driver.jobs.items() if job.kind == "train" and states.get(job_id) == "missing"
        ]
        seconds = sum(each.get(job.config.config_id) or self._seconds_of(job.config) for job in trainings)
        seconds += driver.to_propose * sum(seconds or 0.0 for seconds in each.values()) / len(each)
        if following := to_follow(driver):
            some = [self._seconds_of(self.search.longer(one.config)) for one in self.search.candidates[:MOST_AVERAGED]]
            seconds += following * sum(some) / len(some)
        return seconds if hours is None else max(0.0, min(seconds, hours * 3600 - driver.device_seconds))

    def _seconds_of(self, config: Config) -> float:
        return self.plan.calibration.seconds(config, self.loaded.study.trial.branch_at) or 0.0

    def _spent(self, driver: Driver) -> str:
        """That the study ended for want of hours, "" where it didn't."""
        missing = list(driver.states().values()).count("missing") + driver.to_propose + to_follow(driver)
        if not missing or not driver.is_spent:
            return ""
        hours, taken = self.loaded.study.search.max_gpu_hours, driver.device_seconds / 3600
        return (
            f"search.max_gpu_hours {hours:g} is spent ({taken:.3g} taken): {missing} jobs weren't run; "
            "raise it, and the same command does them"
        )

    def _check_data(self, known: Driver, records: Sequence[Line], fingerprint_of: FingerprintOf) -> None:
        """Refuse to add to results that were measured on other data of the same name."""
        wanted = set(known.jobs)
        kept: dict[tuple[str, int], set[str]] = {}
        for record in records:
            if isinstance(record, FinalLine) and record.trial_id in wanted:
                data, vocab_size = record.config.data, record.config.vocab_size
                found = record.environment.get("data_fingerprint")
                if found and data is not None and vocab_size is not None:
                    kept.setdefault((data, vocab_size), set()).add(found)
        for (name, vocab_size), before in kept.items():
            now = fingerprint_of(name, vocab_size)
            if before - {now}:
                raise UsageError(
                    f"{name}: the data has changed since results in {self.folder.root} were measured (fingerprint "
                    f"{', '.join(sorted(before))}, now {now}): bring the old data back, or start anew with --fresh"
                )

    def _check_logs(self) -> None:
        """OSError where jobs couldn't write their logs: the first would fail, and with it all."""
        self.folder.logs.mkdir(exist_ok=True)
        if not may_write(self.folder.logs):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.folder.logs))

    def write_study(self) -> None:
        """Write study.yaml as resolved, and plan.json with the command that made them."""
        text = yaml.safe_dump(dict(self.loaded.resolved), sort_keys=False, allow_unicode=True)
        write_atomically(self.folder.study, text)
        plan = {**plan_json(self.plan), "command": self.command}
        write_atomically(self.folder.plan, json.dumps(plan, indent=2) + "\n")

    def frontier(self, records: Sequence[Line]) -> Frontier:
        """The frontier of each device type that `records` are from."""
        from sweeper.frontier.frontiers import frontier

        study, driver = self.loaded.study, self.replayed(records)
        return frontier(
            records,
            study=study.name,
            profile=self.loaded.profile,
            planned=self.points(driver, records),
            objectives=study.objectives,
            margins=study.margins.model_dump(),
            nuisance=study.nuisance,
            seeds=self.seeds(driver, records),
            most_seeds=study.trial.most_seeds if study.trial.most_seeds > study.trial.first_seeds else None,
            to_propose=driver.to_propose + to_follow(driver),
            follow_ups=self.follow_ups(driver),
            put_last=self.search.described(driver.put_last.values()),
        )

    def write_report(self, records: Sequence[Line], comparison: Comparison | None = None) -> Frontier:
        """Write frontier.json, frontier.png, frontier.svg and report.html from the ledger; returns the frontier."""
        from sweeper.report.page.html import write_report

        result = self.frontier(records)
        write_report(
            self.folder,
            frontier=result,
            plan_json=plan_json(self.plan),
            study=self.loaded.resolved,
            records=records,
            command=self.command or command_of(self.folder),
            comparison=comparison or self.by_device(records, result),
        )
        return result

    def sides(self, records: Sequence[Line], found: Frontier, *, folder: str = "") -> list[Side]:
        """What is compared of `found`, the frontier of `records`: a side for each device type that measured."""
        from sweeper.compare.comparison import sides_of

        driver = self.replayed(records)
        points, seeds = self.points(driver, records), self.seeds(driver, records)
        return sides_of(found, records, points, seeds, folder=folder)

    def by_device(self, records: Sequence[Line], found: Frontier) -> Comparison | None:
        """The device types side by side, None where there is one alone."""
        from sweeper.compare.comparison import compare

        if sum(bool(one.points) for one in found.frontiers) < 2:
            return None
        return compare(self.sides(records, found))

    def raise_if_failed(self, records: Sequence[Line]) -> None:
        """JobsFailed when a job failed three times, naming each and why."""
        driver = self.replayed(records)
        states = driver.states()
        failed = [job_id for job_id, state in states.items() if state == "failed"]
        if failed:
            name = self.search.labeller()
            why = {record.job_id: record.error for record in records if isinstance(record, FailedLine)}
            why |= {job_id: reason.why for job_id in failed if (reason := driver.reason(job_id)) is not None}
            raise JobsFailed(
                f"{len(failed)} of {len(states)} jobs failed three times (logs in {self.folder.logs}):\n"
                + "\n".join(f"  {_called(driver.jobs[i], name)}: {why.get(i, '')}" for i in failed)
            )


def _on_several_kinds(records: Sequence[Line]) -> bool:
    """Whether jobs were asked for one of several device types, so that all configs are probed."""
    return any(isinstance(record, OutcomeLine) and record.on is not None for record in records)


def kinds_as_before(kinds: Sequence[str], records: Sequence[Line]) -> tuple[str, ...]:
    """The kinds, first the one that an earlier run went by, where it's still among them."""
    outcomes = (r for r in reversed(records) if isinstance(r, OutcomeLine))
    before = next((r.on for r in outcomes if r.on is not None and not r.beside), None)
    return tuple(sorted(kinds, key=lambda kind: kind != before))


def _called(job: Job, label: Callable[[Job], str]) -> str:
    return f"{label(job)} seed {job.seed}" if job.kind == "train" else f"{label(job)} speed"


def _census(search: OnKinds, records: Sequence[Line], *, branch_at: Sequence[float] = ()) -> str:
    """What of the ledger still applies, in one line."""
    settled = {record.job_id for record in records if isinstance(record, MeasuredLine)}
    driver, states = search.driver, search.states()
    kept = [job_id for job_id in settled if states.get(job_id) == "done"]
    stale = settled - set(driver.jobs) - set(states)
    missing = list(states.values()).count("missing") + driver.to_propose + to_follow(driver)
    parts = [f"{missing} jobs to do"] if not settled else [f"{len(kept)} kept", f"{missing} to do"]
    trained = {record.trial_id for record in records if isinstance(record, FinalLine) and record.status == "ok"}
    if branch_at and (again := sum(states.get(job_id) == "missing" for job_id in trained)):
        parts.append(f"{again} of them again, as they ran without these branches")
    if stale:
        parts.append(f"{len(stale)} no longer asked (kept in the ledger)")
    return ", ".join(parts)


def set_aside(folder: RunFolder) -> Path | None:
    """Rename a folder that has a ledger, so that the study starts anew; None when there was nothing."""
    if not folder.ledger.exists():
        return None
    with held(folder.lock):
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        aside = folder.root.with_name(f"{folder.root.name}.{stamp}")
        if aside.exists():
            raise UsageError(f"{aside} exists already: try again in a second")
        folder.root.rename(aside)
    return aside
