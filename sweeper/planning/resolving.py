"""What probes settle before a training: its micro-batch, its precision, its steps. Pure: from outcomes alone.

A config is probed where `batch_size` has several values, where its precision is auto, or where its length is given
in minutes. Of precision auto the micro-batches are probed in bf16 and in fp8.

A ladder of micro-batches is climbed down, one probe at a time, from the largest, and ends at the first that is no
faster than the larger ones: speed rises with the micro-batch, up to where it's flat. Each probe compiles for its own
micro-batch (on a GPU for 20 to 30 s, to measure for 3), so that of four that fit two are saved where the largest is
the fastest. One compilation for all, of a micro-batch that is left open, would be cheaper, and its kernels others than
those that train: sizes that aren't known can't be specialised for, nor tiles chosen by them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sweeper.planning.outcomes import Outcome
from sweeper.values.records import UNRESOLVED, Config, DeviceType, Execution, Job, Precision, Resolved

OutcomeOf = Callable[[Job], Outcome | None]
"""The outcome of a speed job, None as long as it has none."""

Order = Literal["all", "down", "up"]

AUTO: tuple[Precision, ...] = ("bf16", "fp8")
"""What precision auto chooses from; of equal speeds the first wins."""


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What all jobs of a study share and no id knows: see `sweeper.values.records.Job`."""

    data_path: str | None = None
    device: DeviceType = "cpu"
    memory_bytes: int | None = None
    shared_ok: bool = False
    branch_at: tuple[float, ...] = ()
    reference: Job | None = None
    reference_every_s: float = 0.0


DEFAULT_SETTINGS = JobSettings()


@dataclass(frozen=True, kw_only=True)
class MicroBatches:
    """The executions of a config: `each` a point of its own, or rungs of a ladder, ascending, for the `fastest`.

    `probed`: speed is measured before any training, even where nothing is to be resolved by it.
    """

    executions: tuple[Execution, ...]
    choose: Literal["each", "fastest"] = "each"
    probed: bool = False


def of_each(known: Mapping[str, MicroBatches]) -> Callable[[Config], MicroBatches]:
    """Of a config the micro-batches that are known by its id."""
    return lambda config: known[config.config_id]


@dataclass(frozen=True, kw_only=True)
class ProbeLadder:
    """The probes of one precision, by ascending micro-batch; `precision` is None of a config without a recipe.

    `order`: all at once; or one at a time, down until one is no faster, or up until one is out of memory.
    """

    precision: Precision | None
    probes: tuple[Job, ...]
    order: Order

    @property
    def in_turn(self) -> bool:
        """Whether what is known of one probe may make another needless."""
        return self.order != "all"

    @cached_property
    def probe_ids(self) -> tuple[str, ...]:
        """By these configs share a ladder: those that differ only in what speed doesn't depend on."""
        return tuple([probe.probe_id for probe in self.probes])

    def next(self, outcome_of: OutcomeOf) -> Sequence[Job]:
        """The probes to run now; none once all is known."""
        if self.order == "down":
            return self._next_down([outcome_of(probe) for probe in self.probes])
        if self.order == "all":
            return [probe for probe in self.probes if outcome_of(probe) is None]
        for probe in self.probes:
            outcome = outcome_of(probe)
            if outcome is None:
                return [probe]
            if outcome == "out_of_memory":
                break
        return []

    def _next_down(self, outcomes: Sequence[Outcome | None]) -> Sequence[Job]:
        """What is larger than one that is out of memory, as an upward climb leaves it, needn't be tried."""
        first_out = next((n for n, outcome in enumerate(outcomes) if outcome == "out_of_memory"), len(outcomes))
        best = 0.0
        for n, outcome in reversed(list(enumerate(outcomes))):
            if outcome is None and n < first_out:
                return [self.probes[n]]
            if isinstance(outcome, float):
                if outcome <= best:
                    return []
                best = outcome
        return []

    def wanted(self, outcome_of: OutcomeOf) -> Sequence[Job]:
        """The probes that have been run or will be, as far as is known: none that turn out to be needless."""
        if self.order == "down" and not self.next(outcome_of):
            return [probe for probe in self.probes if outcome_of(probe) is not None]
        if self.order == "up":
            for n, probe in enumerate(self.probes, start=1):
                if outcome_of(probe) == "out_of_memory":
                    return self.probes[:n]
        return self.probes


@dataclass(frozen=True, kw_only=True)
class Settled:
    """How a config trains."""

    execution: Execution
    resolved: Resolved = UNRESOLVED


@dataclass(frozen=True, kw_only=True)
class Untrainable:
    """Why a config isn't trained: nothing it may run at has the memory, or none could be measured."""

    state: Literal["out_of_memory", "failed"]
    why: str


def ladders(
    config: Config,
    micro_batches: MicroBatches,
    settings: JobSettings = DEFAULT_SETTINGS,
    *,
    in_turn: Order = "down",
) -> tuple[ProbeLadder, ...]:
    """The probes that `config` has to wait for, a ladder per precision; none where nothing is to be known.

    `in_turn` is the order where the micro-batch is the fastest.
    """
    executions = micro_batches.executions
    settled = len(executions) == 1 and config.precision != "auto" and config.minutes is None
    if settled and not micro_batches.probed:
        return ()
    precisions = AUTO if config.precision == "auto" else (config.precision,)
    return tuple(
        ProbeLadder(
            precision=precision,
            probes=tuple(
                Job(kind="speed", config=_at(config, precision), execution=execution, **vars(settings))
                for execution in executions
            ),
            order=in_turn if micro_batches.choose == "fastest" else "all",
        )
        for precision in precisions
    )


def _at(config: Config, precision: Precision | None) -> Config:
    return config if precision is None else config.at_precision(precision)


def resolve(
    config: Config,
    micro_batches: MicroBatches,
    probed: Sequence[ProbeLadder],
    outcome_of: OutcomeOf,
    *,
    kept: Resolved = UNRESOLVED,
) -> Settled | Untrainable | None:
    """How `config` trains, given its ladders; None while probes are missing.

    The fastest probe decides the precision of auto, and the micro-batch of a ladder; where each micro-batch is a
    point of its own, the training runs at the first that has memory. `kept` is how the config's trainings were
    resolved before: what it says stands, so that all seeds are trained alike.
    """
    if not probed:
        return Settled(execution=micro_batches.executions[0])
    if any(ladder.next(outcome_of) for ladder in probed):
        return None
    speeds: dict[tuple[Precision | None, Execution], float] = {}
    for ladder in probed:
        for probe in ladder.wanted(outcome_of):
            if isinstance(outcome := outcome_of(probe), float):
                speeds[ladder.precision, probe.execution] = outcome
    minutes, is_auto = config.minutes, config.precision == "auto"
    if not speeds:
        return _without_speeds(probed, outcome_of, speed_needed=is_auto or minutes is not None)
    precision, execution = max(speeds, key=lambda key: speeds[key])
    if is_auto and kept.precision in {of for of, _ in speeds}:
        precision = kept.precision
    fitting = {at: speed for (of, at), speed in speeds.items() if of == precision}
    in_turn = micro_batches.choose == "fastest"
    execution = max(fitting, key=lambda at: fitting[at]) if in_turn else next(iter(fitting))
    steps = None
    if minutes is not None:
        steps = kept.steps or steps_in(minutes, fitting[execution], config.tokens_of(1) or 1)
    return Settled(execution=execution, resolved=Resolved(steps=steps, precision=precision if is_auto else None))


def _without_speeds(
    probed: Sequence[ProbeLadder], outcome_of: OutcomeOf, *, speed_needed: bool
) -> Settled | Untrainable:
    """Nothing could be measured. Where a training needs no speed to start, it may still be tried."""
    probes = [probe for ladder in probed for probe in ladder.wanted(outcome_of)]
    unavailable = [probe for probe in probes if outcome_of(probe) == "unavailable"]
    if not unavailable:
        smallest = min(probe.execution.batch_size for probe in probes)
        return Untrainable(
            state="out_of_memory", why=f"not trained: its probes ran out of memory from batch_size {smallest}"
        )
    if speed_needed or any(ladder.in_turn for ladder in probed):
        return Untrainable(state="failed", why="not trained: none of its probes could measure a speed")
    return Settled(execution=unavailable[0].execution)


def steps_in(minutes: float, tokens_per_s: float, tokens_per_step: int) -> int:
    """Whole optimizer steps that take `minutes` at `tokens_per_s`, at least 1."""
    return max(1, math.floor(minutes * 60 * tokens_per_s / tokens_per_step))


def majority(resolved: Iterable[Resolved]) -> Resolved:
    """The commonest; of equally common ones the first. What it is of the empty is nothing resolved."""
    counts: Mapping[Resolved, int] = Counter(resolved)
    return max(counts, key=lambda one: counts[one], default=UNRESOLVED)
