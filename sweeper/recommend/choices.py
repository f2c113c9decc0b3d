"""What is recommended: the answer for each use case, as values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sweeper.recommend.limits import Limits
from sweeper.recommend.options import Figure
from sweeper.values.records import SCHEMA, Config, with_configs

UseCase = Literal["fastest", "balanced", "quality", "memory"]


@dataclass(frozen=True, kw_only=True)
class Described:
    """A config with its figures. `basis`: whether loss and speed were measured, with so many seeds, or predicted."""

    label: str
    config_id: str
    config: Config
    batch_size: int
    params: int
    val_loss: Figure
    tokens_per_s: Figure
    memory_bytes: int
    memory_basis: Literal["measured", "predicted"]
    basis: Literal["measured", "predicted"]
    seeds: int
    p_frontier: float | None


@dataclass(frozen=True, kw_only=True)
class Rival:
    """Another config, and by how much the choice is ahead of it: `unit` says in what, with the 95% interval.

    nats of loss; log tokens/s; or distance from the chord, in units of the square that its ends span.
    """

    config: Described
    ahead: Figure
    unit: Literal["nats", "log tokens/s", "chord"]


@dataclass(frozen=True, kw_only=True)
class ToBeSure:
    """What may be lost by the choice, and what would tell more.

    `at_stake` is by how much the tied `rival` may be better at most, in the `unit` of `Rival`: the 95% interval's end
    of the one that may be better by the most; None without an estimate of the noise. `trials` and `device_s` come on
    top to have `seeds` of the choice and of all that are tied with it.
    """

    how: Literal["nothing", "further seeds", "run it", "negligible"]
    rival: str | None = None
    at_stake: float | None = None
    unit: Literal["nats", "log tokens/s", "chord"] | None = None
    seeds: int | None = None
    trials: int = 0
    device_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The answer for one use case. `choice` is None where there is none: `why` says so.

    `limits` are those that it keeps, `assumed` the flags of which nothing was given. `tied_with` comes best first,
    `lowest_loss` has the lowest mean loss, where the choice is one of quality and a faster one. `promising` is a
    predicted config that is ahead by its mean, but not shown to be. `argv` trains it, `trained_as` is the config_id
    that this gives.
    """

    use_case: UseCase
    limits: Limits
    assumed: tuple[str, ...]
    choice: Described | None = None
    why: str = ""
    tied_with: tuple[Rival, ...] = ()
    lowest_loss: Rival | None = None
    runner_up: Rival | None = None
    promising: Rival | None = None
    to_be_sure: ToBeSure = ToBeSure(how="nothing")
    notes: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    trained_as: str = ""
    llama_config: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The answers on one device type. `points` were measured there; the counts are of `options.Options`.

    `unstable` names the configs that aren't chosen, as they diverged for a seed.
    """

    study: str
    profile: str
    device: str
    other_devices: tuple[str, ...]
    limits: Limits
    unstable: tuple[str, ...]
    points: int
    feasible: int
    predicted: int
    outside: int
    unseen: int
    extrapolated: bool
    surrogates: Mapping[str, Mapping[str, Any]]
    choices: tuple[Choice, ...]


def recommendation_json(found: Recommendation) -> dict[str, Any]:
    """What `sweeper recommend --json` prints."""
    plain = with_configs(asdict(found), found)
    for choice in plain["choices"]:
        choice["command"] = shlex.join(choice["argv"]) if choice["argv"] else None
    return {"schema": SCHEMA, **plain}
