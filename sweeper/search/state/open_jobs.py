"""What may still have something to run, so that not every job is looked at each time: closed when done, reopened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from sweeper.planning.resolving import ProbeLadder, Settled
from sweeper.search.state.results import Results
from sweeper.search.state.selection import Selection
from sweeper.search.state.wanted import Wanted
from sweeper.values.records import Job


class OpenJobs:
    """Ladders with something left to find out, and by seed the ids of the configs that may have to be trained."""

    def __init__(self, wanted: Wanted, results: Results, selection: Selection, *, seeds: int) -> None:
        self._wanted, self._results, self._selection = wanted, results, selection
        self._ladders: dict[tuple[str, ...], ProbeLadder] = {}
        self._trainings: list[dict[str, None]] = [{} for _ in range(seeds)]

    def add_ladders(self, ladders: Iterable[ProbeLadder]) -> None:
        """Open ladders that weren't there."""
        self._ladders |= {ladder.probe_ids: ladder for ladder in ladders}

    def add_training(self, job: Job) -> None:
        """Open a training that wasn't there."""
        if job.seed == len(self._trainings):
            self._trainings.append({})
        self._trainings[job.seed][job.config.config_id] = None

    @property
    def seeds(self) -> int:
        """How many seeds any config has."""
        return len(self._trainings)

    def probes(self) -> Iterator[Job]:
        """Those of open ladders that could run; a ladder that has nothing left to find out is closed."""
        for key, ladder in tuple(self._ladders.items()):
            probes = ladder.next(self._results.of_probe)
            if not probes:
                del self._ladders[key]
            yield from (probe for probe in probes if not self._results.is_running(probe.job_id))

    def extra_probes(self) -> Iterator[Job]:
        """Those without a ladder that could run."""
        yield from (
            probe for probe in self._wanted.extra_probes.values() if self._results.state(probe.job_id) == "missing"
        )

    def trainings(self, seed: int) -> Iterator[Job]:
        """Those with a seed that could run, but of what is put last."""
        last = self._selection.put_last
        for config_id in tuple(self._trainings[seed]):
            if config_id not in last:
                yield from self._training(config_id, seed)

    def trainings_put_last(self) -> Iterator[Job]:
        """The first trainings of what is put last."""
        for config_id in self._selection.put_last:
            yield from self._training(config_id, 0)

    def _training(self, config_id: str, seed: int) -> Iterator[Job]:
        """A config's training with a seed, where it could run; one that is settled isn't looked at again."""
        job = self._wanted.trainings[self._wanted.training_ids(config_id)[seed]]
        state = self._results.state(job.job_id)
        if state in ("done", "failed") or not self._selection.is_trained(config_id, seed):
            self._trainings[seed].pop(config_id, None)
        elif state == "missing" and isinstance(choice := self._results.choice(config_id), Settled):
            yield replace(job, execution=choice.execution, resolved=choice.resolved)

    def reopen_all(self) -> None:
        """Other outcomes count now: everything may be open."""
        self._ladders = dict(self._wanted.ladders)
        seeds = self._wanted.seeds.items()
        self._trainings = [{i: None for i, n in seeds if seed < n} for seed in range(self.seeds)]

    def reopen(self, config_ids: Iterable[str]) -> None:
        """Of configs about which something was told, what was settled may be open."""
        for config_id in config_ids:
            for seed, job_id in enumerate(self._wanted.training_ids(config_id)):
                there = self._trainings[seed]
                if config_id not in there and self._results.state(job_id) == "missing":
                    still = {*there, config_id}
                    self._trainings[seed] = {one: None for one in self._wanted.configs if one in still}
