"""The values of a frontier's points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Standing = Literal["frontier", "tied", "dominated", "unresolved"]


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

    `batch_size` is the micro-batch whose speed is shown. `resolved` names what measuring made of the declaration:
    batch_size of a ladder, precision of auto (or of a second try after an FP8 NaN), steps and tokens of minutes.

    `standing` is "frontier" where no point beats it by the means, else "tied" or "dominated" as
    `sweeper.frontier.standing` tells them apart, or "unresolved" where there's no noise estimate to judge by.
    `tied_with` holds point ids; `tied_in` names the objectives in which a tied point isn't shown to be beaten.
    `p_frontier`: how likely no other point is as good in all objectives and better in one
    (`sweeper.frontier.posterior`), None without a noise estimate. `dominated_by` has up to three points that dominate
    it with a chance of 5% or more, the likeliest first.

    `median_tokens_per_s` is the geometric mean of the medians of windows, beside an uncontended speed; None where the
    speed is that.

    `peak_memory_bytes` is the highest that was measured, `beside_memory_bytes` the most that lay beside any job on this
    device type (`sweeper.values.events.Final`): the same for all its points, since it is the process's.
    """

    point_id: str
    config_id: str
    probe_id: str
    batch_size: int
    label: str
    shape: Mapping[str, Any]
    recipe: Mapping[str, Any]
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
    median_tokens_per_s: float | None = None

    def treatment(self, metric: str) -> str:
        """Whose the measurements of `metric` are: points of one config share its losses, of one probe its speeds."""
        return self.config_id if metric == "val_loss" else self.probe_id
