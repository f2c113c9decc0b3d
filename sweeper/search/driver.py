"""The Driver: a state machine that decides what runs next and what an outcome means. Pure: no clock, no files."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from sweeper.records import Config, Continue, Done, Event, Execution, Failed, Final, Job, Rung, Speed, Stop, Wait
from sweeper.search._base import Strategy

MAX_ATTEMPTS = 3
"""A job that failed this often, over all runs of the study, is not tried again."""

State = Literal["done", "running", "missing", "failed"]


class Driver:
    """Asks for every job of a study once, seeds outermost, so that configs can be compared in pairs early.

    `executions` gives each config's micro-batches: with one, a trial measures its own speed; with several, each
    has a speed job, and the training runs at the first. Resume is a replay of earlier events through `tell`.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        seeds: int,
        executions: Callable[[Config], Sequence[Execution]],
        data_path: str | None = None,
    ) -> None:
        self._strategy = strategy
        self._queue: deque[Job] = deque()
        configs: list[Config] = []
        while (config := strategy.propose()) is not None:
            configs.append(config)
        for config in configs:
            ladder = executions(config)
            if len(ladder) > 1:
                self._queue += [Job(kind="speed", config=config, execution=e, data_path=data_path) for e in ladder]
        for seed in range(seeds):
            for config in configs:
                execution = executions(config)[0]
                self._queue.append(
                    Job(kind="train", config=config, execution=execution, seed=seed, data_path=data_path)
                )
        self._wanted: dict[str, Job] = {job.job_id: job for job in self._queue}
        self._queue = deque(self._wanted.values())
        self._running: set[str] = set()
        self._outcomes: dict[str, Event] = {}
        self._failures: Counter[str] = Counter()

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Every job that the study asks for, by id."""
        return self._wanted

    def ask(self) -> Job | Wait | Done:
        """The next job; Wait while the rest depends on running ones; Done when nothing is left."""
        while self._queue:
            job = self._queue.popleft()
            if self._is_settled(job.job_id) or job.job_id in self._running:
                continue
            self._running.add(job.job_id)
            return self._attempt(job)
        return Wait() if self._running else Done()

    def tell(self, event: Event) -> Continue | Stop:
        """Take in an event of a job, asked now or in an earlier run. Of jobs not wanted, nothing follows."""
        job_id = event.job.job_id
        if isinstance(event, Rung) or job_id not in self._wanted:
            return Continue()
        self._running.discard(job_id)
        if isinstance(event, Failed):
            self._failures[job_id] += 1
            if not self._is_settled(job_id):
                self._queue.append(self._wanted[job_id])
        else:
            self._outcomes[job_id] = event
            if isinstance(event, Final):
                self._strategy.observe(event)
        return Continue()

    def states(self) -> dict[str, State]:
        """What has become of every wanted job."""
        return {job_id: self._state(job_id) for job_id in self._wanted}

    def outcome(self, job_id: str) -> Final | Speed | None:
        """The outcome of a job that has one."""
        event = self._outcomes.get(job_id)
        return event if isinstance(event, (Final, Speed)) else None

    def _state(self, job_id: str) -> State:
        if job_id in self._outcomes:
            return "done"
        if job_id in self._running:
            return "running"
        return "failed" if self._failures[job_id] >= MAX_ATTEMPTS else "missing"

    def _is_settled(self, job_id: str) -> bool:
        return job_id in self._outcomes or self._failures[job_id] >= MAX_ATTEMPTS

    def _attempt(self, job: Job) -> Job:
        return Job(
            kind=job.kind,
            config=job.config,
            execution=job.execution,
            seed=job.seed,
            data_path=job.data_path,
            attempt=self._failures[job.job_id] + 1,
        )
