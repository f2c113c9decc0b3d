"""The quality/speed frontier of what was measured, and how far noise lets one believe it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from sweeper.frontier.at_time import at_equal_time, mean_trial_seconds
from sweeper.frontier.attainment import Interval, Surface, attainment, hypervolume_interval
from sweeper.frontier.caveats import device_caveats, held_equal, nuisance_caveats, study_caveats, undecided_caveats
from sweeper.frontier.decision import Decide, Decision, decide
from sweeper.frontier.differences import Best, LossDifference, best_of_each, ties_and_gap
from sweeper.frontier.estimates import DeviceEstimates, estimates_by_device
from sweeper.frontier.horizons import HeldForLonger, Horizons, held_for_longer, horizons
from sweeper.frontier.noise_words import NoiseClass, noisy_caveats
from sweeper.frontier.outliers import OutlyingTrial, outlier_caveats
from sweeper.frontier.points import Point, steady
from sweeper.frontier.standing import hypervolume
from sweeper.ledger.typed import Line
from sweeper.measurements.batch_ladders import BatchLadder, batch_ladders
from sweeper.measurements.drift import Drift, drift_caveats
from sweeper.measurements.measured import PlannedPoint, Seeds, measured
from sweeper.measurements.nuisance_axes import Tuned
from sweeper.measurements.precision_pairs import PrecisionPair, precision_pairs
from sweeper.measurements.utilization import Utilization, utilization
from sweeper.search.job_states import job_states
from sweeper.stats.additive_fit import AdditiveFit
from sweeper.values.errors import UsageError
from sweeper.values.objectives import DIRECTIONS, MARGINS
from sweeper.values.records import Config

EQUAL_TIME = Decide()


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What seeds leave unexplained, in nats for val_loss and as a fraction (log) for tokens_per_s.

    A difference of any two below `smallest_resolved` is a tie, one above `largest_tie` is none; they part where some
    have more seeds than others, or scatter more. A true one of `minimum_detectable` is resolved with 80% probability
    or more, whatever the pair. None without a noise estimate.
    """

    residual_sd: float | None
    degrees_of_freedom: int
    paired: bool
    smallest_resolved: float | None
    largest_tie: float | None
    minimum_detectable: float | None


@dataclass(frozen=True, kw_only=True)
class DeviceFrontier:
    """The points measured on one device type, fastest first, and what can be said about them.

    What diverged for a seed is among the points, and in nothing else while there is another. `hypervolume` (nats ×
    tokens/s) lies between the frontier and `reference`, the worst value of each objective among
    the points; its 95% interval and `attainment`, what 2.5%, 50% and 97.5% of the drawn frontiers attain, are those of
    `sweeper.frontier.attainment`, None and empty without an estimate of the noise. `best` has, by objective, the best
    point and whether it surely is; `ties` are pairs of configs whose losses aren't told apart, per comparison; `gap` is
    the worst less the best mean loss. As extremes are picked after looking, the intervals of `gap` and behind `best`
    hold for all pairs at once. `incomplete` names planned points without a result. `tuned` are the shapes of several
    configs that differ in nuisance axes alone: points are those at their best. `drift` is what the reference config
    says, None where it wasn't measured; what points estimate of their speed is corrected for it, their samples are as
    measured. `precision_pairs` and `batch_ladders` are empty where the study has none. `fits` has one for each metric,
    of log tokens/s for speed: no part of the JSON. `horizons` is what branches say, None where no trial has any;
    `follow_up` what those trained longer do. `noise_classes` are the points that scatter more than others, `outliers`
    the trials that stand out.
    """

    device: str
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    noise: Mapping[str, Noise]
    hypervolume: float
    hypervolume_interval: Interval | None
    attainment: tuple[Surface, ...]
    reference: Mapping[str, float]
    best: Mapping[str, Best]
    ties: tuple[LossDifference, ...]
    gap: LossDifference | None
    incomplete: tuple[str, ...]
    left_out: Mapping[str, int]
    held_equal: str
    tuned: tuple[Tuned, ...]
    drift: Drift | None
    horizons: Horizons | None
    follow_up: HeldForLonger | None
    decision: Decision
    doubts: tuple[str, ...]
    fits: Mapping[str, AdditiveFit] = field(repr=False, compare=False)
    precision_pairs: tuple[PrecisionPair, ...] = ()
    batch_ladders: tuple[BatchLadder, ...] = ()
    noise_classes: tuple[NoiseClass, ...] = ()
    outliers: tuple[OutlyingTrial, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What a study found under one profile.

    `jobs` counts planned jobs by state; `to_do` says how many of them another run would do. `useful` is of the
    whole ledger, with the trials left out. `follow_ups` has, by the config id of what is trained longer, that of the
    study's own config. `put_last` are the configs that `search.prune` left untrained so far, the
    fields of `sweeper.search.pruning.PutLast` with labels.
    """

    study: str
    profile: str
    question: str
    objectives: Mapping[str, str]
    margins: Mapping[str, float]
    planned: int
    jobs: Mapping[str, int]
    to_do: int
    put_last: tuple[Mapping[str, Any], ...]
    frontiers: tuple[DeviceFrontier, ...]
    doubts: tuple[str, ...]
    useful: Utilization
    follow_ups: Mapping[str, str] = field(default_factory=dict)


def frontier(
    records: Iterable[Line],
    *,
    study: str,
    profile: str,
    question: str = "",
    planned: Sequence[PlannedPoint],
    objectives: Mapping[str, str],
    margins: Mapping[str, float] = MARGINS,
    decide: Decide = EQUAL_TIME,
    nuisance: Sequence[str] = (),
    seeds: Seeds = None,
    most_seeds: int | None = None,
    to_propose: int = 0,
    put_last: Sequence[Mapping[str, Any]] = (),
    follow_ups: Mapping[str, PlannedPoint] = MappingProxyType({}),
) -> Frontier:
    """The frontier of each device type that measured at least one of the `planned` points.

    `records` are ledger lines; those of ids not planned are ignored. A difference within its objective's of `margins`
    doesn't matter (nats of val_loss, a fraction of tokens_per_s). `decide`: what the answer goes by. Of configs that
    differ in `nuisance` axes alone
    only the best is a point (`sweeper.measurements.nuisance_axes`). `seeds` is how many each config should have
    (trials of further seeds are ignored), None to go by what was asked, and `most_seeds` how many any may get, where
    that depends on outcomes; `to_propose` are the trainings of configs that the search has yet to choose; `put_last`
    is what `search.prune` has put last and not trained; `follow_ups` has, by config id, what is trained longer of
    planned points. Raises UsageError for an objective that isn't supported.
    """
    for name, direction in objectives.items():
        if DIRECTIONS.get(name) != direction:
            raise UsageError(f"objective {name}: {direction} is not supported: there are {dict(DIRECTIONS)}")
    records = list(records)
    states = job_states(records, [*planned, *follow_ups.values()], seeds)
    longer = {m.device: m.trials for m in measured(records, list(follow_ups.values()), seeds)}
    of_longer = {point.config.config_id: config_id for config_id, point in follow_ups.items()}
    own = {m.device: m.trials for m in measured(records, planned, seeds)} if longer else {}
    frontiers = [
        replace(
            one,
            doubts=(*one.doubts, *undecided_caveats(one.points, most_seeds)),
            follow_up=held_for_longer(
                own.get(one.device, ()),
                longer.get(one.device, ()),
                of_longer,
                {point.config_id: point.label for point in one.points},
            ),
        )
        for one in (
            _device_frontier(records, judged, planned, objectives, margins, nuisance, decide)
            for judged in estimates_by_device(
                records, planned, objectives, margins=margins, seeds=seeds, nuisance=nuisance
            )
        )
    ]
    return Frontier(
        study=study,
        profile=profile,
        question=question,
        objectives=dict(objectives),
        margins=dict(margins),
        planned=len(planned),
        jobs=dict(Counter(state.state for state in states)),
        to_do=sum(state.to_do for state in states) + to_propose,
        put_last=tuple(put_last),
        frontiers=tuple(frontiers),
        doubts=study_caveats(states, [point.config for point in planned], to_propose=to_propose),
        useful=replace(utilization(records), trials=()),
        follow_ups=of_longer,
    )


def _device_frontier(
    records: Sequence[Line],
    judged: DeviceEstimates,
    planned: Sequence[PlannedPoint],
    objectives: Mapping[str, str],
    margins: Mapping[str, float],
    nuisance: Sequence[str],
    how: Decide,
) -> DeviceFrontier:
    m, points, fits, tuned, draws = judged.measured, judged.points, judged.fits, judged.at_best.tuned, judged.draws
    if draws is not None:
        rivals = draws.dominated_by([point.point_id for point in points])
        points = tuple([replace(point, dominated_by=by) for point, by in zip(points, rivals, strict=True)])
    configs = [point.config for point in planned]
    chosen_from = steady(points)
    volume, reference = hypervolume(chosen_from, objectives)
    ties, gap = ties_and_gap(chosen_from, fits["val_loss"], margins["val_loss"])
    have = {(point.config_id, point.probe_id) for point in points}
    missing = [p for p in judged.here if (p.config.config_id, p.probe_id) not in have]
    return DeviceFrontier(
        device=m.device,
        seeds=tuple(sorted({record.seed for record in m.trials})),
        points=points,
        noise={name: _noise(one) for name, one in fits.items()},
        hypervolume=volume,
        hypervolume_interval=None if draws is None else hypervolume_interval(draws, objectives, reference=reference),
        attainment=() if draws is None else attainment(draws, objectives),
        reference=reference,
        best=best_of_each(chosen_from, fits, objectives, margins),
        ties=ties,
        gap=gap,
        incomplete=tuple([judged.here[p] for p in missing]),
        left_out=dict(m.left_out),
        held_equal=held_equal(configs, _tokens(list(judged.here))),
        tuned=tuned,
        drift=judged.log.drift,
        decision=decide(
            chosen_from,
            fits["val_loss"],
            at_equal_time(m.trials, chosen_from, fits["tokens_per_s"]),
            how,
            trial_seconds=mean_trial_seconds(m.finals),
        ),
        follow_up=None,
        horizons=horizons(m.trials, {p.config.config_id: label for p, label in judged.here.items()}),
        doubts=(
            *device_caveats(m, configs=configs, fits={**fits, "val_loss": judged.all_losses}, names=judged.names),
            *nuisance_caveats(tuned, nuisance),
            *drift_caveats(judged.log.drift),
            *outlier_caveats(judged.outliers),
            *noisy_caveats([one for one in judged.noise_classes if not _one_trial(one, judged.outliers)]),
        ),
        fits=fits,
        precision_pairs=precision_pairs(judged.pooled, judged.resolved, judged.log.correction),
        batch_ladders=batch_ladders(records, judged.pooled, judged.resolved),
        noise_classes=judged.noise_classes,
        outliers=judged.outliers,
    )


def _one_trial(noisy: NoiseClass, outliers: Sequence[OutlyingTrial]) -> bool:
    """Whether a noisy config is so for one trial of it that stands out."""
    return any((one.metric, (one.label,)) == (noisy.metric, noisy.labels) for one in outliers)


def _tokens(points: Sequence[PlannedPoint]) -> dict[Config, int]:
    """Training tokens by config, as far as they are known: those of minutes when its steps are resolved."""
    each = {p.config: p.config.tokens_of(p.resolved.steps or p.config.steps) for p in points}
    return {config: tokens for config, tokens in each.items() if tokens is not None}


def _noise(one: AdditiveFit) -> Noise:
    resolved = one.resolved_range()
    return Noise(
        residual_sd=one.residual_sd,
        degrees_of_freedom=one.degrees_of_freedom,
        paired=one.paired,
        smallest_resolved=None if resolved is None else resolved[0],
        largest_tie=None if resolved is None else resolved[1],
        minimum_detectable=one.minimum_detectable(),
    )
