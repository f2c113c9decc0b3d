"""Trials whose loss or speed doesn't belong to the rest, by name, and how to measure them again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeper.frontier.noise_classes import covariates_of
from sweeper.measurements.measured import Measured, PlannedPoint, loss_of, tokens_per_s
from sweeper.stats.additive_fit import AdditiveFit, Observation
from sweeper.stats.outliers import outliers
from sweeper.values.labels import listed

LEVELS = {"val_loss": 0.018, "tokens_per_s": 0.002}
"""In one of fifty studies at most a trial is named where none is off. A slowed trial is far off, a loss needn't be."""


@dataclass(frozen=True, kw_only=True)
class OutlyingTrial:
    """A trial, or several of one config of which one doesn't belong: `off` nats, or a fraction of its speed (log).

    `off` is by how much the first lies above what all others predict, `errors` that in standard errors, `p` the p-value
    corrected for the number of trials.
    """

    metric: str
    trial_ids: tuple[str, ...]
    label: str
    seeds: tuple[int, ...]
    off: float
    errors: float
    p: float


def outlying_trials(
    m: Measured, fits: Mapping[str, AdditiveFit], here: Mapping[PlannedPoint, str]
) -> tuple[OutlyingTrial, ...]:
    """By metric the trials that its fit of one variance names. `here` are the points, with their labels."""
    found: list[OutlyingTrial] = []
    for metric, fitted in fits.items():
        points = {p.config.config_id if metric == "val_loss" else p.probe_id: p for p in reversed(tuple(here))}
        if not fitted.variance or not set(fitted.treatments) <= points.keys():
            continue
        covariates = covariates_of([points[treatment] for treatment in fitted.treatments])
        for one in outliers(fitted, covariates, level=LEVELS[metric]):
            trials = [trial for o in one.observations for trial in _trial(m, metric, o)]
            if trials:
                found.append(
                    OutlyingTrial(
                        metric=metric,
                        trial_ids=tuple([trial_id for trial_id, _ in trials]),
                        label=here[points[one.observations[0].treatment]],
                        seeds=tuple([seed for _, seed in trials]),
                        off=one.off,
                        errors=one.errors,
                        p=one.p,
                    )
                )
    return tuple(found)


def _trial(m: Measured, metric: str, value: Observation) -> list[tuple[str, int]]:
    """The trial that a value is from, by id and seed; none of a probe. Configs that share a probe share its cells."""
    if metric == "val_loss":
        each = [(r, loss_of(r)) for r in m.trials if r.config_id == value.treatment]
    else:
        known = [(r, tokens_per_s(r)) for r in m.finals if r.probe_id == value.treatment]
        each = [(r, math.log(speed)) for r, speed in known if speed is not None]
    here = [(r, found) for r, found in each if f"seed {r.seed}" == value.block]
    if not here:
        return []
    # What is corrected for drift differs a little from what was measured.
    nearest, _ = min(here, key=lambda entry: abs(entry[1] - value.value))
    return [(nearest.trial_id, nearest.seed)]


def outlier_caveats(found: Sequence[OutlyingTrial]) -> list[str]:
    """Names each, says how far it is off, and which command measures it again."""
    return [_caveat(one) for one in found]


def _caveat(one: OutlyingTrial) -> str:
    seeds = listed([f"seed {seed}" for seed in one.seeds])
    which = f"{one.label}, {seeds}" if len(one.seeds) == 1 else f"{one.label}, one of {seeds}"
    if one.metric == "val_loss":
        off = f"{abs(one.off):.3f} nats {'above' if one.off > 0 else 'below'}"
        what = f"the loss lies {off}"
    else:
        off = f"{-math.expm1(-abs(one.off)):.1%} below" if one.off < 0 else f"{math.expm1(one.off):.1%} above"
        what = f"the speed lies {off}"
    again = " ".join(f"--again {trial_id}" for trial_id in one.trial_ids)
    same = " A loss that comes out the same is the training's own." if one.metric == "val_loss" else ""
    return (
        f"{which}: {what} what the other trials predict ({one.errors:.1f} standard errors), and widens all intervals. "
        f"`sweeper run` with `{again}` measures it again; the ledger keeps both.{same}"
    )
