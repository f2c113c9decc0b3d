"""What is known of the wanted jobs: how each config trains, which outcome a job has, which still run."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from sweeper.planning.outcomes import Outcome, Outcomes
from sweeper.planning.resolving import Settled, Untrainable, majority, resolve
from sweeper.search.state.wanted import Wanted
from sweeper.values.events import Failed, Final, Speed
from sweeper.values.records import Job

RunState = Literal["done", "running", "missing", "failed"]


class Results:
    """Changed by what is handed out and by what is told. How a config trains is worked out once between changes."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._told = Outcomes(memory_bytes=wanted.settings.memory_bytes, branch_at=wanted.settings.branch_at)
        self._running: set[str] = set()
        self._choices: dict[str, Settled | Untrainable | None] = {}

    def hand_out(self, job: Job) -> Job:
        """A job that runs from now on, with the number of its attempt."""
        self._running.add(job.job_id)
        return replace(job, attempt=self.failures(job.job_id) + 1)

    def add(self, event: Final | Speed | Failed) -> bool:
        """Take in how a job has ended; whether other outcomes count from now on, as it came from another device."""
        job_id, changed = event.job.job_id, False
        own = job_id in self._running
        self._running.discard(job_id)
        if isinstance(event, Failed):
            self._told.failures[job_id] += 1
        elif changed := self._told.add(event, own=own):
            self._choices.clear()
        for config_id in self._wanted.sharing(event.job):
            self._choices.pop(config_id, None)
        return changed

    def count_seconds(self, event: Final | Speed | Failed) -> None:
        """Count in what a job beside the search has taken, whose outcome says nothing here."""
        self._told.count_seconds(event)

    @property
    def device_seconds(self) -> float:
        """What all jobs with an outcome have taken, from start to end."""
        return self._told.device_seconds

    @property
    def any_running(self) -> bool:
        """Whether a job that was handed out has no outcome yet."""
        return bool(self._running)

    def is_running(self, job_id: str) -> bool:
        """Whether a job was handed out and has no outcome yet."""
        return job_id in self._running

    def failures(self, job_id: str) -> int:
        """How often a job has failed."""
        return self._told.failures[job_id]

    def state(self, job_id: str) -> RunState:
        """What has become of a job. What `reason` speaks of is done, or failed, without having run."""
        if self.outcome(job_id) is not None:
            return "done"
        if job_id in self._running:
            return "running"
        if self._told.is_given_up(job_id):
            return "failed"
        if (reason := self._untrainable(job_id)) is not None:
            return "done" if reason.state == "out_of_memory" else "failed"
        return "missing"

    def outcome(self, job_id: str) -> Final | Speed | None:
        """The event that settled a job; None where there is none yet."""
        told = self._told.counting(job_id)
        if not told or job_id not in self._wanted.trainings:
            return told[0] if told else None
        for event in told:
            if event.status != "out_of_memory":
                return event
        choice = self.choice(self._wanted.trainings[job_id].config.config_id)
        if isinstance(choice, Settled):
            return next((event for event in told if event.job.execution == choice.execution), None)
        return None

    def on_search_device(self, final: Final) -> Final:
        """A trial's outcome with the speed and the memory that it has on the device type that the search goes by."""
        return self._told.as_here(final)

    def reason(self, job_id: str) -> Untrainable | None:
        """Why a trial without an outcome isn't trained; None where there's no such reason."""
        return None if self.outcome(job_id) is not None else self._untrainable(job_id)

    def _untrainable(self, job_id: str) -> Untrainable | None:
        training = self._wanted.trainings.get(job_id)
        choice = None if training is None else self.choice(training.config.config_id)
        return choice if isinstance(choice, Untrainable) else None

    def choice(self, config_id: str) -> Settled | Untrainable | None:
        """How a config trains, or why it doesn't; None while its probes haven't told."""
        if config_id not in self._choices:
            config, wanted = self._wanted.configs[config_id], self._wanted
            # How most of its trainings on this device type were resolved, the lowest seeds first.
            kept = majority(one for job_id in wanted.training_ids(config_id) for one in self._told.resolved(job_id))
            probed, found = wanted.ladders_of(config_id), wanted.micro_batches_of(config)
            self._choices[config_id] = resolve(config, found, probed, self.of_probe, kept=kept)
        return self._choices[config_id]

    def of_probe(self, probe: Job) -> Outcome | None:
        """What measuring a speed has come to, None as long as it hasn't."""
        return self._told.of_probe(probe.job_id)

    def is_boundary(self, job_id: str) -> bool:
        """Whether a probe ran out of memory, as a ladder's last one does, and a smaller one didn't."""
        outcome = self.outcome(job_id)
        if outcome is None or outcome.status != "out_of_memory":
            return False
        mine = [one for one in self._wanted.ladders.values() if one.in_turn and job_id in one.probe_ids]
        return any(isinstance(self.of_probe(probe), float) for ladder in mine for probe in ladder.probes)

    def first_loss(self, config_id: str) -> float | None:
        """The loss of a config's first seed, in nats; None where it has none."""
        outcome = self.outcome(self._wanted.training_ids(config_id)[0])
        return outcome.val_loss if isinstance(outcome, Final) and outcome.status == "ok" else None

    def probed_speed(self, config_id: str) -> float | None:
        """The fastest of a config's probes, in tokens/s; None where none has a speed."""
        outcomes = [self.of_probe(probe) for ladder in self._wanted.ladders_of(config_id) for probe in ladder.probes]
        return max((speed for speed in outcomes if isinstance(speed, float)), default=None)
