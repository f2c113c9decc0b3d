"""How far a device type drifted while it measured a study, by its reference config, and what is corrected for it.

Every device measures one config again at intervals (`sweeper.runners.training.reference`). Let y be the log of such a
speed. A log speed that device D measured at time t is lowered by

    y of D, interpolated linearly at t and held beyond its first and last measurement
    − the mean y of all measurements of this device type

so that speeds measured at other times, and on other cards of a kind, become those of the mean condition. A device
without a measurement of its own is left as it is. A correction adds the noise of y, so there is none unless

1. the measurements differ by more than the windows within each explain: one-way analysis of variance of the windows'
   log speeds, F = mean square between ÷ within (Searle, Casella, McCulloch, Variance Components, 1992, §3.5), p < 0.01;
2. they differ by at least 0.5%;
3. they hang together: left out one by one, measurements are predicted by the others with the rule above at least as
   well as by the others' plain mean. Else what moved was gone before anything else could meet it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from sweeper.ledger.typed import FinalLine, Line, MeasuredLine, OutcomeLine

SIGNIFICANT = 0.01
"""The p below which the reference config moved by more than its windows explain."""
LEAST = 0.005
"""What matters of a movement, as a fraction of the speed: half the margin of the frontier."""
LARGE = 0.05
"""A movement that is worth a doubt."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What `measurements` of the reference config on `devices` of one kind say.

    `low` and `high` are the slowest and the fastest as fractions of their (geometric) mean, less 1. `p`: how likely
    windows alone make them differ as much, None for a single one. `corrected`: whether the estimates of speeds are.
    """

    measurements: int
    devices: int
    low: float
    high: float
    p: float | None
    corrected: bool

    @property
    def size(self) -> float:
        """From the slowest to the fastest, as a fraction of the mean."""
        return self.high - self.low

    @property
    def moved(self) -> bool:
        """Whether they differ by more than windows explain, and enough to matter."""
        return self.p is not None and self.p < SIGNIFICANT and self.size >= LEAST


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The reference config's speed on a device at a time (seconds since the epoch); logs of tokens/s."""

    device_id: str
    at: float
    log_speed: float
    log_windows: tuple[float, ...]


@dataclass(frozen=True)
class ReferenceLog:
    """All measurements of the reference config on one device type, in any order."""

    measurements: tuple[Measurement, ...]

    @cached_property
    def drift(self) -> Drift | None:
        """What they say, None where there are none."""
        logs = [m.log_speed for m in self.measurements]
        if not logs:
            return None
        found = Drift(
            measurements=len(logs),
            devices=len({m.device_id for m in self.measurements}),
            low=math.expm1(min(logs) - self._mean),
            high=math.expm1(max(logs) - self._mean),
            p=p_equal([m.log_windows for m in self.measurements]),
            corrected=False,
        )
        return Drift(**{**vars(found), "corrected": found.moved and self._hangs_together})

    def correction(self, record: MeasuredLine) -> float:
        """What is taken off the log of the speed that a final or a probe measured; 0 where nothing is corrected."""
        if self.drift is None or not self.drift.corrected:
            return 0.0
        own = self._by_device.get(str(record.environment.get("device_id")))
        return interpolated(own, measured_at(record)) - self._mean if own else 0.0

    @cached_property
    def _mean(self) -> float:
        return math.fsum(m.log_speed for m in self.measurements) / len(self.measurements)

    @cached_property
    def _by_device(self) -> dict[str, list[Measurement]]:
        found: dict[str, list[Measurement]] = {}
        for measurement in sorted(self.measurements, key=lambda m: m.at):
            found.setdefault(measurement.device_id, []).append(measurement)
        return found

    @property
    def _hangs_together(self) -> bool:
        n, by_neighbours, by_mean = len(self.measurements), 0.0, 0.0
        for own in self._by_device.values():
            for number, one in enumerate(own):
                mean_of_others = self._mean + (self._mean - one.log_speed) / (n - 1)
                neighbours = own[max(0, number - 1) : number] + own[number + 1 : number + 2]
                predicted = interpolated(neighbours, one.at) if neighbours else mean_of_others
                by_neighbours += (one.log_speed - predicted) ** 2
                by_mean += (one.log_speed - mean_of_others) ** 2
        return by_neighbours <= by_mean * (1 + 1e-9)  # two measurements predict each other as well as their mean does


def interpolated(own: Sequence[Measurement], at: float) -> float:
    """The log speed of the reference at a time, from one device's measurements in order of time; at least one."""
    after = bisect_left(own, at, key=lambda m: m.at)
    if after in (0, len(own)):
        return own[min(after, len(own) - 1)].log_speed
    low, high = own[after - 1], own[after]
    return low.log_speed + (high.log_speed - low.log_speed) * (at - low.at) / (high.at - low.at)


def p_equal(groups: Sequence[Sequence[float]]) -> float | None:
    """The p of one-way analysis of variance: how likely groups of one mean differ as much; None without freedom."""
    from scipy.special import fdtrc

    n = sum(map(len, groups))
    between, within = len(groups) - 1, n - len(groups)
    if between < 1 or within < 1:
        return None
    means = [math.fsum(group) / len(group) for group in groups]
    overall = math.fsum(map(math.fsum, groups)) / n
    ss_between = math.fsum(len(group) * (mean - overall) ** 2 for group, mean in zip(groups, means, strict=True))
    ss_within = math.fsum((y - mean) ** 2 for group, mean in zip(groups, means, strict=True) for y in group)
    if ss_between <= 1e-18 * n:  # rounding
        return 1.0
    return float(fdtrc(between, within, (ss_between / between) / (ss_within / within))) if ss_within > 0 else 0.0


def reference_log(records: Iterable[Line], device: str) -> ReferenceLog:
    """What a ledger's records carry of the reference config on a device type.

    Where the reference config or torch's version changed, only what was measured like the latest counts. Events that
    are no lines yet have no time to be corrected by: what they carry is left out.
    """
    found: dict[tuple[str, str], list[Measurement]] = {}
    for record in records:
        if not isinstance(record, OutcomeLine) or record.device != device or not record.time:
            continue
        environment = record.environment
        for one in environment.get("reference") or ():
            torch_version = str((environment.get("versions") or {}).get("torch"))
            found.setdefault((one["probe_id"], torch_version), []).append(_measurement(one, environment))
    latest = max(found.values(), key=lambda same: max(m.at for m in same), default=[])
    return ReferenceLog(tuple(latest))


def _measurement(one: Mapping[str, Any], environment: Mapping[str, Any]) -> Measurement:
    return Measurement(
        device_id=str(environment.get("device_id")),
        at=datetime.fromisoformat(one["time"]).timestamp(),
        log_speed=math.log(one["tokens_per_s"]),
        log_windows=tuple(map(math.log, one["windows"])),
    )


def measured_at(record: MeasuredLine) -> float:
    """The middle of the time in which a final or a probe measured its speed, in seconds since the epoch.

    A line is written when its job ends: a trial's steps lie before its evaluation, a probe's timing at its end.
    """
    seconds, ended = record.seconds, datetime.fromisoformat(record.time).timestamp()
    if isinstance(record, FinalLine):
        steps_s = seconds.get("train", 0.0) + seconds.get("branches", 0.0)
        return ended - seconds.get("evaluate", 0.0) - steps_s / 2
    return ended - seconds.get("timing", 0.0) / 2


def drift_caveats(drift: Drift | None) -> tuple[str, ...]:
    """A doubt where the reference config moved by more than 5%."""
    if drift is None or not drift.moved or drift.size <= LARGE:
        return ()
    if drift.corrected:
        return (
            f"Devices drifted by {drift.size:.1%} while speeds were measured; between two measurements of the "
            "reference config the correction is interpolated. Measure warm and at fixed clocks, or set a shorter "
            "`resources.reference_every`.",
        )
    return (
        f"The reference config's speed jumped by {drift.size:.1%} from one measurement to another, and speeds can't be "
        "corrected for that: other work on the device, or throttling. Measure on a quiet machine, or set a shorter "
        "`resources.reference_every`.",
    )
