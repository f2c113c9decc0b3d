"""Configs of unequal noise: the fits with a variance for each class, and the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeper.frontier.noise_words import NoiseClass
from sweeper.measurements.measured import PlannedPoint
from sweeper.stats.additive_fit import AdditiveFit
from sweeper.stats.variance_classes import Covariates, Split, with_classes


def classed(
    fits: Mapping[str, AdditiveFit], here: Mapping[PlannedPoint, str]
) -> tuple[dict[str, AdditiveFit], tuple[NoiseClass, ...]]:
    """`fits` with a variance for each class that their residuals ask for, and the classes; `here` are the points."""
    found: dict[str, AdditiveFit] = {}
    classes: list[NoiseClass] = []
    for metric, fitted in fits.items():
        points = {p.config.config_id if metric == "val_loss" else p.probe_id: p for p in reversed(tuple(here))}
        if not set(fitted.treatments) <= points.keys():
            found[metric] = fitted
            continue
        covariates = covariates_of([points[treatment] for treatment in fitted.treatments])
        made = with_classes(fitted, covariates)
        found[metric] = replace(made.fitted, copy_of=fitted.copy_of)
        labels = {treatment: here[points[treatment]] for treatment in fitted.treatments}
        classes += [_described(metric, split, made.fitted, labels, covariates) for split in made.splits]
    return found, tuple(classes)


def covariates_of(points: Sequence[PlannedPoint]) -> Covariates:
    """What is recorded of the points' configs and executions and differs between them, by its dotted name."""
    rows = [{**dict(_leaves(p.config.to_dict())), "batch_size": p.execution.batch_size} for p in points]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{name}.")
        elif inner is None or isinstance(inner, bool | int | float | str):
            yield f"{prefix}{name}", inner


def _described(
    metric: str, split: Split, fitted: AdditiveFit, labels: Mapping[str, str], covariates: Covariates
) -> NoiseClass:
    values: tuple[Any, ...] = ()
    lowest = False
    if split.covariate is not None:
        column = dict(zip(fitted.treatments, covariates[split.covariate], strict=True))
        values = tuple(sorted({column[t] for t in split.treatments}, key=_sortable))
        lowest = _sortable(values[0]) < min(_sortable(column[t]) for t in split.others)
    return NoiseClass(
        metric=metric,
        labels=tuple([labels[treatment] for treatment in split.treatments]),
        others=tuple([labels[treatment] for treatment in split.others]),
        sd=_typical_sd(fitted, split.treatments),
        others_sd=_typical_sd(fitted, split.others),
        by=split.covariate,
        values=values,
        lowest=lowest,
        p=split.p,
    )


def _sortable(value: Any) -> tuple[str, float, str]:
    number = isinstance(value, int | float)
    return ("" if number else "word", float(value) if number else 0.0, "" if number else str(value))


def _typical_sd(fitted: AdditiveFit, treatments: Sequence[str]) -> float:
    """The median of the treatments' sds."""
    sds = sorted(fitted.sd(treatment) or 0.0 for treatment in treatments)
    return sds[len(sds) // 2]
