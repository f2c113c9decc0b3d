"""The study as values: frozen pydantic models, every field documented with its unit.

`Document` is what a YAML file holds once its profile is merged in; `Study` is what it means: presets put in
place, axes expanded, sizes as numbers. `sweeper.study.loader` makes the one from the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from sweeper.study.sizes import Duration, Longer, Real, Whole
from sweeper.values.objectives import MARGINS

EMBEDDED_DATA = ("python-stdlib", "python-packages")
"""Corpora that are there on any machine."""

DEFAULT_BATCH_SIZE = 8
"""The micro-batch, in sequences, where neither the study nor a preset gives one."""

MUON_MOMENTUM = 0.95
"""Muon's momentum where the study gives none."""

TAG = "·"
"""Starts pydantic's names for the forms of a value; they are no part of a place in the study."""

Count = Annotated[int, Whole()]
Bytes = Annotated[int, Whole(kind="bytes", low=2**20)]
Layers = Annotated[int, Whole(high=10_000)]
Heads = Annotated[int, Whole(high=2**16)]
Width = Annotated[int, Whole(high=2**20)]
Rows = Annotated[int, Whole(high=2**24)]
Fraction = Annotated[float, Real(below=1)]
PositiveFloat = Annotated[float, Real(above=True)]
Beta = Annotated[float, Real(below=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShapeFields(_Frozen):
    """Any of a shape's fields. One of n_heads | head_dim, n_kv_heads | kv_groups, ffn_hidden | ffn_ratio."""

    n_layers: Layers | None = None
    d_model: Width | None = None
    n_heads: Heads | None = None
    head_dim: Width | None = None
    n_kv_heads: Heads | None = None
    kv_groups: Heads | None = Field(default=None, description="Query heads per KV head.")
    ffn_hidden: Rows | None = None
    ffn_ratio: Annotated[float, Real(above=True, below=1000)] | None = Field(
        default=None, description="ffn_hidden ÷ d_model, rounded to multiple_of."
    )
    multiple_of: Width | None = Field(default=None, description="What ffn_ratio rounds to.")
    vocab_size: Rows | None = None
    tie_embeddings: bool | None = None


PresetName = Literal["gpt2-small", "current", "medium-deep", "wide-shallow", "gpt2-medium"]


class ShapeEntry(ShapeFields):
    """One of `shapes`: shape fields, over those of a preset where one is named."""

    preset: PresetName | None = None


class Solve(_Frozen):
    """`{solve: params, multiple_of: 64}`: the axis takes whatever value lands the count on the budget."""

    solve: Literal["params"]
    multiple_of: Width = 1
    min: Rows | None = None
    max: Rows | None = None


Values = tuple[Any, ...]
"""An axis as listed: `{from, to, step}` and `{from, to, log}` are already expanded, sizes already numbers."""


class ParamsBudget(_Frozen):
    """`{target, tolerance, count}` or `{min, max, count}`. `tolerance` is a fraction of the target.

    `min` or `max` may stand alone where no axis is solved.
    """

    target: Count | None = None
    tolerance: Fraction = 0.02
    min: Count | None = None
    max: Count | None = None
    count: Literal["total", "trunk"] = "total"


class Budget(_Frozen):
    """What a feasible point must meet. `memory`, in bytes, is also all that a trial may take of its device."""

    params: ParamsBudget | None = None
    memory: Bytes | None = Field(default=None, description="What a trial may take of its device, like 16GiB.")


class BaseFields(_Frozen):
    """Where lr holds: CompleteP scales it from this shape to every other. n_layers and d_model are needed.

    `ffn_hidden` left out: int(d_model × 8 / 3). `tokens_per_step` left out: lr isn't rescaled with tokens per step,
    or from the first value of such an axis.
    """

    n_layers: Layers | None = None
    d_model: Width | None = None
    ffn_hidden: Rows | None = None
    tokens_per_step: Count | None = None


class OptimizerFields(_Frozen):
    """AdamW or Muon and its schedule: the defaults are those of `sweeper.values.records.Optimizer`.

    `momentum` is Muon's, MUON_MOMENTUM where it is None; `base` goes with completep; `batch_scaling` says what
    becomes of lr and weight_decay at other tokens per step than the reference (see `sweeper.planning.tokens`).
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: PositiveFloat = 2e-3
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Real()] = 0.1
    grad_clip: PositiveFloat = 1.0
    warmup: Fraction = 0.04
    cooldown: Fraction = 0.2
    momentum: Annotated[float, Real(below=1)] | None = Field(default=None, description="Muon's.")
    parametrization: Literal["standard", "completep"] = "standard"
    base: BaseFields | None = Field(default=None, description="The shape at which lr holds, for completep.")
    batch_scaling: Literal["sqrt", "none"] = Field(
        default="sqrt", description="Of lr and weight_decay, with tokens per step."
    )


class Ladder(_Frozen):
    """`{fastest: [4, 8, 16]}`: the micro-batch is the fastest of these, by probes from the largest down to the first
    that is no faster.
    """

    fastest: tuple[Rows, ...] = ()


class SeedRange(_Frozen):
    """`{min: 1, max: 5}`: min seeds for every config, then more for those not surely on the frontier or off it."""

    min: Annotated[int, Whole(high=1000)] = 1
    max: Annotated[int, Whole(high=1000)] | None = None


def _form(value: Any) -> str:
    return f"{TAG}fields" if isinstance(value, dict | BaseModel) else f"{TAG}number"


MicroBatch = Annotated[
    Annotated[Rows, Tag(f"{TAG}number")] | Annotated[Ladder, Tag(f"{TAG}fields")], Discriminator(_form)
]
Seeds = Annotated[
    Annotated[int, Whole(high=1000), Tag(f"{TAG}number")] | Annotated[SeedRange, Tag(f"{TAG}fields")],
    Discriminator(_form),
]


class Trial(_Frozen):
    """How long and how a trial trains. Exactly one of tokens, flops, minutes, tokens_per_param (or such an axis).

    `data` is an embedded corpus, or the name of the folder or file at `LoadedStudy.data_path`: the same on
    every machine, as ids need it. `tokens_per_step` and `grad_accum_steps` both None: one micro-batch a step.
    `batch_size` None: DEFAULT_BATCH_SIZE; a Ladder comes with tokens_per_step. A base preset's batch_size and
    grad_accum_steps are already in place where the study gives none of the three. `minutes` are of training alone,
    made whole steps by the shape's measured speed. `fp8_backend` and `fp8_filter` None: torchao and auto, where the
    precision is fp8 or auto, which takes the faster of bf16 and fp8.
    """

    data: str = "python-packages"
    tokens: Count | None = None
    flops: Annotated[float, Real(above=True, kind="count")] | None = None
    minutes: Annotated[float, Real(above=True, below=100_000, kind="count")] | None = Field(
        default=None, description="Of training, made whole steps by a probe."
    )
    tokens_per_param: Annotated[float, Real(above=True, kind="count")] | None = None
    seq_len: Annotated[int, Whole(high=2**22)] = 1024
    tokens_per_step: Count | None = None
    grad_accum_steps: Rows | None = None
    batch_size: MicroBatch | None = Field(
        default=None, description="The micro-batch, in sequences, or {fastest: [4, 8, 16]}."
    )
    precision: Literal["fp32", "bf16", "fp8", "auto"] = "bf16"
    fp8_backend: Literal["torchao", "transformer_engine"] | None = None
    fp8_filter: Literal["auto", "none"] | None = Field(
        default=None, description="auto leaves out layers that FP8 slows down."
    )
    compile: bool = True
    optimizer: OptimizerFields = OptimizerFields()
    seeds: Seeds = Field(default=1, description="How many, or {min: 1, max: 5}: more where it isn't decided.")
    eval_tokens: Count = 1_048_576
    branch_at: tuple[Annotated[float, Real(above=True, below=1)], ...] = Field(
        default=(), description="Fractions of a trial's tokens at which its loss is known too, cooled down: [25%, 50%]."
    )

    @property
    def first_seeds(self) -> int:
        """How many seeds every config is trained with."""
        return self.seeds.min if isinstance(self.seeds, SeedRange) else self.seeds

    @property
    def most_seeds(self) -> int:
        """How many seeds a config may be trained with."""
        return (self.seeds.max or self.seeds.min) if isinstance(self.seeds, SeedRange) else self.seeds


class EarlyStop(_Frozen):
    """`{method: asha, grace: 30%}`: trials behind at 30% of their tokens, or at 90%, are stopped."""

    method: Literal["asha"]
    grace: Annotated[float, Real(above=True, below=1)] = 0.3


class Search(_Frozen):
    """Which feasible configs are tried. `trials` counts configs, for all but `grid`.

    `tpe`, `nsga2` and `gp` learn from the first seed of those before; of the others all are known at the start.
    """

    method: Literal["grid", "random", "space_filling", "tpe", "nsga2", "gp"] = "grid"
    trials: Count | None = None
    max_gpu_hours: PositiveFloat | None = Field(
        default=None, description="Of all jobs together, on whatever device: once spent, no further job starts."
    )
    seed: Annotated[int, Whole(low=0, high=2**32 - 1)] = 0
    early_stop: EarlyStop | None = Field(default=None, description="Stop trials that are behind at equal tokens.")
    prune: bool = Field(
        default=False,
        description="Probe all speeds first, and put last what is slower and hardly likely to reach a lower loss.",
    )
    storage: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Of Optuna's, for optuna-dashboard: a database URL such as sqlite:///study.db, or a journal file.",
    )


class FollowUpFields(_Frozen):
    """`{shapes: 4, tokens: 4x}`: so many configs once more when all trials are done, at more tokens.

    `tokens` is a float, so many times a config's own tokens (or minutes), or an int, tokens.
    """

    shapes: Annotated[int, Whole(low=2, high=1000)] = 4
    tokens: Annotated[int | float, Longer()] = Field(default=4.0, description="4x, or tokens like 240M.")


class Resources(_Frozen):
    """Of one job. `gpus` left out: 1 where the machine has a GPU, else 0; `cpus` left out: its share of all cores.

    `allow_shared`: speed is measured even where other processes use the device. `reference_every`, in seconds: how
    often each device measures the reference config, None for never.
    """

    gpus: Annotated[int, Whole(low=0, high=1)] | None = None
    cpus: Annotated[int, Whole(high=10_000)] | None = None
    allow_shared: bool = False
    reference_every: Annotated[float | None, Duration()] = Field(
        default="30min",
        validate_default=True,
        description="How often each device measures one config again, for its drift: a time like 30min, or off.",
    )


DEFAULT_OBJECTIVES: Mapping[str, Literal["min", "max"]] = {"val_loss": "min", "tokens_per_s": "max"}


class Margins(_Frozen):
    """Differences that don't matter: nats of val_loss, a fraction of tokens_per_s."""

    val_loss: Annotated[float, Real(below=10, kind="count")] = MARGINS["val_loss"]
    tokens_per_s: Fraction = MARGINS["tokens_per_s"]


class LossWithin(_Frozen):
    """`{loss_within: 0.02}`: the fastest config whose mean loss is at most so many nats above the lowest."""

    loss_within: Annotated[float, Real(below=10, kind="count")]


Decide = Annotated[
    Annotated[Literal["equal_time", "equal_tokens"], Tag(f"{TAG}number")] | Annotated[LossWithin, Tag(f"{TAG}fields")],
    Discriminator(_form),
]


class Document(_Frozen):
    """A study's YAML with its profile merged in and `profiles` taken out. `axes` as written."""

    name: str
    question: str = ""
    base: PresetName | None = None
    model: ShapeFields = ShapeFields()
    axes: Mapping[str, Any] = {}
    shapes: tuple[ShapeEntry, ...] = ()
    budget: Budget = Budget()
    constraints: tuple[str, ...] = Field(
        default=(), description="Conditions that every point keeps, such as n_layers * head_dim <= 4096."
    )
    trial: Trial
    search: Search = Search()
    objectives: Mapping[str, Literal["min", "max"]] = DEFAULT_OBJECTIVES
    margins: Margins = Field(
        default=Margins(), description="Differences that don't matter, such as {val_loss: 0.01, tokens_per_s: 2%}."
    )
    decide: Decide = Field(
        default="equal_time",
        description="What the answer goes by: equal_time, equal_tokens, or {loss_within: 0.02}, the fastest that near.",
    )
    nuisance: tuple[str, ...] = Field(
        default=(), description="Axes, such as optimizer.lr, of which each shape is judged at its best value."
    )
    resources: Resources = Resources()
    follow_up: FollowUpFields | None = None


class Study(_Frozen):
    """One question, what all trials share, what differs, the budget, how long a trial is.

    A point's shape fields are the plain union `{**model, **shape, **axes}` of `model`, one of `shapes` (where
    there are any) and one value of each shape axis, ready for `sweeper.model.shape.derive`: presets are already in
    place, and what gives way to a shape's or an axis' field is already taken out, so no merging is left.
    `model` has shape fields only, `multiple_of` of ffn_ratio included. A shape that comes from a preset also
    carries the preset's `batch_size` and `grad_accum_steps` where the study gives neither these nor
    `tokens_per_step`: they override the trial's for that shape.
    `axes` maps a shape field, a field of `trial`, or `optimizer.<field>` to its values, in the study's order;
    a field that is an axis is None, or its default, in `model` and `trial`. `constraints` are texts of
    `sweeper.study.expressions.Expression`.
    """

    name: str
    question: str = ""
    base: str | None = None
    model: Mapping[str, Any]
    axes: Mapping[str, Values | Solve] = {}
    shapes: tuple[Mapping[str, Any], ...] = ()
    budget: Budget = Budget()
    constraints: tuple[str, ...] = ()
    trial: Trial
    search: Search = Search()
    objectives: Mapping[str, Literal["min", "max"]] = DEFAULT_OBJECTIVES
    margins: Margins = Margins()
    decide: Decide = "equal_time"
    nuisance: tuple[str, ...] = ()
    resources: Resources = Resources()
    follow_up: FollowUpFields | None = None

    @property
    def differing(self) -> tuple[str, ...]:
        """The axes, and the shape fields in which the listed shapes may differ."""
        listed = {name for shape in self.shapes for name in shape if name in ShapeFields.model_fields}
        return tuple(self.axes) + tuple(sorted(listed - {"multiple_of", *self.axes}))


class LoadedStudy(_Frozen):
    """A study under one profile, with what was said about choosing it.

    `profile` is "full" or a profile's name; `resolved` is the merged YAML document (for `study.yaml`);
    `file` is where it came from; `data_path` is where its data lies, absolute, None for an embedded corpus.
    """

    study: Study
    profile: str
    file: Path
    resolved: Mapping[str, Any]
    data_path: Path | None = None
