"""A study with its plan and its folder: what it chooses from, what its ledger says of it, its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sweeper.ledger.file import held
from sweeper.ledger.typed import FinalLine, Line, OutcomeLine
from sweeper.measurements.measured import PlannedPoint
from sweeper.planning.plan import MOST_AVERAGED, Plan, plan_json
from sweeper.running.study_search import StudySearch
from sweeper.search.driver import Driver
from sweeper.search.follow_up import followed, to_follow
from sweeper.search.job_states import replay
from sweeper.study.schema import LoadedStudy
from sweeper.values.errors import UsageError
from sweeper.values.paths import command_of
from sweeper.values.records import Config
from sweeper.values.run_folder import RunFolder, write_atomically

if TYPE_CHECKING:
    from sweeper.compare.comparison import Comparison, Side
    from sweeper.frontier.frontiers import Frontier


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
        driver = self.search.driver(probed=on_several_kinds(records))
        replay(records, driver)
        return driver

    def points(self, driver: Driver, records: Sequence[Line]) -> list[PlannedPoint]:
        """The points that the study asks for: a config each, or one per micro-batch where that is an axis."""
        return self.search.points_of(set(driver.seeds), probed=on_several_kinds(records))

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

    def write_study(self) -> None:
        """Write study.yaml as resolved, and plan.json with the command that made them."""
        text = yaml.safe_dump(dict(self.loaded.resolved), sort_keys=False, allow_unicode=True)
        write_atomically(self.folder.study, text)
        plan = {**plan_json(self.plan), "command": self.command}
        write_atomically(self.folder.plan, json.dumps(plan, indent=2) + "\n")

    def frontier(self, records: Sequence[Line]) -> Frontier:
        """The frontier of each device type that `records` are from."""
        from sweeper.frontier.decision import Decide
        from sweeper.frontier.frontiers import frontier

        study, driver = self.loaded.study, self.replayed(records)
        how = (
            Decide(by=study.decide)
            if isinstance(study.decide, str)
            else Decide(by="loss_within", within=study.decide.loss_within)
        )
        return frontier(
            records,
            study=study.name,
            profile=self.loaded.profile,
            question=study.question,
            planned=self.points(driver, records),
            objectives=study.objectives,
            margins=study.margins.model_dump(),
            decide=how,
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


def on_several_kinds(records: Sequence[Line]) -> bool:
    """Whether jobs were asked for one of several device types, so that all configs are probed."""
    return any(isinstance(record, OutcomeLine) and record.on is not None for record in records)


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
