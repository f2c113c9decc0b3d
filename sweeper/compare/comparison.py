"""Results side by side: the same configs, measured by several people, on several device types, in several studies.

A config at a seed is the same training on both sides, with the same initialisation and order of the data, so losses are
compared in pairs. With d = loss(b) − loss(a) of a config at a seed that both have,  d = mean of its config + noise, the
noise pooled over configs: a mean over n seeds has standard error s · √(1/n), with Σ (n − 1) degrees of freedom over all
configs. Where a config has no seed in common, both sides' losses go through one additive fit
(`sweeper.stats.additive_fit`).

One machine's drift isn't the other's, so speeds aren't paired. On each side  log tokens/s = mean of its point + noise;
the two means differ by Welch's test (Biometrika 34, 1947): the variances of the means add up, and the degrees of
freedom are (v₁ + v₂)² ÷ (v₁² ÷ ν₁ + v₂² ÷ ν₂).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from sweeper.frontier.frontiers import DeviceFrontier, Frontier
from sweeper.frontier.points import Point, Standing
from sweeper.ledger.typed import Line
from sweeper.measurements.drift import reference_log
from sweeper.measurements.measured import PlannedPoint, Seeds, measured
from sweeper.measurements.resolved import resolved_points, without_winning_probes
from sweeper.measurements.speeds import speed_of
from sweeper.stats.additive_fit import CONFIDENCE, AdditiveFit, Difference, Observation, fit, t_quantile
from sweeper.stats.rank import kendall_tau
from sweeper.stats.welch import summed
from sweeper.values.labels import labels, listed
from sweeper.values.records import SCHEMA


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one folder measured on one device type. `name` is a letter, given by `compare`.

    `speeds` are all measurements by probe id, in tokens/s, corrected as those of `found` are; `data` the fingerprint by
    config id, where it is known.
    """

    folder: str
    study: str
    profile: str
    found: DeviceFrontier
    speeds: Mapping[str, Sequence[float]] = field(repr=False)
    data: Mapping[str, str] = field(repr=False)
    torch: str
    name: str = ""

    @cached_property
    def losses(self) -> dict[str, dict[int, float]]:
        """Loss by config id and seed, of trials on this side's own device type."""
        found = {p.config_id: {s.seed: s.val_loss for s in p.samples if s.device is None} for p in self.points}
        return {config_id: own for config_id, own in found.items() if own}

    @property
    def points(self) -> tuple[Point, ...]:
        """Those with a loss and a speed, fastest first."""
        return self.found.points


@dataclass(frozen=True, kw_only=True)
class LossPair:
    """Mean losses of a and b, and that of b less that of a with its 95% interval (None without a noise estimate).

    `seeds` are those that it is over. `paired` is False where they aren't common. A `tie`: the interval holds zero.
    """

    means: tuple[float, float]
    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    tie: bool | None
    paired: bool
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SpeedPair:
    """Mean tokens/s of a and b over `n` measurements, and b's ÷ a's with its 95% interval. A `tie`: it holds one."""

    means: tuple[float, float]
    ratio: float
    low: float | None
    high: float | None
    tie: bool | None
    n: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One config that both have. Pairs of values are of a and b; `val_loss` is None where it can't be compared."""

    a: str
    b: str
    config_id: str
    label: str
    batch_size: tuple[int, int]
    resolved: tuple[Mapping[str, Any], Mapping[str, Any]]
    standing: tuple[Standing, Standing]
    on_frontier: tuple[bool, bool]
    val_loss: LossPair | None
    tokens_per_s: SpeedPair


@dataclass(frozen=True, kw_only=True)
class Tau:
    """Kendall's τ-b between two orders of `n` configs (of points for speed); None where an order has but one place."""

    tau: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sides by their names. `only` counts the configs that a and b have alone; `notes` what to know beside it."""

    a: str
    b: str
    rows: tuple[Row, ...]
    kendall_tau: Mapping[str, Tau]
    only: tuple[int, int]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The first of `sides` against each of the others."""

    sides: tuple[Side, ...]
    pairs: tuple[Pair, ...]


def sides_of(
    found: Frontier, records: Sequence[Line], planned: Sequence[PlannedPoint], seeds: Seeds, *, folder: str = ""
) -> list[Side]:
    """A side for each device type that `found`, the frontier of `records`, has points of; `seeds` as for it."""
    by_device = {m.device: m for m in measured(records, planned, seeds)}
    sides = []
    for one in found.frontiers:
        if not one.points:
            continue
        whole = by_device[one.device]
        m = without_winning_probes(whole, list(resolved_points(whole, planned).values()))
        log = reference_log(records, one.device)
        speeds: dict[str, list[float]] = defaultdict(list)
        for record in (*m.finals, *m.speeds):
            if (speed := speed_of(record)) is not None:
                speeds[record.probe_id].append(speed.speed * math.exp(-log.correction(record)))
        environments = [record.environment for record in (*m.speeds, *m.finals)]
        prints = {r.config_id: r.environment.get("data_fingerprint") for r in m.finals}
        sides.append(
            Side(
                folder=folder,
                study=found.study,
                profile=found.profile,
                found=one,
                speeds=dict(speeds),
                data={config_id: mark for config_id, mark in prints.items() if mark},
                torch=str((environments[-1].get("versions") or {}).get("torch", "")),
            )
        )
    return sides


def compare(sides: Sequence[Side]) -> Comparison:
    """The first side against each of the others; sides get letters in their order."""
    named = [replace(side, name=_letter(number)) for number, side in enumerate(sides)]
    return Comparison(sides=tuple(named), pairs=tuple(_pair(named[0], other) for other in named[1:]))


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"S{number + 1}"


def _pair(a: Side, b: Side) -> Pair:
    both = sorted(_matched(a, b), key=lambda points: -points[0].objectives["tokens_per_s"].mean)
    losses, speeds = _losses(a, b), _speeds(a, b)
    rows = tuple(
        Row(
            a=a.name,
            b=b.name,
            config_id=p.config_id,
            label=label,
            batch_size=(p.batch_size, q.batch_size),
            resolved=(p.resolved, q.resolved),
            standing=(p.standing, q.standing),
            on_frontier=(p.on_frontier, q.on_frontier),
            val_loss=losses.get(p.config_id),
            tokens_per_s=speeds[p.probe_id, q.probe_id],
        )
        for (p, q), label in zip(both, _labels(both), strict=True)
    )
    own, others = ({p.config_id for p in side.points} for side in (a, b))
    return Pair(
        a=a.name,
        b=b.name,
        rows=rows,
        kendall_tau=_taus(rows),
        only=(len(own - others), len(others - own)),
        notes=tuple(_notes(a, b)),
    )


def _matched(a: Side, b: Side) -> Iterator[tuple[Point, Point]]:
    """The points of the same config; of several micro-batches those of the same one, else each side's fastest."""
    own, others = (_by_config(side.points) for side in (a, b))
    for config_id, ours in own.items():
        theirs = others.get(config_id, [])
        if len(ours) == 1 == len(theirs):
            yield ours[0], theirs[0]
        elif theirs:
            same = [(p, q) for p in ours for q in theirs if p.batch_size == q.batch_size]
            yield from same or [(ours[0], theirs[0])]


def _by_config(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.config_id, []).append(point)
    return found


def _labels(both: Sequence[tuple[Point, Point]]) -> list[str]:
    """The sides' own labels where they agree, else what differs among these points."""
    if all(p.label == q.label for p, q in both):
        return [p.label for p, _ in both]
    several = len({p.config_id for p, _ in both}) < len(both)
    return labels([{**p.config.to_dict(), "batch_size": p.batch_size if several else None} for p, _ in both])


def _losses(a: Side, b: Side) -> dict[str, LossPair]:
    """By config id, of the configs that both sides measured on the same data."""
    shared = [c for c in a.losses if c in b.losses and not _other_data(a, b, c)]
    in_pairs = {c: {s: (loss, b.losses[c][s]) for s, loss in a.losses[c].items() if s in b.losses[c]} for c in shared}
    paired = fit([_observed(c, y - x) for c, own in in_pairs.items() for x, y in own.values()])
    apart: AdditiveFit | None = None
    found = {}
    for config_id, own in in_pairs.items():
        if own:
            means = (_mean([x for x, _ in own.values()]), _mean([y for _, y in own.values()]))
            found[config_id] = _loss_pair(means, paired.mean(config_id), sorted(own), paired=True)
        else:
            apart = apart or _additive(a, b, shared)
            names = [f"{side.name} {config_id}" for side in (a, b)]
            means = (apart.mean(names[0]).value, apart.mean(names[1]).value)
            seeds = sorted({*a.losses[config_id], *b.losses[config_id]})
            found[config_id] = _loss_pair(means, apart.difference(names[1], names[0]), seeds, paired=False)
    return found


def _loss_pair(means: tuple[float, float], d: Difference, seeds: Sequence[int], *, paired: bool) -> LossPair:
    return LossPair(
        means=means,
        difference=d.value,
        standard_error=d.standard_error,
        low=d.low,
        high=d.high,
        tie=None if d.resolved is None else not d.resolved,
        paired=paired,
        seeds=tuple(seeds),
    )


def _observed(treatment: str, value: float, block: str = "all") -> Observation:
    return Observation(treatment=treatment, block=block, value=value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _additive(a: Side, b: Side, shared: Sequence[str]) -> AdditiveFit:
    return fit(
        [
            _observed(f"{side.name} {config_id}", loss, f"seed {seed}")
            for side in (a, b)
            for config_id in shared
            for seed, loss in side.losses[config_id].items()
        ]
    )


def _other_data(a: Side, b: Side, config_id: str) -> bool:
    marks = a.data.get(config_id), b.data.get(config_id)
    return None not in marks and marks[0] != marks[1]


def _speeds(a: Side, b: Side) -> dict[tuple[str, str], SpeedPair]:
    """By the two probe ids."""
    fits = [_speed_fit(side) for side in (a, b)]
    return {(p.probe_id, q.probe_id): _speed_pair(a, b, fits, (p.probe_id, q.probe_id)) for p, q in _matched(a, b)}


def _speed_fit(side: Side) -> AdditiveFit:
    shown = {point.probe_id for point in side.points}
    return fit([_observed(i, math.log(speed)) for i, own in side.speeds.items() if i in shown for speed in own])


def _speed_pair(a: Side, b: Side, fits: Sequence[AdditiveFit], ids: tuple[str, str]) -> SpeedPair:
    own, other = (one.mean(probe_id) for one, probe_id in zip(fits, ids, strict=True))
    d = other.value - own.value
    half = _welch(own.standard_error, other.standard_error, [one.degrees_of_freedom for one in fits])
    return SpeedPair(
        means=(math.exp(own.value), math.exp(other.value)),
        ratio=math.exp(d),
        low=None if half is None else math.exp(d - half),
        high=None if half is None else math.exp(d + half),
        tie=None if half is None else abs(d) <= half,
        n=(len(a.speeds[ids[0]]), len(b.speeds[ids[1]])),
    )


def _welch(a: float | None, b: float | None, degrees_of_freedom: Sequence[int]) -> float | None:
    """Half of the interval of a difference of two means with standard errors `a` and `b`."""
    if a is None or b is None:
        return None
    variance, df = summed([(a**2, degrees_of_freedom[0]), (b**2, degrees_of_freedom[1])])
    return t_quantile(0.5 + CONFIDENCE / 2, df) * math.sqrt(variance)


def _taus(rows: Sequence[Row]) -> dict[str, Tau]:
    losses = {row.config_id: row.val_loss.means for row in rows if row.val_loss is not None}
    return {
        "val_loss": _tau(list(losses.values())),
        "tokens_per_s": _tau([row.tokens_per_s.means for row in rows]),
    }


def _tau(values: Sequence[tuple[float, float]]) -> Tau:
    orders = list(zip(*values, strict=True))
    if any(len(set(order)) < 2 for order in orders) or not orders:
        return Tau(tau=None, n=len(values))
    return Tau(tau=kendall_tau(*orders), n=len(values))


def _notes(a: Side, b: Side) -> Iterator[str]:
    if other := [p for p in a.points if p.config_id in b.losses and _other_data(a, b, p.config_id)]:
        names = listed(sorted({str(p.config.data) for p in other}))
        marks = [listed(sorted({side.data[p.config_id] for p in other})) for side in (a, b)]
        yield (
            f"Losses on {names} aren't compared: it isn't the same data in both "
            f"(fingerprint {marks[0]} in {a.name}, {marks[1]} in {b.name})."
        )
    if a.torch != b.torch:
        yield f"torch isn't the same in both: {a.torch or 'unknown'} in {a.name}, {b.torch or 'unknown'} in {b.name}."


def comparison_json(
    found: Comparison, *, frontier: Mapping[str, Any] | None = None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The comparison as plain values, with `frontier.json`'s object of the merged results where there are any.

    In `comparison`, a row per config and pair, values in lists of two are of `a` and `b`.
    """
    sources = [
        {
            "name": side.name,
            "folder": side.folder,
            "study": side.study,
            "profile": side.profile,
            "device": side.found.device,
            "seeds": list(side.found.seeds),
            "configs": len(side.losses),
        }
        for side in found.sides
    ]
    plain = [asdict(pair) for pair in found.pairs]
    rows = [row for pair in plain for row in pair.pop("rows")]
    return {
        "schema": SCHEMA,
        "confidence": CONFIDENCE,
        "sources": sources,
        "notes": list(notes),
        "frontier": frontier,
        "pairs": plain,
        "comparison": rows,
    }
