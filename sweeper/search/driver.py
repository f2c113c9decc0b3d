"""The Driver: a state machine that decides what runs next and what an outcome means. Pure: no clock, no files."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from sweeper.records import (
    Config,
    Continue,
    DeviceType,
    Done,
    Event,
    Execution,
    Failed,
    Final,
    Job,
    Rung,
    Speed,
    Stop,
    Wait,
)
from sweeper.search._base import Strategy

MAX_ATTEMPTS = 3
"""A job that failed this often, over all runs of the study, is not tried again."""

State = Literal["done", "running", "missing", "failed"]


class Driver:
    """Asks for every job of a study once, seeds outermost, so that configs can be compared in pairs early.

    `executions` gives each config's micro-batches: with one, a trial measures its own speed; with several, each
    has a speed job, and the training runs at the first that has memory for it. A training that an earlier study
    ran at another execution is kept, and costs one speed job at this one. Resume is a replay of earlier events
    through `tell`.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        seeds: int,
        executions: Callable[[Config], Sequence[Execution]],
        data_path: str | None = None,
        device: DeviceType = "cpu",
    ) -> None:
        self._strategy = strategy
        self._executions = executions
        configs: list[Config] = []
        while (config := strategy.propose()) is not None:
            configs.append(config)
        jobs = [
            Job(kind="speed", config=config, execution=execution, data_path=data_path, device=device)
            for config in configs
            if len(executions(config)) > 1
            for execution in executions(config)
        ]
        jobs += [
            Job(
                kind="train", config=config, execution=executions(config)[0], seed=seed, data_path=data_path,
                device=device,
            )
            for seed in range(seeds)
            for config in configs
        ]  # fmt: skip
        self._wanted: dict[str, Job] = {job.job_id: job for job in jobs}
        self._queue: deque[str] = deque(self._wanted)
        self._running: set[str] = set()
        self._outcomes: dict[str, Final | Speed] = {}
        self._failures: Counter[str] = Counter()

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Every job that the study asks for, by id."""
        return self._wanted

    def ask(self) -> Job | Wait | Done:
        """The next job; Wait while the rest depends on running ones; Done when nothing is left."""
        while self._queue:
            job_id = self._queue.popleft()
            if self._state(job_id) == "missing":
                self._running.add(job_id)
                job = self._wanted[job_id]
                return replace(job, execution=self._execution(job), attempt=self._failures[job_id] + 1)
        return Wait() if self._running else Done()

    def tell(self, event: Event) -> Continue | Stop:
        """Take in an event of a job, asked now or in an earlier run. Of jobs not wanted, nothing follows."""
        job_id = event.job.job_id
        if isinstance(event, Rung) or job_id not in self._wanted:
            return Continue()
        self._running.discard(job_id)
        if isinstance(event, Failed):
            self._failures[job_id] += 1
            if self._state(job_id) == "missing":
                self._queue.append(job_id)
        elif event.status != "out_of_memory" or event.job.execution == self._execution(self._wanted[job_id]):
            self._outcomes[job_id] = event
            if isinstance(event, Final):
                self._strategy.observe(event)
                self._want_speed_of(event)
        return Continue()

    def states(self) -> dict[str, State]:
        """What has become of every wanted job."""
        return {job_id: self._state(job_id) for job_id in self._wanted}

    def _state(self, job_id: str) -> State:
        if job_id in self._outcomes:
            return "done"
        if job_id in self._running:
            return "running"
        return "failed" if self._failures[job_id] >= MAX_ATTEMPTS else "missing"

    def _execution(self, job: Job) -> Execution:
        """The execution that a job runs at: of several, a training takes the first that had memory for its probe."""
        if job.kind == "train":
            for execution in self._executions(job.config):
                probe = self._outcomes.get(replace(job, kind="speed", seed=0, execution=execution).job_id)
                if probe is None or probe.status != "out_of_memory":
                    return execution
        return job.execution

    def _want_speed_of(self, final: Final) -> None:
        """A training at another execution than this study's says nothing of this one's speed: ask for a probe."""
        wanted = self._wanted[final.job.job_id]
        probe = replace(wanted, kind="speed", seed=0)
        if final.status == "ok" and final.job.probe_id != wanted.probe_id and probe.job_id not in self._wanted:
            self._wanted[probe.job_id] = probe
            self._queue.append(probe.job_id)
