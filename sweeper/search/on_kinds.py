"""A Driver on several device types: speeds are measured on each kind, trainings run on any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sweeper.planning.outcomes import Outcome, Outcomes, precision_used
from sweeper.planning.resolving import ProbeLadder, ladders
from sweeper.search.driver import Driver
from sweeper.search.state.results import RunState
from sweeper.values.events import Continue, Done, Event, Failed, Final, Rung, Speed, Stop, Wait
from sweeper.values.records import Job


class OnKinds:
    """A Driver that is asked for a job for one of the device types that have room.

    The search goes by the first of the `kinds`: its probes settle micro-batches, precision and steps. On the others
    every config's speed is measured beside it; the Driver is to have all configs probed, so that each kind knows all
    speeds. A settled training runs on any kind that has measured its speed, in the precision that the first used; once
    it has failed or run out of memory on another than the first, on the first alone. Of less than two kinds it is the
    Driver alone.
    """

    def __init__(self, driver: Driver, kinds: Sequence[str] = ()) -> None:
        self.driver = driver
        self.kinds = tuple(kinds) if len(kinds) > 1 else ()
        self._beside = {kind: _Probes(driver, kind) for kind in self.kinds[1:]}
        self._running, self._on_first_alone = set[str](), set[str]()

    def adopt(self, job: Job) -> None:
        """Take in that an earlier run asked for `job`."""
        self.driver.adopt(job)

    def ask(self, free: Sequence[str] = ()) -> Job | Wait | Done:
        """The next job for one of the `free` kinds, in their order; it says for which. Kinds with room alone are free.

        Wait where there is none while others run, or while what is left waits for a kind to have room.
        """
        if not self.kinds:
            return self.driver.ask()
        for kind in free:
            if (job := self._next(kind)) is not None:
                self._running.add(job.job_id)
                return job
        return Wait() if self._running or self._waits_for_first else Done()

    def _next(self, kind: str) -> Job | None:
        if kind == self.kinds[0]:
            answer = self.driver.ask()
            return replace(answer, on=kind) if isinstance(answer, Job) else None
        if not self.driver.is_spent and (probe := self._beside[kind].next()) is not None:
            return probe
        training = self.driver.ask_training(lambda job: self._may_run(job, kind))
        if training is not None:
            return replace(training, on=kind, beside=True)
        # Where the strategy learns, as many configs are ahead as devices are at work: else the first takes all of them.
        return self._beside[kind].next() if self.driver.propose_ahead(len(self._running) + 1) else None

    def _may_run(self, job: Job, kind: str) -> bool:
        here, first = self._beside[kind].measured(job), self.driver.outcome(job.probe_id)
        if here is None or job.job_id in self._on_first_alone:
            return False
        return first is None or precision_used(first.environment) == precision_used(here.environment)

    @property
    def _waits_for_first(self) -> bool:
        """Whether something is left that only the first kind can do; asked when nothing runs: it has no room."""
        driver = self.driver
        return not driver.is_spent and ("missing" in driver.states().values() or driver.to_propose > 0)

    def tell(self, event: Event) -> Continue | Stop:
        """Take in an event of a job, asked now or in an earlier run."""
        job = event.job
        if not isinstance(event, Rung):
            self._running.discard(job.job_id)
            if job.beside and job.kind == "train" and (isinstance(event, Failed) or event.status == "out_of_memory"):
                self._on_first_alone.add(job.job_id)
            if job.kind == "speed" and job.beside and job.on in self._beside and not isinstance(event, Final):
                self._beside[job.on].tell(event)
        return self.driver.tell(event)

    def states(self) -> dict[str, RunState]:
        """What has become of every wanted job: those of the Driver, then those beside it."""
        beside = [probes.states() for probes in self._beside.values()]
        return {job_id: state for states in (self.driver.states(), *beside) for job_id, state in states.items()}


class _Probes:
    """The speed jobs of a device type that the search doesn't go by, nor wait for."""

    def __init__(self, driver: Driver, kind: str) -> None:
        self._driver, self._kind = driver, kind
        self._outcomes = Outcomes(memory_bytes=driver.settings.memory_bytes, any_device=True)
        self._ladders: dict[tuple[str, ...], ProbeLadder] = {}
        self._open: dict[tuple[str, ...], ProbeLadder] = {}
        self._seen, self._running = 0, set[str]()

    def next(self) -> Job | None:
        """A probe to run now, one that has failed before after the others."""
        self._look()
        failures = self._outcomes.failures
        ready: list[Job] = []
        for key, ladder in tuple(self._open.items()):
            probes = ladder.next(self.outcome)
            if not probes:
                del self._open[key]
            ready += [probe for probe in map(self._here, probes) if probe.job_id not in self._running]
            if any(not failures[probe.job_id] for probe in ready):
                break
        if not ready:
            return None
        probe = min(ready, key=lambda probe: failures[probe.job_id])
        self._running.add(probe.job_id)
        return replace(probe, attempt=failures[probe.job_id] + 1)

    def _look(self) -> None:
        """Want the probes of what the driver has chosen since."""
        configs = list(self._driver.configs.values())
        for config in configs[self._seen :]:
            micro_batches = self._driver.micro_batches_of(config)
            # All that fit: trainings come here at the micro-batch that the first kind has chosen.
            for ladder in ladders(config, micro_batches, self._driver.settings, in_turn="up"):
                self._ladders.setdefault(ladder.probe_ids, ladder)
                self._open.setdefault(ladder.probe_ids, ladder)
        self._seen = len(configs)

    def _here(self, probe: Job) -> Job:
        return replace(probe, on=self._kind, beside=True)

    def outcome(self, job: Job) -> Outcome | None:
        """What measuring a job's speed on this device type has come to, None as long as it hasn't."""
        return self._outcomes.of_probe(f"{job.probe_id}@{self._kind}")

    def measured(self, job: Job) -> Final | Speed | None:
        """The probe that has measured a job's speed on this device type, None without a speed."""
        has_speed = isinstance(self.outcome(job), float)
        return self._outcomes.counting(f"{job.probe_id}@{self._kind}")[0] if has_speed else None

    def tell(self, event: Speed | Failed) -> None:
        """Take in a probe's outcome."""
        job_id = event.job.job_id
        own = job_id in self._running
        self._running.discard(job_id)
        if isinstance(event, Failed):
            self._outcomes.failures[job_id] += 1
        else:
            self._outcomes.add(event, own=own)

    def states(self) -> dict[str, RunState]:
        """By id, what has become of every probe that is wanted as far as is known."""
        self._look()
        wanted = [probe for ladder in self._ladders.values() for probe in ladder.wanted(self.outcome)]
        return {self._here(probe).job_id: self._state(probe) for probe in wanted}

    def _state(self, probe: Job) -> RunState:
        outcome = self.outcome(probe)
        if outcome is not None:
            return "failed" if outcome == "unavailable" else "done"
        return "running" if f"{probe.probe_id}@{self._kind}" in self._running else "missing"
