"""The quality/speed frontier of what was measured, and how far noise lets one believe it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from sweeper.batch_ladders import BatchLadder, batch_ladders
from sweeper.dominance import hypervolume, judge
from sweeper.doubts import device_doubts, held_equal, nuisance_doubts, study_doubts, undecided_doubts
from sweeper.drift import Drift, ReferenceLog, drift_doubts, reference_log
from sweeper.errors import UsageError
from sweeper.joint import frontier_probabilities
from sweeper.labels import labels
from sweeper.noise import CONFIDENCE, POWER, AdditiveFit, Observation, fit
from sweeper.nuisance import Tuned, at_best
from sweeper.objectives import DIRECTIONS, EXACT, exact
from sweeper.observations import (
    Measured,
    PlannedPoint,
    Record,
    Seeds,
    job_states,
    measured,
    tokens_per_s,
)
from sweeper.points import MARGINS, Estimate, Point, Sample
from sweeper.precision_pairs import PrecisionPair, precision_pairs
from sweeper.records import SCHEMA, Config
from sweeper.resolutions import resolved_points, shown, without_winning_probes
from sweeper.useful import Useful, useful_fraction

__all__ = ["Frontier", "PlannedPoint", "frontier", "frontier_json"]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What seeds leave unexplained, in nats for val_loss and as a fraction (log) for tokens_per_s.

    A difference below `smallest_resolved` is a tie; a true one of `minimum_detectable` is resolved with
    80% probability. Both are for a typical pair; None without a noise estimate.
    """

    residual_sd: float | None
    degrees_of_freedom: int
    paired: bool
    smallest_resolved: float | None
    minimum_detectable: float | None


@dataclass(frozen=True, kw_only=True)
class LossDifference:
    """Mean loss of config `b` less that of config `a`, paired by seed, with its 95% interval."""

    a: str
    b: str
    labels: tuple[str, str]
    difference: float
    standard_error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class DeviceFrontier:
    """The points measured on one kind of device, fastest first, and what can be said about them.

    `hypervolume` (nats × tokens/s) lies between the frontier and `reference`, the worst value of each
    objective among the points. `gap` is the worst less the best mean loss; it is picked after looking, so
    its interval is narrower than it should be. `incomplete` names planned points without a result. `tuned` are the
    shapes of several configs that differ in nuisance axes alone: points are those at their best. `drift` is what
    the reference config says, None where it wasn't measured; what points estimate of their speed is corrected for it,
    their samples are as measured. `precision_pairs` and `batch_ladders` are empty where the study has none. `fits` has
    one for each metric, of log tokens/s for speed: no part of the JSON.
    """

    device: str
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    noise: Mapping[str, Noise]
    hypervolume: float
    reference: Mapping[str, float]
    ties: tuple[LossDifference, ...]
    gap: LossDifference | None
    incomplete: tuple[str, ...]
    left_out: Mapping[str, int]
    held_equal: str
    tuned: tuple[Tuned, ...]
    drift: Drift | None
    doubts: tuple[str, ...]
    fits: Mapping[str, AdditiveFit] = field(repr=False, compare=False)
    precision_pairs: tuple[PrecisionPair, ...] = ()
    batch_ladders: tuple[BatchLadder, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What a study found under one profile.

    `jobs` counts planned jobs by state; `to_do` says how many of them another run would do. `useful` is of the
    whole ledger, with the trials left out. `put_last` are the configs that `search.prune` left untrained so far, the
    fields of `sweeper.search.pruning.PutLast` with labels.
    """

    study: str
    profile: str
    objectives: Mapping[str, str]
    planned: int
    jobs: Mapping[str, int]
    to_do: int
    put_last: tuple[Mapping[str, Any], ...]
    frontiers: tuple[DeviceFrontier, ...]
    doubts: tuple[str, ...]
    useful: Useful


def frontier(
    records: Iterable[Record],
    *,
    study: str,
    profile: str,
    planned: Sequence[PlannedPoint],
    objectives: Mapping[str, str],
    nuisance: Sequence[str] = (),
    seeds: Seeds = None,
    most_seeds: int | None = None,
    to_propose: int = 0,
    put_last: Sequence[Mapping[str, Any]] = (),
) -> Frontier:
    """The frontier of each kind of device that measured at least one of the `planned` points.

    `records` are ledger lines; those of ids not planned are ignored. Of configs that differ in `nuisance` axes alone
    only the best is a point (`sweeper.nuisance`). `seeds` is how many each config should have
    (trials of further seeds are ignored), None to go by what was asked, and `most_seeds` how many any may get, where
    that depends on outcomes; `to_propose` are the trainings of configs that the search has yet to choose; `put_last`
    is what `search.prune` has put last and not trained. Raises UsageError for an objective that isn't supported.
    """
    for name, direction in objectives.items():
        if DIRECTIONS.get(name) != direction:
            raise UsageError(f"objective {name}: {direction} is not supported: there are {dict(DIRECTIONS)}")
    records = list(records)
    states = job_states(records, planned, seeds)
    frontiers = [
        replace(one, doubts=(*one.doubts, *undecided_doubts(one.points, most_seeds)))
        for one in device_frontiers(records, planned, objectives, seeds, nuisance)
    ]
    return Frontier(
        study=study,
        profile=profile,
        objectives=dict(objectives),
        planned=len(planned),
        jobs=dict(Counter(state.state for state in states)),
        to_do=sum(state.to_do for state in states) + to_propose,
        put_last=tuple(put_last),
        frontiers=tuple(frontiers),
        doubts=study_doubts(states, [point.config for point in planned], to_propose=to_propose),
        useful=replace(useful_fraction(records), trials=()),
    )


def device_frontiers(
    records: Iterable[Record],
    planned: Sequence[PlannedPoint],
    objectives: Mapping[str, str],
    seeds: Seeds = None,
    nuisance: Sequence[str] = (),
) -> list[DeviceFrontier]:
    """The frontier of each kind of device, as `frontier` has it."""
    records, planned_labels = list(records), _labelled(planned)
    pooled = [m for m in measured(records, planned, seeds) if m.finals]
    found = []
    for m in pooled:
        log, here = reference_log(records, m.device), list(resolved_points(m, planned).values())
        found.append(
            replace(
                _device_frontier(m, planned_labels, objectives, nuisance, log),
                precision_pairs=precision_pairs(m, here, log.correction),
                batch_ladders=batch_ladders(records, m, here),
            )
        )
    return found


def _labelled(planned: Sequence[PlannedPoint]) -> dict[PlannedPoint, str]:
    rows = [{**p.config.to_dict(), "batch_size": None if p.ladder else p.execution.batch_size} for p in planned]
    return dict(zip(planned, labels(rows), strict=True))


def _device_frontier(
    m: Measured,
    planned_labels: Mapping[PlannedPoint, str],
    objectives: Mapping[str, str],
    nuisance: Sequence[str],
    log: ReferenceLog,
) -> DeviceFrontier:
    configs = [point.config for point in planned_labels]
    here = {point: planned_labels[p] for p, point in resolved_points(m, list(planned_labels)).items()}
    m = without_winning_probes(m, list(here))
    names = {point.config.config_id: label for point, label in here.items()}
    losses = _loss_observations(m)
    means = fit(losses)
    best = at_best(losses, means, list({point.config.config_id: point.config for point in here}.values()), nuisance)
    here = {point: label for point, label in here.items() if point.config.config_id not in best.outdone}
    fits = {
        "val_loss": fit(best.losses) if best.tuned else means,
        "tokens_per_s": fit(_speed_observations(m, [point.probe_id for point in here], log)),
    }
    several = Counter(point.config.config_id for point in here)
    points = [
        _point(p, label, m, fits, objectives, shared=several[p.config.config_id] > 1)
        for p, label in here.items()
        if p.config.config_id in fits["val_loss"].treatments
        and p.probe_id in fits["tokens_per_s"].treatments
        and ("peak_memory_bytes" not in objectives or _peaks(m, p.probe_id))
    ]
    points.sort(key=lambda point: -point.objectives["tokens_per_s"].mean)
    judged = judge(points, fits, objectives)
    chances = frontier_probabilities(judged, fits, objectives)
    judged = tuple([replace(point, p_frontier=p) for point, p in zip(judged, chances, strict=True)])
    volume, reference = hypervolume(judged, objectives)
    differences = _loss_differences(judged, fits["val_loss"])
    have = {(point.config_id, point.probe_id) for point in points}
    return DeviceFrontier(
        device=m.device,
        seeds=tuple(sorted({record["seed"] for record in m.finals})),
        points=judged,
        noise={name: _noise(one) for name, one in fits.items()},
        hypervolume=volume,
        reference=reference,
        ties=tuple(d for d in differences if d.low is not None and d.low <= 0),
        gap=max(differences, key=lambda d: d.difference, default=None),
        incomplete=tuple(label for p, label in here.items() if (p.config.config_id, p.probe_id) not in have),
        left_out=dict(m.left_out),
        held_equal=held_equal(configs, _tokens(list(here))),
        tuned=best.tuned,
        drift=log.drift,
        doubts=(
            *device_doubts(m, configs=configs, fits={**fits, "val_loss": means}, names=names),
            *nuisance_doubts(best.tuned, nuisance),
            *drift_doubts(log.drift),
        ),
        fits=fits,
    )


def _tokens(points: Sequence[PlannedPoint]) -> dict[Config, int]:
    """Training tokens by config, as far as they are known: those of minutes when its steps are resolved."""
    steps = {p.config: p.resolved.steps or p.config.recipe.steps for p in points}
    return {config: n * config.recipe.tokens_per_step for config, n in steps.items() if n is not None}


def _loss_observations(m: Measured) -> list[Observation]:
    return [
        Observation(treatment=r["config_id"], block=f"seed {r['seed']}", value=float(r["val_loss"])) for r in m.finals
    ]


def _speed_observations(m: Measured, probe_ids: Sequence[str], log: ReferenceLog) -> list[Observation]:
    """Log tokens/s. Points that share a probe_id (they differ in the learning rate, say) share all its measurements."""
    return [
        Observation(
            treatment=r["probe_id"],
            block=f"seed {r['seed']}" if r["type"] == "final" else "probe",
            value=math.log(speed) - log.correction(r),
        )
        for r in (*m.finals, *m.speeds)
        if r["probe_id"] in probe_ids and (speed := tokens_per_s(r)) is not None
    ]


def _point(
    p: PlannedPoint,
    label: str,
    m: Measured,
    fits: Mapping[str, AdditiveFit],
    objectives: Mapping[str, str],
    *,
    shared: bool,
) -> Point:
    config_id, probe_id = p.config.config_id, p.probe_id
    finals = sorted((r for r in m.finals if r["config_id"] == config_id), key=lambda r: int(r["seed"]))
    at_probe = [r for r in (*m.finals, *m.speeds) if r["probe_id"] == probe_id]
    speeds = [speed for r in at_probe if (speed := tokens_per_s(r)) is not None]
    peaks = _peaks(m, probe_id)
    loss, log_speed = fits["val_loss"].mean(config_id), fits["tokens_per_s"].mean(probe_id)
    return Point(
        point_id=f"{config_id}@{p.execution.batch_size}" if shared else config_id,
        config_id=config_id,
        probe_id=probe_id,
        batch_size=p.execution.batch_size,
        label=label,
        shape=p.config.shape.to_dict(),
        recipe=p.config.recipe.to_dict(),
        resolved=shown(p),
        params=asdict(p.config.shape.params),
        off_target=p.off_target,
        objectives={
            "val_loss": _estimate([r["val_loss"] for r in finals], loss.value, loss.low, loss.high),
            "tokens_per_s": _estimate(
                speeds,
                math.exp(log_speed.value),
                None if log_speed.low is None else math.exp(log_speed.low),
                None if log_speed.high is None else math.exp(log_speed.high),
            ),
            **{name: _exactly(exact(name, p.config)) for name in objectives if name in EXACT},
            **({"peak_memory_bytes": _exactly(max(peaks), len(peaks))} if "peak_memory_bytes" in objectives else {}),
        },
        samples=tuple(
            Sample(
                seed=r["seed"],
                val_loss=r["val_loss"],
                tokens_per_s=tokens_per_s(r) if r["probe_id"] == probe_id else None,
            )
            for r in finals
        ),
        peak_memory_bytes=max(peaks, default=None),
        on_frontier=False,
        standing="dominated",
        tied_with=(),
        tied_in=(),
    )


def _estimate(values: Sequence[float], mean: float, low: float | None, high: float | None) -> Estimate:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Estimate(mean=mean, sd=sd, n=len(values), low=low, high=high)


def _peaks(m: Measured, probe_id: str) -> list[int]:
    at_probe = [r for r in (*m.finals, *m.speeds) if r["probe_id"] == probe_id]
    return [r["peak_memory_bytes"] for r in at_probe if r.get("peak_memory_bytes") is not None]


def _exactly(value: float, n: int = 1) -> Estimate:
    return Estimate(mean=value, sd=None, n=n, low=value, high=value)


def _loss_differences(points: Sequence[Point], losses: AdditiveFit) -> list[LossDifference]:
    """All pairs of configs, the better first, so that every difference is at least zero."""
    one_each = {point.config_id: point for point in points}.values()
    ordered = sorted(one_each, key=lambda point: point.objectives["val_loss"].mean)
    differences = []
    for a, b in combinations(ordered, 2):
        d = losses.difference(b.config_id, a.config_id)
        differences.append(
            LossDifference(
                a=a.config_id,
                b=b.config_id,
                labels=(a.label, b.label),
                difference=d.value,
                standard_error=d.standard_error,
                low=d.low,
                high=d.high,
            )
        )
    return differences


def _noise(one: AdditiveFit) -> Noise:
    return Noise(
        residual_sd=one.residual_sd,
        degrees_of_freedom=one.degrees_of_freedom,
        paired=one.paired,
        smallest_resolved=one.smallest_resolved(),
        minimum_detectable=one.minimum_detectable(),
    )


def frontier_json(found: Frontier) -> dict[str, Any]:
    """`frontier.json` as plain values; an advantage below its objective's of `margins` counts as none."""
    from sweeper.report.text import answer

    plain = {"answer": list(answer(found)), **asdict(found)}
    for one in plain["frontiers"]:
        del one["fits"]
        one["noise"] = {"confidence": CONFIDENCE, "power": POWER, **one["noise"]}
    return {"schema": SCHEMA, "margins": dict(MARGINS), **plain}
