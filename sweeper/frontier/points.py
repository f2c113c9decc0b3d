"""The values of a frontier's points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sweeper.values.records import Config

Standing = Literal["frontier", "tied", "dominated", "unresolved", "unstable"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over `n` values and its 95% interval; `sd` is the values' own, None for one value.

    The mean is adjusted for seeds that are missing (the plain mean where none is), and geometric for
    tokens_per_s. `low` and `high` are None where one seed gives no estimate of the noise, and equal to the mean of an
    objective that is taken for exact.
    """

    mean: float
    sd: float | None
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One trial of a point.

    `tokens_per_s` is None where it trained at another micro-batch, or on another device type: on that of `device`.
    Where others could slow it, it is the uncontended speed (`sweeper.stats.uncontended`) with its 95% interval, which
    is None where it is the median of its windows.
    """

    seed: int
    val_loss: float
    tokens_per_s: float | None
    tokens_per_s_low: float | None = None
    tokens_per_s_high: float | None = None
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dominator:
    """A point that dominates another with this chance: as good in all objectives and better in one."""

    point_id: str
    chance: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """A config, or a config at a micro-batch where several are planned (`point_id` is then config_id@batch).

    `loss_id` is its own config id, or that of another config that is the same computation and was counted in its place.
    `batch_size` is the micro-batch whose speed is shown. `resolved` names what measuring made of the declaration:
    batch_size of a ladder, precision of auto (or of a second try after an FP8 NaN), steps and tokens of minutes.

    `standing` is "unstable" where one of its trials diverged (`diverged` counts them): such a point is on no frontier
    and beats none. Else it is "frontier" where no point beats it by the means, or "tied" or "dominated" as
    `sweeper.frontier.standing` tells them apart, or "unresolved" where there's no noise estimate to judge by.
    `tied_with` holds point ids; `tied_in` names the objectives in which a tied point isn't shown to be beaten.
    `p_frontier`: how likely it diverges for few seeds, and no other such point is as good in all objectives and better
    in one (`sweeper.frontier.posterior`), None without a noise estimate. `dominated_by` has up to three points that
    dominate it with a chance of 5% or more, the likeliest first.

    Of its objectives peak memory is the median of what its jobs needed, which doesn't grow with their number.
    `median_tokens_per_s` is the geometric mean of the medians of windows, beside an uncontended speed; None where the
    speed is that.

    `peak_memory_bytes` is the highest that was measured, `beside_memory_bytes` the most that lay beside any job on this
    device type (`sweeper.values.events.Final`): the same for all its points, since it is the process's.
    """

    point_id: str
    config_id: str
    loss_id: str
    probe_id: str
    batch_size: int
    label: str
    config: Config
    resolved: Mapping[str, Any]
    params: Mapping[str, int]
    off_target: float | None
    objectives: Mapping[str, Estimate]
    samples: tuple[Sample, ...]
    peak_memory_bytes: int | None
    on_frontier: bool
    standing: Standing
    tied_with: tuple[str, ...]
    tied_in: tuple[str, ...]
    p_frontier: float | None = None
    dominated_by: tuple[Dominator, ...] = ()
    beside_memory_bytes: int | None = None
    diverged: int = 0
    median_tokens_per_s: float | None = None

    def treatment(self, metric: str) -> str:
        """Whose the measurements of `metric` are: points of one config share its losses, of one probe its speeds."""
        return self.loss_id if metric == "val_loss" else self.probe_id


def steady(points: Sequence[Point]) -> tuple[Point, ...]:
    """Those that may be chosen: none that diverged while there is another."""
    return tuple([point for point in points if not point.diverged]) or tuple(points)
