"""What one device type measured, as points that are judged: their estimates, standings, chances."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

import numpy as np

from sweeper.frontier.noise_classes import classed
from sweeper.frontier.noise_words import NoiseClass
from sweeper.frontier.outliers import OutlyingTrial, outlying_trials
from sweeper.frontier.points import Estimate, Point, Sample
from sweeper.frontier.posterior import Draws, joint_draws
from sweeper.frontier.standing import judge
from sweeper.ledger.typed import FinalLine, Line, MeasuredLine
from sweeper.measurements.drift import ReferenceLog, reference_log
from sweeper.measurements.measured import Measured, PlannedPoint, Seeds, loss_of, measured, tokens_per_s
from sweeper.measurements.nuisance_axes import AtBest, at_best, unsteady_levels
from sweeper.measurements.resolved import resolved_points, shown, without_winning_probes
from sweeper.measurements.same_computation import copies, fit_once
from sweeper.measurements.speeds import speed_of
from sweeper.planning.objectives import EXACT, exact
from sweeper.stats.additive_fit import AdditiveFit, Observation, fit
from sweeper.values.labels import labels
from sweeper.values.objectives import MARGINS
from sweeper.values.records import Config


@dataclass(frozen=True, kw_only=True)
class DeviceEstimates:
    """The points of one device type, fastest first, and what they follow from.

    `measured` leaves out the probes that won over others, `pooled` doesn't. `resolved` are the planned points as they
    were resolved on it, `here` those of them that are judged, with their labels, `names` those of all planned configs
    by id; configs that another value of the nuisance axes is better than are in `names` alone. `fits` has one fit per
    metric, of log tokens/s for speed, and `all_losses` that of all configs' losses. `noise_classes` are those of
    `fits`, `outliers` the trials that don't belong to them. `draws` are of the points, None without an estimate of
    the noise.
    """

    measured: Measured
    pooled: Measured
    resolved: Sequence[PlannedPoint]
    here: Mapping[PlannedPoint, str]
    names: Mapping[str, str]
    at_best: AtBest
    all_losses: AdditiveFit
    fits: Mapping[str, AdditiveFit]
    noise_classes: tuple[NoiseClass, ...]
    outliers: tuple[OutlyingTrial, ...]
    log: ReferenceLog
    points: tuple[Point, ...]
    draws: Draws | None


def estimates_by_device(
    records: Iterable[Line],
    planned: Sequence[PlannedPoint],
    objectives: Mapping[str, str],
    *,
    margins: Mapping[str, float] = MARGINS,
    seeds: Seeds = None,
    nuisance: Sequence[str] = (),
) -> list[DeviceEstimates]:
    """Of each device type that measured a planned point; arguments are those of `frontiers.frontier`."""
    records, planned_labels = list(records), _labelled(planned)
    pooled = [m for m in measured(records, planned, seeds) if m.finals or (m.speeds and m.elsewhere)]
    return [
        _estimates(m, planned_labels, objectives, margins, nuisance, reference_log(records, m.device)) for m in pooled
    ]


def _labelled(planned: Sequence[PlannedPoint]) -> dict[PlannedPoint, str]:
    rows = [{**p.config.to_dict(), "batch_size": None if p.ladder else p.execution.batch_size} for p in planned]
    return dict(zip(planned, labels(rows), strict=True))


def _estimates(
    m: Measured,
    planned_labels: Mapping[PlannedPoint, str],
    objectives: Mapping[str, str],
    margins: Mapping[str, float],
    nuisance: Sequence[str],
    log: ReferenceLog,
) -> DeviceEstimates:
    here = {point: planned_labels[p] for p, point in resolved_points(m, list(planned_labels)).items()}
    pooled, resolved = m, tuple(here)
    m = without_winning_probes(m, list(here))
    losses = _loss_observations(m)
    configs: dict[str, Config] = {point.config.config_id: point.config for point in here}
    copy_of = copies(list(configs.values()), {o.treatment for o in losses})
    means = fit_once(losses, copy_of)
    diverged = Counter(record.config_id for record in m.diverged)
    unsteady = unsteady_levels(list(configs.values()), diverged, means, nuisance)
    best = at_best(losses, means, [config for id_, config in configs.items() if id_ not in unsteady], nuisance)
    names = {point.config.config_id: label for point, label in here.items()}
    resolved_here = here
    here = {point: label for point, label in here.items() if point.config.config_id not in best.outdone | unsteady}
    speeds = fit(_speed_observations(m, [point.probe_id for point in here], log))
    outlying = outlying_trials(m, {"val_loss": means, "tokens_per_s": speeds}, resolved_here)
    at_their_best = fit_once(best.losses, copies(list(configs.values()), {o.treatment for o in best.losses}))
    fits, classes = classed({"val_loss": at_their_best, "tokens_per_s": speeds}, here)
    points, draws = _points_with_standing(m, here, fits, objectives, margins)
    return DeviceEstimates(
        measured=m,
        pooled=pooled,
        resolved=resolved,
        here=here,
        names=names,
        at_best=best,
        all_losses=means,
        fits=fits,
        noise_classes=classes,
        outliers=outlying,
        log=log,
        points=points,
        draws=draws,
    )


def _points_with_standing(
    m: Measured,
    here: Mapping[PlannedPoint, str],
    fits: Mapping[str, AdditiveFit],
    objectives: Mapping[str, str],
    margins: Mapping[str, float],
) -> tuple[tuple[Point, ...], Draws | None]:
    several = Counter(point.config.config_id for point in here)
    points = [
        _point(p, label, m, fits, objectives, shared=several[p.config.config_id] > 1)
        for p, label in here.items()
        if p.config.config_id in fits["val_loss"]
        and p.probe_id in fits["tokens_per_s"]
        and ("peak_memory_bytes" not in objectives or _peaks(m, p.probe_id))
    ]
    points.sort(key=lambda point: -point.objectives["tokens_per_s"].mean)
    trained = Counter(record.config_id for record in (*m.trials, *m.diverged))
    diverged = Counter(record.config_id for record in m.diverged)
    counts = {config_id: (diverged[config_id], n) for config_id, n in trained.items()}
    draws = joint_draws(points, fits, objectives, trials_diverged=counts)
    judged = judge(points, fits, objectives, margins, draws)
    if draws is None:
        return judged, None
    return tuple([replace(point, p_frontier=p) for point, p in zip(judged, draws.p_frontier, strict=True)]), draws


def _loss_observations(m: Measured) -> list[Observation]:
    return [Observation(treatment=r.config_id, block=f"seed {r.seed}", value=loss_of(r)) for r in m.trials]


def _speed_observations(m: Measured, probe_ids: Sequence[str], log: ReferenceLog) -> list[Observation]:
    """Log tokens/s. Points that share a probe_id (they differ in the learning rate, say) share all its measurements."""
    return [
        Observation(
            treatment=r.probe_id,
            block=f"seed {r.seed}" if isinstance(r, FinalLine) else "probe",
            value=math.log(found.speed) - log.correction(r),
        )
        for r in (*m.finals, *m.speeds)
        if r.probe_id in probe_ids and (found := speed_of(r)) is not None
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
    trained = [r for r in m.trials if r.config_id == config_id]
    finals = sorted(trained, key=lambda r: r.seed)
    at_probe = [r for r in (*m.finals, *m.speeds) if r.probe_id == probe_id]
    speeds = [found.speed for r in at_probe if (found := speed_of(r)) is not None]
    peaks = _peaks(m, probe_id)
    loss, log_speed = fits["val_loss"].mean(config_id), fits["tokens_per_s"].mean(probe_id)
    return Point(
        point_id=f"{config_id}@{p.execution.batch_size}" if shared else config_id,
        config_id=config_id,
        loss_id=fits["val_loss"].copy_of.get(config_id, config_id),
        probe_id=probe_id,
        batch_size=p.execution.batch_size,
        label=label,
        config=p.config,
        resolved=shown(p),
        params=asdict(p.config.shape.params),
        off_target=p.off_target,
        objectives={
            "val_loss": _estimate([loss_of(r) for r in finals], loss.value, loss.low, loss.high),
            "tokens_per_s": _estimate(
                speeds,
                math.exp(log_speed.value),
                None if log_speed.low is None else math.exp(log_speed.low),
                None if log_speed.high is None else math.exp(log_speed.high),
            ),
            **{name: _exactly(exact(name, p.config)) for name in objectives if name in EXACT},
            **({"peak_memory_bytes": _exactly(median(peaks), len(peaks))} if "peak_memory_bytes" in objectives else {}),
        },
        samples=tuple([_sample(r, probe_id, m.device) for r in finals]),
        median_tokens_per_s=_median(at_probe),
        peak_memory_bytes=max(peaks, default=None),
        beside_memory_bytes=_beside(m),
        diverged=sum(r.config_id == config_id for r in m.diverged),
        on_frontier=False,
        standing="dominated",
        tied_with=(),
        tied_in=(),
    )


def _sample(final: FinalLine, probe_id: str, device: str) -> Sample:
    found = speed_of(final) if final.probe_id == probe_id and final.device_type == device else None
    return Sample(
        seed=final.seed,
        val_loss=loss_of(final),
        tokens_per_s=found.speed if found else None,
        tokens_per_s_low=found.low if found else None,
        tokens_per_s_high=found.high if found else None,
        device=None if final.device_type == device else final.device_type,
    )


def _median(records: Sequence[MeasuredLine]) -> float | None:
    """The geometric mean of the medians of windows; None where the speeds are these."""
    if all(found.low is None for r in records if (found := speed_of(r)) is not None):
        return None
    return math.exp(float(np.mean([math.log(speed) for r in records if (speed := tokens_per_s(r)) is not None])))


def _estimate(values: Sequence[float], mean: float, low: float | None, high: float | None) -> Estimate:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Estimate(mean=mean, sd=sd, n=len(values), low=low, high=high)


def _peaks(m: Measured, probe_id: str) -> list[int]:
    at_probe = [r for r in (*m.finals, *m.speeds) if r.probe_id == probe_id]
    return [r.peak_memory_bytes for r in at_probe if r.peak_memory_bytes is not None]


def _beside(m: Measured) -> int | None:
    """The most: a process keeps the kernels of earlier jobs, so that what a job finds there says little of the job."""
    found = [r.beside_memory_bytes for r in (*m.finals, *m.speeds) if r.beside_memory_bytes is not None]
    return max(found, default=None)


def _exactly(value: float, n: int = 1) -> Estimate:
    return Estimate(mean=value, sd=None, n=n, low=value, high=value)
