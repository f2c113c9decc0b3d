"""Which configs are trained: those that the strategy proposes, but for what `pruning` puts last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from sweeper.search._base import Strategy
from sweeper.search.pruning import Pruning, PutLast
from sweeper.search.state.results import Results
from sweeper.search.state.wanted import Wanted
from sweeper.values.events import Final
from sweeper.values.records import Config, Job


class Selection:
    """Changed by what the strategy proposes, by trainings that begin, and by outcomes, which move what is put last.

    No more than `most_configs` are trained: the strategy is asked for another config in place of one put last.
    """

    def __init__(
        self, strategy: Strategy, wanted: Wanted, results: Results, *, pruning: Pruning | None, most_configs: int | None
    ) -> None:
        self._strategy, self._wanted, self._results = strategy, wanted, results
        self._pruning, self._most_configs = pruning, most_configs
        self._begun: set[str] = set()
        self._judged: Mapping[str, PutLast] | None = None

    @property
    def learns(self) -> bool:
        """Whether what is proposed depends on outcomes."""
        return self._strategy.learns

    @property
    def left(self) -> int:
        """How many configs are still to be proposed."""
        left = self._strategy.left
        return left if self._most_configs is None else min(left, max(0, self._room_left()))

    def _room_left(self) -> int:
        """How many more configs may be trained than those that are or will be; what is put last isn't."""
        configs = self._wanted.configs
        return (self._most_configs or len(configs)) - len(configs) + len(self.put_last)

    def propose(self) -> Config | None:
        """The next config to take; None where there is none or no room for it."""
        return None if self._most_configs is not None and self._room_left() <= 0 else self._strategy.propose()

    def adopt(self, config: Config) -> bool:
        """Whether what an earlier run has asked for is to be taken, for the strategy would still propose it."""
        return self._strategy.adopt(config)

    def begin(self, job: Job) -> None:
        """A job was handed out, now or in an earlier run: a training's config isn't put last any more."""
        if job.kind == "train":
            self._begun.add(job.config.config_id)

    def not_begun(self) -> Set[str]:
        """The configs of which no training has begun."""
        return self._wanted.configs.keys() - self._begun

    def forget_judgement(self) -> None:
        """An outcome was told: what is put last has to be looked at again."""
        self._judged = None

    def observe(self, final: Final) -> None:
        """Have the strategy learn from a trial's outcome."""
        self._strategy.observe(final)

    @property
    def put_last(self) -> Mapping[str, PutLast]:
        """What `pruning` puts last and no training has begun of, by config id."""
        if self._pruning is None:
            return {}
        if self._judged is None:
            configs, results = self._wanted.configs, self._results
            losses = {i: loss for i in configs if (loss := results.first_loss(i)) is not None}
            speeds = {i: speed for i in configs if (speed := results.probed_speed(i)) is not None}
            self._judged = self._pruning.judge(list(configs.values()), losses, speeds)
        return {config_id: why for config_id, why in self._judged.items() if config_id not in self._begun}

    @property
    def _left_out(self) -> Set[str]:
        """What won't be trained, as `most_configs` have begun; it may have been put last when they were chosen."""
        configs = self._wanted.configs.keys()
        if self._most_configs is None or len(begun := self._begun & configs) < self._most_configs:
            return set()
        return configs - begun

    @property
    def seeds(self) -> dict[str, int]:
        """By config id, with how many seeds it is trained; what is put last and has no room left is left out."""
        out = self._left_out
        return {config_id: seeds for config_id, seeds in self._wanted.seeds.items() if config_id not in out}

    def is_trained(self, config_id: str, seed: int) -> bool:
        """Whether a config is trained with a seed: not with a further one once the first was stopped early."""
        if config_id in self._left_out:
            return False
        first = self._results.outcome(self._wanted.training_ids(config_id)[0]) if seed else None
        return first is None or first.status != "stopped_early"

    def job_ids(self) -> Iterable[str]:
        """Ids of all that is wanted as far as is known: probes that aren't needless, and trainings by seed."""
        for ladder in self._wanted.ladders.values():
            yield from (probe.job_id for probe in ladder.wanted(self._results.of_probe))
        yield from self._wanted.extra_probes
        trainings = {config_id: self._wanted.training_ids(config_id) for config_id in self._wanted.configs}
        for seed in range(max(map(len, trainings.values()), default=0)):
            for config_id, ids in trainings.items():
                if seed < len(ids) and self.is_trained(config_id, seed):
                    yield ids[seed]
