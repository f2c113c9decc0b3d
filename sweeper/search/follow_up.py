"""A few of a study's configs once more, trained for longer, when the study's own trials are done.

Which ones is decided from the study's outcomes alone, so that a study which goes on after an interruption decides as it
would have done anyway. What is trained longer is a config of its own, with ids of its own, and no part of the frontier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.planning.resolving import JobSettings, MicroBatches, Untrainable
from sweeper.search._base import Strategy
from sweeper.search.driver import Driver
from sweeper.search.grid import Grid
from sweeper.search.state.results import RunState
from sweeper.values.events import Continue, Done, Event, Final, Rung, Speed, Stop, Wait
from sweeper.values.records import Config, Job


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A measured config: its mean loss in nats and speed in tokens/s, and how it stands to the frontier."""

    config_id: str
    val_loss: float
    tokens_per_s: float
    on_frontier: bool
    p_frontier: float | None


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """`shapes` configs of those that `candidates` makes of the study's outcomes; `longer` is what is trained of one."""

    shapes: int
    candidates: Callable[[Sequence[Final | Speed]], Sequence[Candidate]]
    longer: Callable[[Config], Config]


def chosen(candidates: Sequence[Candidate], shapes: int) -> list[str]:
    """Config ids: the frontier's two ends, the nearest config off it, its knee, then what lies farthest from those.

    The nearest is the likeliest to be on it, of equal ones that of the lowest loss: whether it stays off is what longer
    training may change. Where the frontier is short, it is filled up with the next nearest.
    """
    frontier = sorted((one for one in candidates if one.on_frontier), key=lambda one: (-one.tokens_per_s, one.val_loss))
    off = sorted(
        (one for one in candidates if not one.on_frontier),
        key=lambda one: (-(one.p_frontier or 0.0), one.val_loss, one.config_id),
    )
    if not frontier:
        return []
    wanted = [frontier[0], frontier[-1], *off[:1], *_by_distance(frontier), *off[1:]]
    return list(dict.fromkeys(one.config_id for one in wanted))[:shapes]


def _by_distance(frontier: Sequence[Candidate]) -> list[Candidate]:
    """The frontier's knee, then always the one farthest from all before; losses and log speeds on their ranges."""
    axes = [[math.log(one.tokens_per_s) for one in frontier], [one.val_loss for one in frontier]]
    places = list(zip(*([_share(value, axis) for value in axis] for axis in axes), strict=True))
    # Speed at its best is 1, loss at its best 0: the knee is the point farthest from the line between the ends.
    taken = [0, len(frontier) - 1, max(range(len(places)), key=lambda n: places[n][0] - places[n][1])]
    while len(set(taken)) < len(frontier):
        left = [n for n in range(len(frontier)) if n not in taken]
        taken.append(max(left, key=lambda n: min(math.dist(places[n], places[other]) for other in taken)))
    return [frontier[n] for n in taken[2:]]


def _share(value: float, axis: Sequence[float]) -> float:
    low, high = min(axis), max(axis)
    return (value - low) / (high - low) if high > low else 0.0


class FollowUpDriver(Driver):
    """A study's Driver that asks for the follow-ups once nothing of the study itself is left to do."""

    def __init__(
        self,
        strategy: Strategy,
        *,
        follow_up: FollowUp,
        seeds: int,
        micro_batches: Callable[[Config], MicroBatches],
        settings: JobSettings,
        **others: Any,
    ) -> None:
        self._follow_up, self._micro_batches = follow_up, micro_batches
        self._told: list[Event] = []
        self._later: Driver | None = None
        self._chosen: tuple[str, ...] = ()
        self._is_stale = True
        super().__init__(strategy, seeds=seeds, micro_batches=micro_batches, settings=settings, **others)

    def ask(self) -> Job | Wait | Done:
        """The study's next job, then the follow-ups'."""
        answer = super().ask()
        later = self._follow_ups() if isinstance(answer, Done) and not self.is_spent else None
        if later is not None:
            return later.ask()
        waits = isinstance(answer, Done) and self._later is not None and "running" in self._later.states().values()
        return Wait() if waits else answer

    def ask_training(self, fits: Callable[[Job], bool]) -> Job | None:
        """One of the study's, then of the follow-ups that have been asked for."""
        if self.is_spent:
            return None
        own = super().ask_training(fits)
        return self._later.ask_training(fits) if own is None and self._later is not None else own

    def tell(self, event: Event) -> Continue | Stop:
        """Take in an event; those of follow-ups count towards the study's hours, and their rungs stop nothing."""
        is_own = event.job.job_id in super().jobs
        if isinstance(event, Rung):
            return super().tell(event) if is_own else Continue()
        self._told.append(event)
        self._is_stale |= is_own
        if self._later is not None:
            self._later.tell(event)
        return super().tell(event)

    def _follow_ups(self) -> Driver | None:
        """The Driver of the follow-ups, None while they can't be chosen or there are none."""
        if self._is_stale:
            self._is_stale, wanted = False, self._choose()
            if wanted != self._chosen:
                self._chosen, self._later = wanted, self._driver_of(wanted)
        return self._later

    def _choose(self) -> tuple[str, ...]:
        states = super().states()
        if self.to_propose or {"missing", "running"} & set(states.values()):
            return ()
        outcomes = [event for job_id in states if (event := self.outcome(job_id)) is not None]
        return tuple(chosen(self._follow_up.candidates(outcomes), self._follow_up.shapes))

    def _driver_of(self, config_ids: Sequence[str]) -> Driver | None:
        if not config_ids:
            return None
        originals = {self._follow_up.longer(self.configs[one]).config_id: self.configs[one] for one in config_ids}
        later = Driver(
            Grid([self._follow_up.longer(self.configs[one]) for one in config_ids]),
            seeds=self._seeds,
            micro_batches=lambda config: self._micro_batches(originals[config.config_id]),
            settings=self.settings,
        )
        for event in self._told:
            later.tell(event)
        return later

    @property
    def followed(self) -> Mapping[str, str]:
        """By the id of each config that is trained longer, the study's own; empty while none is chosen."""
        if self._follow_ups() is None:
            return {}
        return {self._follow_up.longer(self.configs[one]).config_id: one for one in self._chosen}

    @property
    def to_follow(self) -> int:
        """How many trainings of follow-ups there will be that aren't chosen yet, at most."""
        return 0 if self._follow_ups() is not None else self._seeds * self._follow_up.shapes

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The study's, and those of the follow-ups once they are chosen."""
        return super().jobs if self._later is None else {**self._later.jobs, **super().jobs}

    def states(self) -> dict[str, RunState]:
        """What has become of every wanted job, the follow-ups' last."""
        own, later = super().states(), self._follow_ups()
        return own if later is None else {**own, **{i: state for i, state in later.states().items() if i not in own}}

    def owner(self, job_id: str) -> Config:
        """The config of a job."""
        is_own = self._later is None or job_id in super().jobs
        return super().owner(job_id) if is_own else self._later.owner(job_id)  # type: ignore[union-attr]

    def reason(self, job_id: str) -> Untrainable | None:
        """Why a trial without an outcome isn't trained; None where there's no such reason."""
        is_own = self._later is None or job_id in super().jobs
        return super().reason(job_id) if is_own else self._later.reason(job_id)  # type: ignore[union-attr]


def followed(driver: Driver) -> Mapping[str, str]:
    """`FollowUpDriver.followed`, empty of any other Driver."""
    return driver.followed if isinstance(driver, FollowUpDriver) else {}


def to_follow(driver: Driver) -> int:
    """`FollowUpDriver.to_follow`, 0 of any other Driver."""
    return driver.to_follow if isinstance(driver, FollowUpDriver) else 0
