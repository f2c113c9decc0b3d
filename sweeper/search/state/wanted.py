"""The jobs that a study may ask for. They change when a config is taken or a seed added, never by an outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sweeper.planning.resolving import JobSettings, MicroBatches, ProbeLadder, ladders
from sweeper.values.records import Config, Job


class Wanted:
    """Of each config that was taken its probes, which configs may share, and a training for each of its seeds."""

    def __init__(self, *, micro_batches_of: Callable[[Config], MicroBatches], settings: JobSettings) -> None:
        self.micro_batches_of, self.settings = micro_batches_of, settings
        self.configs: dict[str, Config] = {}
        self.jobs: dict[str, Job] = {}
        self.ladders: dict[tuple[str, ...], ProbeLadder] = {}
        self.extra_probes: dict[str, Job] = {}
        self._ladders_of: dict[str, tuple[ProbeLadder, ...]] = {}
        self.trainings: dict[str, Job] = {}
        self._training_ids: dict[str, list[str]] = {}
        self._sharing: dict[str, list[str]] = {}

    def take(self, config: Config) -> list[ProbeLadder]:
        """Want a config's probes; its ladders that no other config has."""
        config_id = config.config_id
        self.configs[config_id], self._training_ids[config_id] = config, []
        self._ladders_of[config_id] = ladders(config, self.micro_batches_of(config), self.settings)
        new = []
        for ladder in self._ladders_of[config_id]:
            if ladder.probe_ids not in self.ladders:
                self.ladders[ladder.probe_ids] = ladder
                new.append(ladder)
            for probe in ladder.probes:
                self._sharing.setdefault(probe.job_id, []).append(config_id)
                self.jobs.setdefault(probe.job_id, probe)
        return new

    def add_seed(self, config_id: str) -> Job:
        """Want a config trained with one more seed, the next; the training."""
        config, earlier = self.configs[config_id], self._training_ids[config_id]
        execution, seed = self.micro_batches_of(config).executions[0], len(earlier)
        job = Job(kind="train", config=config, execution=execution, seed=seed, **vars(self.settings))
        earlier.append(job.job_id)
        self.trainings[job.job_id] = self.jobs[job.job_id] = job
        return job

    def add_probe_of(self, training: Job) -> None:
        """Want the speed of a training as it is wanted now, where it has no ladder."""
        probe = replace(training, kind="speed", seed=0)
        self.extra_probes[probe.job_id] = self.jobs[probe.job_id] = probe

    def ladders_of(self, config_id: str) -> tuple[ProbeLadder, ...]:
        """What a config waits for before it is trained."""
        return self._ladders_of[config_id]

    def training_ids(self, config_id: str) -> Sequence[str]:
        """Those of a config's trainings, by ascending seed from 0; none of a config that wasn't taken."""
        return self._training_ids.get(config_id, ())

    @property
    def seeds(self) -> Mapping[str, int]:
        """By config id, with how many seeds it is trained."""
        return {config_id: len(ids) for config_id, ids in self._training_ids.items()}

    def owner(self, job_id: str) -> Config:
        """The config of a job; of a probe that several share, the first."""
        return self.configs[self._sharing[job_id][0]] if job_id in self._sharing else self.jobs[job_id].config

    def sharing(self, job: Job) -> Sequence[str]:
        """The ids of the configs that an outcome of a job says something about."""
        return self._sharing.get(job.job_id) or [job.config.config_id]
