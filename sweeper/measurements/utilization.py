"""Utilization: how much of the device time that was held went into trials' own training and evaluation.

    useful = Σ over trials' outcomes of seconds.train + seconds.evaluate + seconds.branches
    held   = Σ over runs of (time of the last outcome − time of the start) × devices

Probes, the reference config, steps taken for timing alone, set-up, compilation, failed attempts and waiting are held
and not useful. A run that was interrupted holds its devices until its last outcome: what ran after it left no trace,
and what a training that goes on from a checkpoint did before counts for neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sweeper.ledger.typed import AskedLine, FinalLine, JobLine, Line, RungLine, StartedLine

USEFUL = ("train", "evaluate", "branches")
"""The parts of a trial's seconds that its result comes from: a branch's loss is one that would else need a trial."""
PAUSE_SECONDS = 60.0
"""A ledger from before runs had a start line: with nothing running, a longer gap than this was between two runs."""


@dataclass(frozen=True, kw_only=True)
class TrialUse:
    """One trial's outcome. `held_s` runs from when its last attempt was asked for."""

    trial_id: str
    useful_s: float
    held_s: float

    @property
    def fraction(self) -> float:
        """Utilization ÷ held, 0 where nothing was held."""
        return self.useful_s / self.held_s if self.held_s > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Utilization:
    """All of a ledger, in device-seconds; `fraction` is None where nothing was held. `trials` in order of outcome."""

    fraction: float | None
    useful_s: float
    held_s: float
    runs: int
    trials: tuple[TrialUse, ...]


@dataclass(kw_only=True)
class _Run:
    """A run being read. `devices` None: no start line says, so as many as had a job at a time."""

    started: datetime
    devices: int | None = None
    asked: dict[str, datetime] = field(default_factory=dict)
    most_asked: int = 0
    last_seen: datetime
    last_outcome: datetime | None = None

    @property
    def held_s(self) -> float:
        """Device-seconds, 0 for a run without an outcome."""
        end = self.last_outcome or self.started
        return (end - self.started).total_seconds() * (self.devices or max(1, self.most_asked))


def own_seconds(seconds: Mapping[str, float]) -> float:
    """All of a trial's `seconds` but those of the reference config, which was measured before it on its device."""
    return sum(taken for part, taken in seconds.items() if part != "reference")


def of_own_seconds(seconds: Mapping[str, float]) -> float | None:
    """Utilization ÷ all of a trial's own `seconds`, from its start in a worker to its outcome; None without any."""
    total = own_seconds(seconds)
    return sum(seconds.get(part, 0.0) for part in USEFUL) / total if total > 0 else None


def utilization(records: Iterable[Line]) -> Utilization:
    """The utilization of a ledger's lines, oldest first; `Utilization.trials` has that of each trial.

    Where runs have no start line, a run starts with the first job asked for, and another where a job is asked for
    that was still running, or after a pause with nothing running.
    """
    runs: list[_Run] = []
    trials: list[TrialUse] = []
    for record in records:
        time = datetime.fromisoformat(record.time)
        if isinstance(record, StartedLine):
            runs.append(_Run(started=time, devices=record.devices, last_seen=time))
        if not isinstance(record, JobLine):
            continue
        job_id = record.job_id
        if isinstance(record, AskedLine) and _starts(runs, job_id, time):
            runs.append(_Run(started=time, last_seen=time))
        if not runs:
            continue
        run = runs[-1]
        run.last_seen = time
        if isinstance(record, AskedLine):
            run.asked[job_id] = time
            run.most_asked = max(run.most_asked, len(run.asked))
        elif not isinstance(record, RungLine):
            run.last_outcome = time
            asked = run.asked.pop(job_id, None)
            if isinstance(record, FinalLine) and asked is not None:
                trials.append(_use(job_id, record, (time - asked).total_seconds()))
    useful_s, held_s = sum(trial.useful_s for trial in trials), sum(run.held_s for run in runs)
    return Utilization(
        fraction=useful_s / held_s if held_s > 0 else None,
        useful_s=useful_s,
        held_s=held_s,
        runs=len(runs),
        trials=tuple(trials),
    )


def _starts(runs: list[_Run], job_id: str, time: datetime) -> bool:
    """Whether a job that is asked for is the first of a run that has no start line."""
    if not runs:
        return True
    run = runs[-1]
    if run.devices is not None:
        return False
    paused = not run.asked and (time - run.last_seen).total_seconds() > PAUSE_SECONDS
    return job_id in run.asked or paused


def _use(trial_id: str, record: FinalLine, held_s: float) -> TrialUse:
    seconds, earlier = record.seconds, record.environment.get("resumed", {}).get("seconds", {})
    useful_s = sum(seconds.get(name, 0.0) - earlier.get(name, 0.0) for name in USEFUL)
    return TrialUse(trial_id=trial_id, useful_s=useful_s, held_s=held_s)
