"""What a study's search chooses from, and the Driver that asks for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

from sweeper.measurements.measured import PlannedPoint
from sweeper.planning.notes import MOST_CANDIDATES
from sweeper.planning.plan import PlannedConfig
from sweeper.planning.resolving import AUTO, JobSettings, MicroBatches, of_each
from sweeper.planning.tokens import longer
from sweeper.planning.totals import SPARE
from sweeper.search import make_strategy
from sweeper.search._base import Fixed
from sweeper.search.driver import Driver
from sweeper.search.early_stop import SuccessiveHalving
from sweeper.search.follow_up import Candidate, FollowUp, FollowUpDriver
from sweeper.search.further_seeds import Contender, FurtherSeeds
from sweeper.search.pruning import Pruning, PutLast
from sweeper.search.reference import reference_job
from sweeper.study.schema import LoadedStudy
from sweeper.values.events import Final, Speed
from sweeper.values.labels import labels
from sweeper.values.records import Config, DeviceType, Job


@dataclass(frozen=True, kw_only=True)
class StudySearch:
    """A study and its feasible configs."""

    loaded: LoadedStudy
    configs: Sequence[PlannedConfig]

    @cached_property
    def candidates(self) -> tuple[PlannedConfig, ...]:
        """What the search chooses from: the feasible configs, or MOST_CANDIDATES of them, drawn by its seed.

        A grid takes them all.
        """
        configs, search = self.configs, self.loaded.study.search
        if search.method == "grid" or len(configs) <= MOST_CANDIDATES:
            return tuple(configs)
        drawn = random.Random(search.seed).sample(range(len(configs)), MOST_CANDIDATES)
        return tuple([configs[number] for number in sorted(drawn)])

    def driver(self, *, device: DeviceType = "cpu", at_a_time: int = 1, probed: bool = False) -> Driver:
        """A Driver that has been told nothing yet; on several devices jobs come longest first, by the plan.

        `probed`: every config's speed is measured before any training.
        """
        study, trials = self.loaded.study, self.loaded.study.search.trials
        micro_batches = {
            planned.config.config_id: MicroBatches(
                executions=planned.executions, choose=planned.choose, probed=probed or study.search.prune
            )
            for planned in self.candidates
        }
        strategy = make_strategy(
            study.search.method,
            [planned.config for planned in self.candidates],
            trials=None if trials is None else trials * (SPARE if study.search.prune else 1),
            seed=study.search.seed,
            axes=study.differing,
            objectives=study.objectives,
        )
        if at_a_time > 1 and isinstance(strategy, Fixed):
            seconds = {planned.config: planned.seconds or 0.0 for planned in self.candidates}
            strategy.put_longest_first(seconds.__getitem__, among=trials)
        path, hours, stop = self.loaded.data_path, study.search.max_gpu_hours, study.search.early_stop
        settings = JobSettings(
            data_path=str(path) if path else None,
            device=device,
            memory_bytes=study.budget.memory,
            shared_ok=study.resources.allow_shared,
            branch_at=study.trial.branch_at,
        )
        if (every_s := study.resources.reference_every) is not None:
            reference = reference_job(self.candidates, settings)
            settings = replace(settings, reference=reference, reference_every_s=every_s)
        make = Driver if study.follow_up is None else partial(FollowUpDriver, follow_up=self._follow_up())
        return make(
            strategy,
            seeds=study.trial.first_seeds,
            micro_batches=of_each(micro_batches),
            settings=settings,
            max_device_seconds=None if hours is None else hours * 3600,
            early_stop=None if stop is None else SuccessiveHalving(grace=stop.grace),
            further_seeds=self._further_seeds(),
            pruning=Pruning(axes=study.differing) if study.search.prune else None,
            most_configs=trials if study.search.prune else None,
        )

    def _follow_up(self) -> FollowUp:
        study = self.loaded.study
        assert study.follow_up is not None

        def candidates(outcomes: Sequence[Final | Speed]) -> Sequence[Candidate]:
            from sweeper.running.standing_so_far import follow_up_candidates

            configs = {event.job.config.config_id: event.job.config for event in outcomes}
            grows = {one for one, config in configs.items() if self._grows(config)}
            measured = self.points_of(configs.keys())
            found = follow_up_candidates(outcomes, measured, study.objectives, study.nuisance)
            return [one for one in found if one.config_id in grows]

        return FollowUp(shapes=study.follow_up.shapes, candidates=candidates, longer=self.longer)

    def longer(self, config: Config) -> Config:
        """What is trained of a config in a follow-up."""
        assert self.loaded.study.follow_up is not None
        tokens = self.loaded.study.follow_up.tokens
        return replace(config, recipe=longer(config.recipe, tokens)) if config.recipe else config

    def _grows(self, config: Config) -> bool:
        steps, after = config.steps, self.longer(config).steps
        return steps is None or after is None or after > steps

    def follow_up_points(self, followed: Mapping[str, str]) -> dict[str, PlannedPoint]:
        """By the study's own config ids the points of what is trained of them longer, which `followed` has by id."""
        return {
            point.config.config_id: replace(point, config=self.longer(point.config))
            for point in reversed(self.points_of(set(followed.values())))
        }

    def _further_seeds(self) -> FurtherSeeds | None:
        """None where every config has the same number of seeds."""
        study = self.loaded.study
        if study.trial.most_seeds == study.trial.first_seeds:
            return None

        def standings(outcomes: Sequence[Final | Speed]) -> Sequence[Contender]:
            from sweeper.running.standing_so_far import standings

            measured = self.points_of({event.job.config.config_id for event in outcomes})
            return standings(outcomes, measured, study.objectives, study.nuisance)

        return FurtherSeeds(most=study.trial.most_seeds, standings=standings)

    def points_of(self, asked: Set[str], *, probed: bool = False) -> list[PlannedPoint]:
        """The points of these configs, by id: one each, or one per micro-batch where that is an axis."""
        return [
            PlannedPoint(
                config=planned.config,
                execution=execution,
                off_target=planned.off_target,
                ladder=planned.executions if planned.choose == "fastest" else (),
                memory_bytes=self.loaded.study.budget.memory,
                probed=probed or self.loaded.study.search.prune,
                branch_at=self.loaded.study.trial.branch_at,
            )
            for planned in self.candidates
            if planned.config.config_id in asked
            for execution in (planned.executions[:1] if planned.choose == "fastest" else planned.executions)
        ]

    @cached_property
    def names(self) -> dict[str, str]:
        """By config id, what differs among the candidates."""
        configs = [planned.config for planned in self.candidates]
        return dict(zip((c.config_id for c in configs), labels([c.to_dict() for c in configs]), strict=True))

    def described(self, put_last: Iterable[PutLast]) -> list[dict[str, Any]]:
        """What was put last, and than which config, by their names."""
        return [
            {**asdict(one), "label": self.names[one.config_id], "than_label": self.names[one.than]} for one in put_last
        ]

    def labeller(self) -> Callable[[Job], str]:
        """Short names of jobs: what differs among the study's configs and micro-batches, nothing else.

        A trial whose micro-batch is the fastest of a ladder is named without it, as its point is.
        """
        points = [(planned, execution) for planned in self.candidates for execution in planned.executions]
        rows = [{**planned.config.to_dict(), "batch_size": execution.batch_size} for planned, execution in points]
        known: dict[tuple[str, int], str] = {}
        for (planned, execution), name in zip(points, labels(rows), strict=True):
            known[planned.config.config_id, execution.batch_size] = name
            for precision in AUTO if planned.config.precision == "auto" else ():
                probed = planned.config.at_precision(precision).config_id
                known.setdefault((probed, execution.batch_size), f"{name} {precision}")
        of_trials = self.names
        laddered = {planned.config.config_id for planned in self.candidates if planned.choose == "fastest"}

        followed_ups = (
            {}
            if self.loaded.study.follow_up is None
            else {self.longer(planned.config).config_id: planned.config.config_id for planned in self.candidates}
        )

        def label(job: Job) -> str:
            config_id = job.config.config_id
            if config_id in followed_ups:
                return f"{of_trials[followed_ups[config_id]]} for longer"
            if job.kind == "train" and config_id in laddered:
                return of_trials[config_id]
            return known.get((config_id, job.execution.batch_size), config_id)

        return label
