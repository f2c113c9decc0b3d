"""The values that pass between study, driver, runner and ledger: configs, jobs, events, their ids.

Ids are hashes of what is declared, so they are known before anything runs and are the same on every
machine and day. What is resolved by measuring stands in the record, never in the id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from model.shape import Shape

SCHEMA = 1
SEMANTICS = 1
"""Raised when the same declaration starts to mean another computation: old records then stand apart."""

Status = Literal["ok", "out_of_memory", "diverged", "stopped_early"]
JobKind = Literal["train", "speed"]
DeviceType = Literal["cpu", "cuda"]


def digest(value: Mapping[str, Any]) -> str:
    """12 hex digits of the SHA-256 of `value` as canonical JSON, with the semantics version."""
    text = json.dumps({"semantics": SEMANTICS, **value}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW and its warm-up–stable–decay schedule. `warmup` and `cooldown` are fractions of all steps."""

    name: str = "adamw"
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    warmup: float = 0.04
    cooldown: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All else that quality depends on, normalised. `tokens` = steps × tokens_per_step, whole steps."""

    data: str
    steps: int
    seq_len: int
    tokens_per_step: int
    precision: Literal["fp32", "bf16", "fp8"]
    optimizer: Optimizer
    eval_tokens: int

    @property
    def tokens(self) -> int:
        """Training tokens of one trial."""
        return self.steps * self.tokens_per_step

    def to_dict(self) -> dict[str, Any]:
        """The fields and `tokens` as plain JSON values."""
        plain = asdict(self)
        plain["optimizer"]["betas"] = list(self.optimizer.betas)
        return {**plain, "tokens": self.tokens}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`."""
        fields = {key: value for key, value in plain.items() if key != "tokens"}
        optimizer = dict(fields.pop("optimizer"))
        optimizer["betas"] = tuple(optimizer["betas"])
        return cls(optimizer=Optimizer(**optimizer), **fields)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Shape + recipe: what quality belongs to."""

    shape: Shape
    recipe: Recipe

    @cached_property
    def config_id(self) -> str:
        """12 hex digits."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """`{"shape": …, "recipe": …}` as plain JSON values."""
        return {"shape": self.shape.to_dict(), "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`."""
        return cls(shape=Shape(**plain["shape"]), recipe=Recipe.from_dict(plain["recipe"]))


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What only speed and memory depend on. `batch_size` is the micro-batch, in sequences."""

    batch_size: int
    compile: bool


def probe_id(config: Config, execution: Execution) -> str:
    """Shape × execution × the recipe fields that speed depends on."""
    recipe = config.recipe
    return "p" + digest(
        {
            "shape": config.shape.to_dict(),
            "execution": asdict(execution),
            "recipe": [recipe.seq_len, recipe.tokens_per_step, recipe.precision, recipe.optimizer.name],
        }
    )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One thing for a runner to do: train a config with a seed, or measure a config's speed.

    `data_path` is where the recipe's data lies on this machine, None for an embedded corpus; it is no
    part of any id, nor is `device`, the type of device that the job must run on. `seed` is 0 for a speed job.
    """

    kind: JobKind
    config: Config
    execution: Execution
    seed: int = 0
    attempt: int = 1
    data_path: str | None = None
    device: DeviceType = "cpu"

    @property
    def probe_id(self) -> str:
        """The id under which this job's speed is known."""
        return probe_id(self.config, self.execution)

    @property
    def trial_id(self) -> str:
        """The config's id and the seed, for a training job."""
        return f"{self.config.config_id}-s{self.seed}"

    @property
    def job_id(self) -> str:
        """`trial_id` of a training job, `probe_id` of a speed job."""
        return self.trial_id if self.kind == "train" else self.probe_id

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches per optimizer step."""
        recipe = self.config.recipe
        return recipe.tokens_per_step // (self.execution.batch_size * recipe.seq_len)

    def ids(self) -> dict[str, Any]:
        """The ids that every ledger line about this job carries."""
        own = {"trial_id": self.trial_id} if self.kind == "train" else {}
        return {**own, "probe_id": self.probe_id, "config_id": self.config.config_id}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, enough to rebuild the job."""
        return {
            "kind": self.kind,
            "config": self.config.to_dict(),
            "execution": asdict(self.execution),
            "seed": self.seed,
            "attempt": self.attempt,
            "data_path": self.data_path,
            "device": self.device,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Job:
        """The inverse of `to_dict`."""
        fields = dict(plain)
        config, execution = Config.from_dict(fields.pop("config")), Execution(**fields.pop("execution"))
        return cls(config=config, execution=execution, **fields)


@dataclass(frozen=True, kw_only=True)
class SpeedSummary:
    """Training speed over whole optimizer steps, after compile and warm-up. `windows` in tokens/s."""

    tokens_per_s: float
    low: float
    high: float
    windows: tuple[float, ...]
    step_ms: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A probe's outcome."""

    job: Job
    status: Status
    speed: SpeedSummary | None
    peak_memory_bytes: int | None
    seconds: Mapping[str, float]
    environment: Mapping[str, Any]
    type: str = "speed"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Mean training loss (nats per token) since the last rung, at `tokens` tokens. Progress, never ranked."""

    job: Job
    tokens: int
    loss: float
    tokens_per_s: float | None = None
    type: str = "rung"


@dataclass(frozen=True, kw_only=True)
class Final:
    """A trial's outcome.

    `val_loss` in nats per token, `val_bpb` in bits per byte (None where bytes are unknown), `curve` pairs
    of (tokens, training loss), at most 256; `seconds` has set_up, compile, train, evaluate; `environment`
    has device, driver, versions, data and its fingerprint, and what was seen on the way.
    """

    job: Job
    status: Status
    val_loss: float | None
    val_bpb: float | None
    curve: tuple[tuple[int, float], ...]
    tokens: int
    seconds: Mapping[str, float]
    speed: SpeedSummary | None
    peak_memory_bytes: int | None
    environment: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    type: str = "final"


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A job that ended without a result. `error` is one line, `traceback` whole (or the log's last lines)."""

    job: Job
    error: str
    traceback: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    type: str = "failed"


Event = Speed | Rung | Final | Failed


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing can be asked until an outcome is told."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """Nothing is left to ask."""


@dataclass(frozen=True, kw_only=True)
class Continue:
    """The job goes on."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The job should end now; its next event says so."""


def event_record(event: Event) -> dict[str, Any]:
    """The ledger line of an event, without its time: ids, device, seed, config and the event's own fields."""
    job = event.job
    own = {
        key: asdict(value) if isinstance(value, SpeedSummary) else value
        for key, value in vars(event).items()
        if key not in ("job", "type")
    }
    device = event.environment.get("device") if not isinstance(event, Rung) else None
    record = {"schema": SCHEMA, "type": event.type, **job.ids(), "device": device, "attempt": job.attempt}
    if not isinstance(event, Rung):
        record |= {"seed": job.seed, **job.config.to_dict(), "execution": asdict(job.execution)}
        record["params"] = asdict(job.config.shape.params)
    return {**record, **own}


def event_from_record(record: Mapping[str, Any]) -> Event | None:
    """The event of a ledger line, so that resume can replay it; None for lines that are no event of an outcome."""
    kind = _OUTCOMES.get(record["type"])
    if kind is None:
        return None
    job = Job(
        kind="train" if "trial_id" in record else "speed",
        config=Config.from_dict(record),
        execution=Execution(**record["execution"]),
        seed=record["seed"],
        attempt=record["attempt"],
    )
    fields = {key: record[key] for key in kind.__dataclass_fields__ if key in record and key != "type"}
    if fields.get("speed"):
        fields["speed"] = SpeedSummary(**{**fields["speed"], "windows": tuple(fields["speed"]["windows"])})
    if "curve" in fields:
        fields["curve"] = tuple((tokens, loss) for tokens, loss in fields["curve"])
        fields["notes"] = tuple(fields["notes"])
    event: Event = kind(job=job, **fields)
    return event


_OUTCOMES: Mapping[str, type[Speed] | type[Final] | type[Failed]] = {
    "speed": Speed,
    "final": Final,
    "failed": Failed,
}
