"""A ledger replayed to a Driver, and what became of each job that a study asks for, as such a Driver sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sweeper.ledger.typed import AskedLine, FailedLine, Line, Outcome, RungLine
from sweeper.measurements.measured import PlannedPoint, Seeds, micro_batches
from sweeper.planning.resolving import JobSettings, of_each
from sweeper.search.driver import Driver
from sweeper.search.grid import Grid
from sweeper.search.state.results import RunState
from sweeper.values.events import Event, Rung
from sweeper.values.records import Job

State = Literal["ok", "diverged", "out_of_memory", "stopped_early", "failed", "asked", "missing"]


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What became of one job: `seed` is None for a speed job; `why` is one line on what has no result.

    `to_do`: whether `sweeper run` would do it, or is doing it; `untrained`: a trial that was never run, as its probes
    found no way to. A ladder's probe that found the memory's end has done its job and is ok.
    """

    config_id: str
    seed: int | None
    state: State
    why: str = ""
    to_do: bool = False
    untrained: bool = False


def job_states(records: Iterable[Line], planned: Sequence[PlannedPoint], seeds: Seeds = None) -> list[JobState]:
    """The state of every planned speed job and trial, as a Driver that has read the ledger sees it.

    Seeds 0 … n − 1 are expected of every config and others ignored, where `seeds` gives n for all, or by config id;
    where it is None, as many as any config was asked for.
    """
    if not planned:
        return []
    lines = [line for line in records if isinstance(line, AskedLine | Outcome)]
    driver = _driver(planned, seeds or 1 + max((_seed(line) for line in lines if line.trial_id), default=0))
    latest: dict[str, AskedLine | Outcome] = {}
    for line in lines:
        latest[line.job_id] = line
        if not isinstance(line, AskedLine):
            driver.tell(line.event)
    return [_job_state(driver, job_id, done, latest.get(job_id)) for job_id, done in driver.states().items()]


def _driver(planned: Sequence[PlannedPoint], seeds: int | Mapping[str, int]) -> Driver:
    found = micro_batches(planned)
    configs = {point.config.config_id: point.config for point in planned}
    each = dict.fromkeys(configs, seeds) if isinstance(seeds, int) else seeds
    driver = Driver(
        Grid(list(configs.values())),
        seeds=min(each[config_id] for config_id in configs),
        micro_batches=of_each(found),
        settings=JobSettings(memory_bytes=planned[0].memory_bytes, branch_at=planned[0].branch_at),
    )
    for config_id, n in driver.seeds.items():
        for _ in range(n, each[config_id]):
            driver.want_seed(config_id)
    return driver


def _job_state(driver: Driver, job_id: str, done: RunState, latest: AskedLine | Outcome | None) -> JobState:
    job, outcome, reason = driver.jobs[job_id], driver.outcome(job_id), driver.reason(job_id)
    why, to_do = latest.error if isinstance(latest, FailedLine) else "", False
    state: State
    if outcome is not None:
        state = "ok" if driver.is_boundary(job_id) else outcome.status
    elif reason is not None:
        state, why = reason.state, reason.why
    else:
        to_do = done != "failed"
        failed = isinstance(latest, FailedLine)
        state = "asked" if isinstance(latest, AskedLine) else "failed" if failed else "missing"
    return JobState(
        config_id=driver.owner(job_id).config_id,
        seed=job.seed if job.kind == "train" else None,
        state=state,
        why=why,
        to_do=to_do,
        untrained=reason is not None,
    )


def _seed(line: AskedLine | Outcome) -> int:
    return line.job.seed if isinstance(line, AskedLine) else line.seed


def replay(records: Iterable[Line], driver: Replayed) -> None:
    """Have a Driver know what a ledger knows: what was asked for, how it went, and what came out."""
    asked: dict[str, Job] = {}
    for line in records:
        if isinstance(line, AskedLine):
            job = line.job
            asked[job.job_id] = job
            driver.adopt(job)
        elif isinstance(line, RungLine):
            if (running := asked.get(line.job_id)) is not None:
                driver.tell(Rung(job=running, tokens=line.tokens, loss=line.loss))
        elif isinstance(line, Outcome):
            driver.tell(line.event)


class Replayed(Protocol):
    """What a ledger is replayed to: a Driver."""

    def adopt(self, job: Job) -> None:
        """A job that an earlier run asked for."""

    def tell(self, event: Event) -> object:
        """An event of an earlier run."""
