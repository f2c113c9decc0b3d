"""The values that pass between study, driver, runner and ledger: configs, jobs, events, their ids.

Ids are hashes of what is declared, so they are known before anything runs and are the same on every
machine and day. What is resolved by measuring stands in the record, never in the id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from sweeper.model.shape import Shape
from sweeper.values.kinds import AnyKind, Kind, Program, kind_dict, kind_facts, kind_from

SCHEMA = 1
SEMANTICS = 1
"""Raised when the same declaration starts to mean another computation: old records then stand apart."""

Precision = Literal["fp32", "bf16", "fp8"]
"""What a trial computes in."""
RecipePrecision = Literal["fp32", "bf16", "fp8", "auto"]
"""What a recipe says of it: auto is resolved by probes."""
Fp8Backend = Literal["torchao", "transformer_engine"]
Fp8Filter = Literal["auto", "none"]

Status = Literal["ok", "out_of_memory", "diverged", "stopped_early"]
JobKind = Literal["train", "speed"]
DeviceType = Literal["cpu", "cuda"]


def digest(value: Mapping[str, Any]) -> str:
    """12 hex digits of the SHA-256 of `value` as canonical JSON, with the semantics version."""
    text = json.dumps({"semantics": SEMANTICS, **value}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Base:
    """The shape at which a study's learning rate holds; CompleteP scales it to every other (2505.01618)."""

    n_layers: int
    d_model: int
    ffn_hidden: int


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW or Muon, and its warm-up–stable–decay schedule. `warmup` and `cooldown` are fractions of all steps.

    `base` is CompleteP's, None for the standard parametrization. `momentum` is Muon's, None for AdamW, whose
    `betas` and `eps` Muon's embeddings and norms keep. `lr` and `weight_decay` are already those of the recipe's
    tokens_per_step.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    warmup: float = 0.04
    cooldown: float = 0.2
    base: Base | None = None
    momentum: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All else that quality depends on, normalised: what doesn't apply is None, and no part of ids.

    Exactly one of `steps` and `minutes` is given; the steps of `minutes` are resolved from a probe. `fp8_backend`
    and `fp8_filter` (leave out what FP8 slows down, or nothing) are given where `precision` is fp8 or auto.
    """

    data: str
    seq_len: int
    tokens_per_step: int
    precision: RecipePrecision
    optimizer: Optimizer
    eval_tokens: int
    steps: int | None = None
    minutes: float | None = None
    fp8_backend: Fp8Backend | None = None
    fp8_filter: Fp8Filter | None = None

    @property
    def tokens(self) -> int | None:
        """Training tokens of one trial = steps × tokens_per_step; None where minutes are given."""
        return None if self.steps is None else self.steps * self.tokens_per_step

    def at_precision(self, precision: Precision) -> Recipe:
        """This recipe as a study would declare it with `precision`: without FP8's settings where they don't apply."""
        if precision == "fp8":
            return replace(self, precision=precision)
        return replace(self, precision=precision, fp8_backend=None, fp8_filter=None)

    def to_dict(self) -> dict[str, Any]:
        """The fields that apply, and `tokens`, as plain JSON values."""
        optimizer = {**flat(self.optimizer), "betas": list(self.optimizer.betas)}
        if self.optimizer.base is not None:
            optimizer["base"] = flat(self.optimizer.base)
        return without_none({**flat(self), "optimizer": optimizer, "tokens": self.tokens})

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`."""
        fields = {key: value for key, value in plain.items() if key != "tokens"}
        optimizer = dict(fields.pop("optimizer"))
        optimizer["betas"] = tuple(optimizer["betas"])
        if "base" in optimizer:
            optimizer["base"] = Base(**optimizer["base"])
        return cls(optimizer=Optimizer(**optimizer), **fields)


def flat(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, as they are: `dataclasses.asdict` copies them, at ten times the cost."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def without_none(plain: dict[str, Any]) -> dict[str, Any]:
    """`plain` without what is None, at every depth."""
    return {
        key: without_none(value) if isinstance(value, dict) else value
        for key, value in plain.items()
        if value is not None
    }


@dataclass(frozen=True, kw_only=True)
class Config:
    """What quality belongs to: a shape or another kind, and the recipe by which it trains.

    A program's has no recipe, as it goes by its own; every other has one, or ValueError is raised. What is asked of a
    recipe is None of a config without one.
    """

    shape: AnyKind
    recipe: Recipe | None

    def __post_init__(self) -> None:
        if (self.recipe is None) != isinstance(self.shape, Program):
            raise ValueError("a program's config has no recipe, and every other has one")

    @cached_property
    def config_id(self) -> str:
        """12 hex digits."""
        return digest(self._identity())

    @property
    def ours(self) -> tuple[Shape, Recipe]:
        """Of a config that our trainer builds and trains. TypeError for one of another kind."""
        if not isinstance(self.shape, Shape) or self.recipe is None:
            raise TypeError(f"{self.shape.label()} is no shape")
        return self.shape, self.recipe

    @property
    def flops_per_token(self) -> int | None:
        """Training FLOPs of one token, None where they aren't known."""
        kind: Kind = self.shape
        return kind.flops_per_token(self.recipe.seq_len if self.recipe else None)

    @property
    def vocab_size(self) -> int | None:
        """Rows of the embedding; None where that isn't ours to know."""
        return self.shape.vocab_size if isinstance(self.shape, Shape) else None

    @property
    def data(self) -> str | None:
        """The name of what it trains on, None where that isn't ours to know."""
        return self.recipe.data if self.recipe else None

    @property
    def precision(self) -> RecipePrecision | None:
        """What its recipe says."""
        return self.recipe.precision if self.recipe else None

    @property
    def minutes(self) -> float | None:
        """How long it trains, where its recipe says so in minutes."""
        return self.recipe.minutes if self.recipe else None

    @property
    def steps(self) -> int | None:
        """Optimizer steps, where its recipe says so."""
        return self.recipe.steps if self.recipe else None

    @property
    def optimizer(self) -> Optimizer | None:
        """Its recipe's."""
        return self.recipe.optimizer if self.recipe else None

    def tokens_of(self, steps: int | None) -> int | None:
        """Training tokens of so many optimizer steps; None where steps or recipe aren't known."""
        return None if steps is None or self.recipe is None else steps * self.recipe.tokens_per_step

    def at_precision(self, precision: Precision) -> Config:
        """This config with `precision` for its recipe's own; itself where it has none."""
        return replace(self, recipe=self.recipe.at_precision(precision)) if self.recipe else self

    def with_recipe(self, **changes: Any) -> Config:
        """This config with these fields of its recipe; itself where it has none."""
        return replace(self, recipe=replace(self.recipe, **changes)) if self.recipe else self

    def _identity(self) -> dict[str, Any]:
        recipe = {} if self.recipe is None else {"recipe": self.recipe.to_dict()}
        return {**kind_dict(self.shape), **recipe}

    def to_dict(self) -> dict[str, Any]:
        """`{"shape": …, "recipe": …}` as plain JSON values.

        Of another kind "architecture" or "program" in place of "shape", and beside it "params" and, where they are
        known, "train_flops_per_token"; of a program no "recipe".
        """
        return {**self._identity(), **kind_facts(self.shape)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`."""
        recipe = Recipe.from_dict(plain["recipe"]) if "recipe" in plain else None
        return cls(shape=kind_from(plain), recipe=recipe)


def with_configs(plain: Any, value: Any) -> Any:
    """`plain`, what `dataclasses.asdict` made of `value`, with each field `config` of it as `Config.to_dict` has it.

    Its keys stand in the field's place; what stands beside them already keeps its own.
    """
    if isinstance(plain, dict) and hasattr(value, "__dataclass_fields__"):
        found: dict[str, Any] = {}
        for name, item in plain.items():
            own = getattr(value, name)
            found |= own.to_dict() if isinstance(own, Config) else {name: with_configs(item, own)}
        return found
    if isinstance(plain, dict) and isinstance(value, Mapping):
        return {name: with_configs(item, value[name]) for name, item in plain.items()}
    if isinstance(plain, list | tuple):
        return type(plain)(with_configs(item, own) for item, own in zip(plain, value, strict=True))
    return plain


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What only speed and memory depend on. `batch_size` is the micro-batch, in sequences."""

    batch_size: int
    compile: bool


def probe_id(config: Config, execution: Execution) -> str:
    """Shape, or other kind, × execution × the recipe fields that speed depends on."""
    recipe, known = config.recipe, {**kind_dict(config.shape), "execution": flat(execution)}
    if recipe is not None:
        fp8 = [value for value in (recipe.fp8_backend, recipe.fp8_filter) if value is not None]
        known["recipe"] = [recipe.seq_len, recipe.tokens_per_step, recipe.precision, recipe.optimizer.name, *fp8]
    return "p" + digest(known)


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What measuring made of a declaration: a recipe's `minutes` as whole `steps`, its `auto` as a precision.

    After an FP8 NaN, `precision` is the bf16 of the second try. None where nothing was resolved.
    """

    steps: int | None = None
    precision: Precision | None = None


UNRESOLVED = Resolved()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One thing for a runner to do: train a config with a seed, or measure a config's speed.

    No part of any id: `data_path`, where the recipe's data lies on this machine, None for an embedded corpus;
    `data_fingerprint`, what that of the data has to be where the job runs, None for whatever it is; `device`, the
    type of device that the job must run on; `memory_bytes`, what it may reserve there; `shared_ok`, whether it may be
    timed on a device that others use; `resolved`; `branch_at`, the fractions of its steps at which a training has
    branches, which a speed job hasn't; `reference`, the speed job by which its device's drift is measured
    every `reference_every_s` seconds, None for no such job. `seed` is 0 for a speed job.
    """

    kind: JobKind
    config: Config
    execution: Execution
    seed: int = 0
    attempt: int = 1
    data_path: str | None = None
    data_fingerprint: str | None = None
    device: DeviceType = "cpu"
    memory_bytes: int | None = None
    shared_ok: bool = False
    resolved: Resolved = UNRESOLVED
    branch_at: tuple[float, ...] = ()
    reference: Job | None = None
    reference_every_s: float = 0.0
    on: str | None = None
    beside: bool = False

    @property
    def steps(self) -> int | None:
        """Whole optimizer steps of the training, None for a speed job of a recipe that gives minutes."""
        return self.config.steps if self.resolved.steps is None else self.resolved.steps

    @property
    def precision(self) -> Precision:
        """What the job computes in. Raises ValueError for `auto` before it is resolved, and without a recipe."""
        precision = self.resolved.precision or self.config.precision
        if precision is None or precision == "auto":
            raise ValueError(f"{self.job_id}: precision auto has not been resolved")
        return precision

    @cached_property
    def probe_id(self) -> str:
        """The id under which this job's speed is known; where a precision was resolved, it's of that precision."""
        precision = self.resolved.precision
        return probe_id(self.config.at_precision(precision) if precision else self.config, self.execution)

    @property
    def trial_id(self) -> str:
        """The config's id and the seed, for a training job."""
        return f"{self.config.config_id}-s{self.seed}"

    @property
    def job_id(self) -> str:
        """`trial_id` of a training job, `probe_id` of a speed job; one beside the search has its kind behind it."""
        if self.kind == "train":
            return self.trial_id
        return f"{self.probe_id}@{self.on}" if self.beside else self.probe_id

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches per optimizer step."""
        _, recipe = self.config.ours
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
            "execution": flat(self.execution),
            "seed": self.seed,
            "attempt": self.attempt,
            "data_path": self.data_path,
            "data_fingerprint": self.data_fingerprint,
            "device": self.device,
            "memory_bytes": self.memory_bytes,
            "shared_ok": self.shared_ok,
            "resolved": flat(self.resolved),
            "branch_at": list(self.branch_at),
            "reference": self.reference.to_dict() if self.reference else None,
            "reference_every_s": self.reference_every_s,
            "on": self.on,
            "beside": self.beside,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Job:
        """The inverse of `to_dict`."""
        fields = dict(plain)
        reference = fields.pop("reference", None)
        return cls(
            config=Config.from_dict(fields.pop("config")),
            execution=Execution(**fields.pop("execution")),
            resolved=Resolved(**fields.pop("resolved", {})),
            branch_at=tuple(fields.pop("branch_at", ())),
            reference=cls.from_dict(reference) if reference else None,
            **fields,
        )
