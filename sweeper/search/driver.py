"""The Driver: a state machine that decides what runs next and what an outcome means. Pure: no clock, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Literal

from sweeper.planning.outcomes import Outcome, Outcomes
from sweeper.planning.resolving import (
    DEFAULT_SETTINGS,
    JobSettings,
    MicroBatches,
    ProbeLadder,
    Settled,
    Untrainable,
    ladders,
    majority,
    resolve,
)
from sweeper.search._base import Strategy
from sweeper.search.early_stop import SuccessiveHalving
from sweeper.search.further_seeds import FurtherSeeds
from sweeper.search.pruning import Pruning, PutLast
from sweeper.values.events import Continue, Done, Event, Failed, Final, Rung, Speed, Stop, Wait
from sweeper.values.records import Config, Job, Resolved

State = Literal["done", "running", "missing", "failed"]


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
        self._pruning, self._most_configs = pruning, most_configs
        self._judged: Mapping[str, PutLast] = {}
        self._begun, self._told_anew = set[str](), True
        self._early_stop, self._further_seeds, self._decided = early_stop, further_seeds, False
        self._strategy, self.settings, self._seeds = strategy, settings, seeds
        self._max_device_seconds = max_device_seconds
        self._outcomes = Outcomes(memory_bytes=settings.memory_bytes, branch_at=settings.branch_at)
        self.micro_batches_of = micro_batches
        self.configs: dict[str, Config] = {}
        self._probed: dict[str, tuple[ProbeLadder, ...]] = {}
        self._ladders: dict[tuple[str, ...], ProbeLadder] = {}
        self._trials: dict[str, Job] = {}
        self._trials_of: dict[str, list[str]] = {}
        self._jobs: dict[str, Job] = {}
        self._extra: dict[str, Job] = {}
        self._running: set[str] = set()
        self._choices: dict[str, Settled | Untrainable | None] = {}
        self._sharing: dict[str, list[str]] = {}
        self._open: list[dict[str, None]] = [{} for _ in range(seeds)]
        self._open_ladders: dict[tuple[str, ...], ProbeLadder] = {}
        while not strategy.learns and (config := self._proposed()) is not None:
            self._take(config)

    def _take(self, config: Config) -> None:
        """Want a config's probes, and its trainings with every seed."""
        config_id = config.config_id
        self.configs[config_id] = config
        self._probed[config_id] = ladders(config, self.micro_batches_of(config), self.settings)
        for ladder in self._probed[config_id]:
            if ladder.probe_ids not in self._ladders:
                self._ladders[ladder.probe_ids] = self._open_ladders[ladder.probe_ids] = ladder
            for probe in ladder.probes:
                self._sharing.setdefault(probe.job_id, []).append(config_id)
                self._jobs.setdefault(probe.job_id, probe)
        self._trials_of[config_id] = []
        for _ in range(self._seeds):
            self.want_seed(config_id)

    def want_seed(self, config_id: str) -> None:
        """Want a config trained with one more seed, the next."""
        job = self._training(config_id, len(self._trials_of[config_id]))
        self._trials_of[config_id].append(job.job_id)
        self._trials[job.job_id] = self._jobs[job.job_id] = job
        if job.seed == len(self._open):
            self._open.append({})
        self._open[job.seed][config_id] = None

    def adopt(self, job: Job) -> None:
        """Take in that an earlier run asked for `job`, where the strategy would still propose its config."""
        if self._strategy.adopt(job.config):
            self._take(job.config)
        if job.kind == "train":
            self._begun.add(job.config.config_id)

    @property
    def to_propose(self) -> int:
        """How many trainings there will be of configs that the strategy has yet to choose."""
        left = self._strategy.left
        return self._seeds * (left if self._most_configs is None else min(left, max(0, self._room_left())))

    def _room_left(self) -> int:
        """How many more configs may be trained than those that are or will be; what is put last isn't."""
        return (self._most_configs or len(self.configs)) - len(self.configs) + len(self.put_last)

    def _proposed(self) -> Config | None:
        return None if self._most_configs is not None and self._room_left() <= 0 else self._strategy.propose()

    @property
    def put_last(self) -> Mapping[str, PutLast]:
        """What `pruning` puts last and no training has begun of, by config id."""
        if self._pruning is None:
            return {}
        if self._told_anew:
            losses = {i: loss for i in self.configs if (loss := self._first_loss(i)) is not None}
            speeds = {i: speed for i in self.configs if (speed := self._probed_speed(i)) is not None}
            self._judged, self._told_anew = self._pruning.judge(list(self.configs.values()), losses, speeds), False
        return {config_id: why for config_id, why in self._judged.items() if config_id not in self._begun}

    @property
    def _left_out(self) -> Set[str]:
        """What won't be trained, as `most_configs` have begun; it may have been put last when they were chosen."""
        if self._most_configs is None or len(begun := self._begun & self.configs.keys()) < self._most_configs:
            return set()
        return self.configs.keys() - begun

    def _first_loss(self, config_id: str) -> float | None:
        outcome = self.outcome(self._trials_of[config_id][0])
        return outcome.val_loss if isinstance(outcome, Final) and outcome.status == "ok" else None

    def _probed_speed(self, config_id: str) -> float | None:
        outcomes = [self._probe_outcome(probe) for ladder in self._probed[config_id] for probe in ladder.probes]
        return max((speed for speed in outcomes if isinstance(speed, float)), default=None)

    def _training(self, config_id: str, seed: int) -> Job:
        config = self.configs[config_id]
        execution = self.micro_batches_of(config).executions[0]
        return Job(kind="train", config=config, execution=execution, seed=seed, **vars(self.settings))

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Every job that the study may ask for, by id; `states` leaves out those that it turns out not to need."""
        return self._jobs

    def owner(self, job_id: str) -> Config:
        """The config of a job; of a probe that several share, the first."""
        return self.configs[self._sharing[job_id][0]] if job_id in self._sharing else self._jobs[job_id].config

    @property
    def device_seconds(self) -> float:
        """What all jobs with an outcome have taken, from start to end."""
        return self._outcomes.device_seconds

    @property
    def is_spent(self) -> bool:
        """Whether no job is handed out any more, as `max_device_seconds` have been taken."""
        return self._max_device_seconds is not None and self.device_seconds >= self._max_device_seconds

    def ask(self) -> Job | Wait | Done:
        """The next job, what failed before after all that hasn't; Wait while the rest depends on running ones."""
        nothing = Wait() if self._running else Done()
        if self.is_spent:
            return nothing
        ready, failures = None, self._outcomes.failures
        for job in self._ready():
            if ready is None or failures[job.job_id] < failures[ready.job_id]:
                ready = job
            if not failures[ready.job_id]:
                break
        return nothing if ready is None else self._handed_out(ready)

    def ask_training(self, fits: Callable[[Job], bool]) -> Job | None:
        """A settled training that fits a device which the search doesn't go by; nothing is proposed for it."""
        trainings = (job for seed in range(len(self._open)) for job in self._trainings(seed) if fits(job))
        job = None if self.is_spent else next(trainings, None)
        return None if job is None else self._handed_out(job)

    def propose_ahead(self, most: int) -> bool:
        """Take another config of a strategy that learns, where of fewer than `most` no training has begun."""
        ahead = self._strategy.learns and not self.is_spent and len(self.configs.keys() - self._begun) < most
        if ahead and (config := self._proposed()) is not None:
            self._take(config)
            return True
        return False

    def _handed_out(self, job: Job) -> Job:
        self._running.add(job.job_id)
        if job.kind == "train":
            self._begun.add(job.config.config_id)
        return replace(job, attempt=self._outcomes.failures[job.job_id] + 1)

    def _ready(self) -> Iterator[Job]:
        """What could run now, in order; the strategy is asked for a config when no first seed of another is left."""
        yield from self._probes_ready()
        yield from (probe for probe in self._extra.values() if self._state(probe.job_id) == "missing")
        for seed in range(self._seeds):
            yield from self._trainings(seed)
            while seed == 0 and (config := self._proposed()) is not None:
                self._take(config)
                yield from self._probes_ready()
                yield from self._trainings(seed)
        while True:
            for seed in range(self._seeds, len(self._open)):
                yield from self._trainings(seed)
            if not self._want_further_seeds():
                break
        for config_id in self.put_last:
            yield from self._trainable(config_id, 0)

    def _trainings(self, seed: int) -> Iterator[Job]:
        """Those with a seed, but of what is put last."""
        last = self.put_last
        for config_id in tuple(self._open[seed]):
            if config_id not in last:
                yield from self._trainable(config_id, seed)

    def _want_further_seeds(self) -> bool:
        """Decide the next round, when all before is settled; whether there is one."""
        if self._further_seeds is None or self._decided or self._running or self.to_propose:
            return False
        last = self.put_last
        missing = (job_id for job_id in self._wanted_jobs() if self._state(job_id) == "missing")
        if any(self.owner(job_id).config_id not in last for job_id in missing):
            return False
        outcomes = [event for job_id in self._wanted_jobs() if (event := self.outcome(job_id)) is not None]
        chosen = self._further_seeds.choose(outcomes, self.seeds)
        for config_id in chosen:
            self.want_seed(config_id)
        self._decided = not chosen
        return bool(chosen)

    @property
    def seeds(self) -> Mapping[str, int]:
        """By config id, with how many seeds it is trained; what is put last and has no room left is left out."""
        out = self._left_out
        return {config_id: len(trials) for config_id, trials in self._trials_of.items() if config_id not in out}

    def _probes_ready(self) -> Iterator[Job]:
        """Of the open ladders; one that has nothing left to find out is closed."""
        for key, ladder in tuple(self._open_ladders.items()):
            probes = ladder.next(self._probe_outcome)
            if not probes:
                del self._open_ladders[key]
            yield from (probe for probe in probes if probe.job_id not in self._running)

    def _trainable(self, config_id: str, seed: int) -> Iterator[Job]:
        """A config's training with a seed, where it could run; one that is settled isn't looked at again."""
        job = self._trials[self._trials_of[config_id][seed]]
        state = self._state(job.job_id)
        if state in ("done", "failed") or not self._is_wanted(config_id, seed):
            self._open[seed].pop(config_id, None)
        elif state == "missing" and isinstance(choice := self._choice(config_id), Settled):
            yield replace(job, execution=choice.execution, resolved=choice.resolved)

    def tell(self, event: Event) -> Continue | Stop:
        """Take in an event of a job, asked now or in an earlier run. Of jobs not wanted, nothing follows."""
        if isinstance(event, Rung):
            return self._early_stop.tell(event) if self._early_stop is not None else Continue()
        if event.job.beside and event.job.kind == "speed":
            self._outcomes.count_seconds(event)
            return Continue()
        job_id = event.job.job_id
        own, self._decided, self._told_anew = job_id in self._running, False, True
        if event.job.kind == "train":
            self._begun.add(event.job.config.config_id)
        self._running.discard(job_id)
        if isinstance(event, Failed):
            self._outcomes.failures[job_id] += 1
        elif self._outcomes.add(event, own=own):
            self._look_again()
        self._look_again_at(self._sharing.get(job_id) or [event.job.config.config_id])
        if isinstance(event, Final) and job_id in self._trials and self.outcome(job_id) is event:
            self._strategy.observe(self._outcomes.as_here(event))
            self._want_speed_of(event)
        return Continue()

    def _look_again(self) -> None:
        """Other outcomes count now: everything may be open."""
        self._choices.clear()
        self._open_ladders = dict(self._ladders)
        all_trials = self._trials_of.items()
        self._open = [{i: None for i, trials in all_trials if seed < len(trials)} for seed in range(len(self._open))]

    def _look_again_at(self, config_ids: Iterable[str]) -> None:
        """Of configs about which something was told, what was settled may be open."""
        for config_id in config_ids:
            self._choices.pop(config_id, None)
        for config_id in config_ids:
            for seed, job_id in enumerate(self._trials_of.get(config_id, ())):
                if config_id not in self._open[seed] and self._state(job_id) == "missing":
                    still = {*self._open[seed], config_id}
                    self._open[seed] = {one: None for one in self.configs if one in still}

    def _want_speed_of(self, final: Final) -> None:
        """A training at another execution than this study's says nothing of this one's speed: ask for a probe."""
        wanted = self._trials[final.job.job_id]
        probed = self._probed[wanted.config.config_id]
        if final.status == "ok" and final.job.execution != wanted.execution and not probed:
            probe = replace(wanted, kind="speed", seed=0)
            self._extra[probe.job_id] = self._jobs[probe.job_id] = probe

    def states(self) -> dict[str, State]:
        """What has become of every wanted job. What `reason` speaks of is done, or failed, without having run."""
        while self._want_further_seeds():
            pass
        return {job_id: self._state(job_id) for job_id in self._wanted_jobs()}

    def _wanted_jobs(self) -> list[str]:
        probes = [probe.job_id for ladder in self._ladders.values() for probe in ladder.wanted(self._probe_outcome)]
        trials = [
            trials[seed]
            for seed in range(len(self._open))
            for config_id, trials in self._trials_of.items()
            if seed < len(trials) and self._is_wanted(config_id, seed)
        ]
        return [*probes, *self._extra, *trials]

    def _is_wanted(self, config_id: str, seed: int) -> bool:
        """Whether a config is trained with a seed: not with a further one once the first was stopped early."""
        if config_id in self._left_out:
            return False
        first = self.outcome(self._trials_of[config_id][0]) if seed else None
        return first is None or first.status != "stopped_early"

    def _state(self, job_id: str) -> State:
        if self.outcome(job_id) is not None:
            return "done"
        if job_id in self._running:
            return "running"
        if self._outcomes.is_given_up(job_id):
            return "failed"
        choice = self._choice(self._trials[job_id].config.config_id) if job_id in self._trials else None
        if isinstance(choice, Untrainable):
            return "done" if choice.state == "out_of_memory" else "failed"
        return "missing"

    def reason(self, job_id: str) -> Untrainable | None:
        """Why a trial without an outcome isn't trained; None where there's no such reason."""
        if job_id not in self._trials or self.outcome(job_id) is not None:
            return None
        choice = self._choice(self._trials[job_id].config.config_id)
        return choice if isinstance(choice, Untrainable) else None

    def outcome(self, job_id: str) -> Final | Speed | None:
        """The event that settled a job; None where there is none yet."""
        told = self._outcomes.counting(job_id)
        if not told or job_id not in self._trials:
            return told[0] if told else None
        for event in told:
            if event.status != "out_of_memory":
                return event
        choice = self._choice(self._trials[job_id].config.config_id)
        if isinstance(choice, Settled):
            return next((event for event in told if event.job.execution == choice.execution), None)
        return None

    def is_boundary(self, job_id: str) -> bool:
        """Whether a probe ran out of memory, as a ladder's last one does, and a smaller one didn't."""
        outcome = self.outcome(job_id)
        if outcome is None or outcome.status != "out_of_memory":
            return False
        mine = [one for one in self._ladders.values() if one.in_turn and job_id in one.probe_ids]
        return any(isinstance(self._probe_outcome(probe), float) for ladder in mine for probe in ladder.probes)

    def _probe_outcome(self, probe: Job) -> Outcome | None:
        return self._outcomes.of_probe(probe.job_id)

    def _choice(self, config_id: str) -> Settled | Untrainable | None:
        if config_id not in self._choices:
            config, probed = self.configs[config_id], self._probed[config_id]
            found, kept = self.micro_batches_of(config), self._kept(config)
            self._choices[config_id] = resolve(config, found, probed, self._probe_outcome, kept=kept)
        return self._choices[config_id]

    def _kept(self, config: Config) -> Resolved:
        """How most of the config's trainings on this device type were resolved, the lowest seeds first."""
        return majority(one for job_id in self._trials_of[config.config_id] for one in self._outcomes.resolved(job_id))
