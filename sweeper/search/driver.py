"""The Driver: a state machine that decides what runs next and what an outcome means. Pure: no clock, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sweeper.planning.resolving import DEFAULT_SETTINGS, JobSettings, MicroBatches, Untrainable
from sweeper.search._base import Strategy
from sweeper.search.early_stop import SuccessiveHalving
from sweeper.search.further_seeds import FurtherSeeds
from sweeper.search.pruning import Pruning, PutLast
from sweeper.search.state.open_jobs import OpenJobs
from sweeper.search.state.results import Results, RunState
from sweeper.search.state.selection import Selection
from sweeper.search.state.wanted import Wanted
from sweeper.values.events import Continue, Done, Event, Final, Rung, Speed, Stop, Wait
from sweeper.values.records import Config, Job


class Driver:
    """Asks for every job of a study once: probes first, then trainings, seeds outermost, to be compared in pairs early.

    A strategy that learns is asked for a config when there is nothing else to train with a first seed, and hears of
    outcomes as they come. `micro_batches` gives each config's executions. A config is trained when its probes have
    settled how (`sweeper.planning.resolving`), all its seeds alike; where none of them has the memory it isn't trained,
    and `reason` says so. A training that an earlier study ran at another execution is kept, and costs one speed job at
    this one. Resume is a replay of earlier events through `tell`; what is decided depends on which outcomes there
    are, not on their order, but for two things. Of one kind the latest counts; and speeds and out of memory belong
    to a device type, so earlier runs' count where they come from the kind that was told of last (the kind of this
    run as soon as it has told anything), or of an unknown one. They belong to a cap on memory too: those under
    another cap count as not there. A training's loss depends on neither: it is kept, unless it is known to have
    needed more memory than the cap allows, or lacks a branch that is asked for now: then it's trained again.

    Where `early_stop` says so, a training is told to stop; its config isn't trained with further seeds.
    Beyond `seeds`, `further_seeds` chooses configs for another one, in rounds: the next is decided when no job is left.
    What `pruning` puts last is trained when nothing else is left, and where `most_configs` aren't trained by then: the
    strategy is asked for another config in its place.
    Once all outcomes, earlier runs' too, have taken `max_device_seconds`, no further job is handed out.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        seeds: int,
        micro_batches: Callable[[Config], MicroBatches],
        settings: JobSettings = DEFAULT_SETTINGS,
        max_device_seconds: float | None = None,
        early_stop: SuccessiveHalving | None = None,
        further_seeds: FurtherSeeds | None = None,
        pruning: Pruning | None = None,
        most_configs: int | None = None,
    ) -> None:
        self._seeds, self._max_device_seconds = seeds, max_device_seconds
        self._early_stop, self._further_seeds, self._decided = early_stop, further_seeds, False
        self._wanted = Wanted(micro_batches_of=micro_batches, settings=settings)
        self._results = Results(self._wanted)
        self._selection = Selection(strategy, self._wanted, self._results, pruning=pruning, most_configs=most_configs)
        self._open = OpenJobs(self._wanted, self._results, self._selection, seeds=seeds)
        while not strategy.learns and (config := self._selection.propose()) is not None:
            self._take(config)

    def _take(self, config: Config) -> None:
        """Want a config's probes, and its trainings with every seed."""
        self._open.add_ladders(self._wanted.take(config))
        for _ in range(self._seeds):
            self.want_seed(config.config_id)

    def want_seed(self, config_id: str) -> None:
        """Want a config trained with one more seed, the next."""
        self._open.add_training(self._wanted.add_seed(config_id))

    def adopt(self, job: Job) -> None:
        """Take in that an earlier run asked for `job`, where the strategy would still propose its config."""
        if self._selection.adopt(job.config):
            self._take(job.config)
        self._selection.begin(job)

    def ask(self) -> Job | Wait | Done:
        """The next job, what failed before after all that hasn't; Wait while the rest depends on running ones."""
        nothing = Wait() if self._results.any_running else Done()
        if self.is_spent:
            return nothing
        ready, failures = None, self._results.failures
        for job in self._ready():
            if ready is None or failures(job.job_id) < failures(ready.job_id):
                ready = job
            if not failures(ready.job_id):
                break
        return nothing if ready is None else self._handed_out(ready)

    def ask_training(self, fits: Callable[[Job], bool]) -> Job | None:
        """A settled training that fits a device which the search doesn't go by; nothing is proposed for it."""
        trainings = (job for seed in range(self._open.seeds) for job in self._open.trainings(seed) if fits(job))
        job = None if self.is_spent else next(trainings, None)
        return None if job is None else self._handed_out(job)

    def propose_ahead(self, most: int) -> bool:
        """Take another config of a strategy that learns, where of fewer than `most` no training has begun."""
        ahead = self._selection.learns and not self.is_spent and len(self._selection.not_begun()) < most
        if ahead and (config := self._selection.propose()) is not None:
            self._take(config)
            return True
        return False

    def _handed_out(self, job: Job) -> Job:
        self._selection.begin(job)
        return self._results.hand_out(job)

    def _ready(self) -> Iterator[Job]:
        """What could run now, in order; the strategy is asked for a config when no first seed of another is left."""
        yield from self._open.probes()
        yield from self._open.extra_probes()
        for seed in range(self._seeds):
            yield from self._open.trainings(seed)
            while seed == 0 and (config := self._selection.propose()) is not None:
                self._take(config)
                yield from self._open.probes()
                yield from self._open.trainings(seed)
        while True:
            for seed in range(self._seeds, self._open.seeds):
                yield from self._open.trainings(seed)
            if not self._want_further_seeds():
                break
        yield from self._open.trainings_put_last()

    def _want_further_seeds(self) -> bool:
        """Decide the next round, when all before is settled; whether there is one."""
        if self._further_seeds is None or self._decided or self._results.any_running or self.to_propose:
            return False
        last, wanted = self.put_last, list(self._selection.job_ids())
        missing = (job_id for job_id in wanted if self._results.state(job_id) == "missing")
        if any(self._wanted.owner(job_id).config_id not in last for job_id in missing):
            return False
        outcomes = [event for job_id in wanted if (event := self._results.outcome(job_id)) is not None]
        chosen = self._further_seeds.choose(outcomes, self.seeds)
        for config_id in chosen:
            self.want_seed(config_id)
        self._decided = not chosen
        return bool(chosen)

    def tell(self, event: Event) -> Continue | Stop:
        """Take in an event of a job, asked now or in an earlier run. Of jobs not wanted, nothing follows."""
        if isinstance(event, Rung):
            return self._early_stop.tell(event) if self._early_stop is not None else Continue()
        if event.job.beside and event.job.kind == "speed":
            self._results.count_seconds(event)
            return Continue()
        self._decided = False
        self._selection.begin(event.job)
        self._selection.forget_judgement()
        if self._results.add(event):
            self._open.reopen_all()
        self._open.reopen(self._wanted.sharing(event.job))
        if isinstance(event, Final):
            self._learn_from(event)
        return Continue()

    def _learn_from(self, final: Final) -> None:
        """Where it counts, the strategy observes it; one at another execution than this study's has no speed here."""
        wanted = self._wanted.trainings.get(final.job.job_id)
        if wanted is None or self._results.outcome(final.job.job_id) is not final:
            return
        self._selection.observe(self._results.on_search_device(final))
        probed = self._wanted.ladders_of(wanted.config.config_id)
        if final.status == "ok" and final.job.execution != wanted.execution and not probed:
            self._wanted.add_probe_of(wanted)

    @property
    def settings(self) -> JobSettings:
        """What all jobs share."""
        return self._wanted.settings

    @property
    def micro_batches_of(self) -> Callable[[Config], MicroBatches]:
        """A config's executions."""
        return self._wanted.micro_batches_of

    @property
    def configs(self) -> Mapping[str, Config]:
        """Every config that was taken, by id, in that order."""
        return self._wanted.configs

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Every job that the study may ask for, by id; `states` leaves out those that it turns out not to need."""
        return self._wanted.jobs

    @property
    def seeds(self) -> Mapping[str, int]:
        """By config id, with how many seeds it is trained; what is put last and has no room left is left out."""
        return self._selection.seeds

    @property
    def put_last(self) -> Mapping[str, PutLast]:
        """What `pruning` puts last and no training has begun of, by config id."""
        return self._selection.put_last

    @property
    def to_propose(self) -> int:
        """How many trainings there will be of configs that the strategy has yet to choose."""
        return self._seeds * self._selection.left

    @property
    def device_seconds(self) -> float:
        """What all jobs with an outcome have taken, from start to end."""
        return self._results.device_seconds

    @property
    def is_spent(self) -> bool:
        """Whether no job is handed out any more, as `max_device_seconds` have been taken."""
        return self._max_device_seconds is not None and self.device_seconds >= self._max_device_seconds

    def states(self) -> dict[str, RunState]:
        """What has become of every wanted job. What `reason` speaks of is done, or failed, without having run."""
        while self._want_further_seeds():
            pass
        return {job_id: self._results.state(job_id) for job_id in self._selection.job_ids()}

    def owner(self, job_id: str) -> Config:
        """The config of a job; of a probe that several share, the first."""
        return self._wanted.owner(job_id)

    def reason(self, job_id: str) -> Untrainable | None:
        """Why a trial without an outcome isn't trained; None where there's no such reason."""
        return self._results.reason(job_id)

    def outcome(self, job_id: str) -> Final | Speed | None:
        """The event that settled a job; None where there is none yet."""
        return self._results.outcome(job_id)

    def is_boundary(self, job_id: str) -> bool:
        """Whether a probe ran out of memory, as a ladder's last one does, and a smaller one didn't."""
        return self._results.is_boundary(job_id)
