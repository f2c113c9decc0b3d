"""The study as values: frozen pydantic models, every field documented with its unit.

`Document` is what a YAML file holds once its profile is merged in; `Study` is what it means: presets put in
place, axes expanded, sizes as numbers. `sweeper.study.loader` makes the one from the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sweeper.study.sizes import Real, Whole

EMBEDDED_DATA = ("python-stdlib", "python-packages")
"""Corpora that are there on any machine."""

DEFAULT_BATCH_SIZE = 8
"""The micro-batch, in sequences, where neither the study nor a preset gives one."""

Count = Annotated[int, Whole()]
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
    """What a feasible point must meet."""

    params: ParamsBudget | None = None


class OptimizerFields(_Frozen):
    """AdamW and its schedule: the defaults are those of `sweeper.records.Optimizer`."""

    name: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 2e-3
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Real()] = 0.1
    grad_clip: PositiveFloat = 1.0
    warmup: Fraction = 0.04
    cooldown: Fraction = 0.2
    parametrization: Literal["standard"] = "standard"


class Trial(_Frozen):
    """How long and how a trial trains. Exactly one of tokens, flops, tokens_per_param (or such an axis).

    `data` is an embedded corpus, or the name of the folder or file at `LoadedStudy.data_path`: the same on
    every machine, as ids need it. `tokens_per_step` and `grad_accum_steps` both None: one micro-batch a step.
    `batch_size` None: DEFAULT_BATCH_SIZE. A base preset's batch_size and grad_accum_steps are already in
    place where the study gives none of the three.
    """

    data: str = "python-packages"
    tokens: Count | None = None
    flops: Annotated[float, Real(above=True, kind="count")] | None = None
    tokens_per_param: Annotated[float, Real(above=True, kind="count")] | None = None
    seq_len: Annotated[int, Whole(high=2**22)] = 1024
    tokens_per_step: Count | None = None
    grad_accum_steps: Rows | None = None
    batch_size: Rows | None = None
    precision: Literal["fp32", "bf16", "fp8"] = "bf16"
    compile: bool = True
    optimizer: OptimizerFields = OptimizerFields()
    seeds: Annotated[int, Whole(high=1000)] = 1
    eval_tokens: Count = 1_048_576


class Search(_Frozen):
    """Which feasible configs are tried. `trials` counts configs, for `random`."""

    method: Literal["grid", "random"] = "grid"
    trials: Count | None = None
    seed: Annotated[int, Whole(low=0, high=2**32 - 1)] = 0


class Resources(_Frozen):
    """Of one job. `gpus` left out: 1 where the machine has a GPU, else 0; `cpus` left out: its share of all cores."""

    gpus: Annotated[int, Whole(low=0, high=1)] | None = None
    cpus: Annotated[int, Whole(high=10_000)] | None = None


DEFAULT_OBJECTIVES: Mapping[str, Literal["min", "max"]] = {"val_loss": "min", "tokens_per_s": "max"}


class Document(_Frozen):
    """A study's YAML with its profile merged in and `profiles` taken out. `axes` as written."""

    name: str
    question: str = ""
    base: PresetName | None = None
    model: ShapeFields = ShapeFields()
    axes: Mapping[str, Any] = {}
    shapes: tuple[ShapeEntry, ...] = ()
    budget: Budget = Budget()
    trial: Trial
    search: Search = Search()
    objectives: Mapping[str, Literal["min", "max"]] = DEFAULT_OBJECTIVES
    resources: Resources = Resources()


class Study(_Frozen):
    """One question, what all trials share, what differs, the budget, how long a trial is.

    A point's shape fields are the plain union `{**model, **shape, **axes}` of `model`, one of `shapes` (where
    there are any) and one value of each shape axis, ready for `model.shape.derive`: presets are already in
    place, and what gives way to a shape's or an axis' field is already taken out, so no merging is left.
    `model` has shape fields only, `multiple_of` of ffn_ratio included. A shape that comes from a preset also
    carries the preset's `batch_size` and `grad_accum_steps` where the study gives neither these nor
    `tokens_per_step`: they override the trial's for that shape.
    `axes` maps a shape field, a field of `trial`, or `optimizer.<field>` to its values, in the study's order;
    a field that is an axis is None, or its default, in `model` and `trial`.
    """

    name: str
    question: str = ""
    base: str | None = None
    model: Mapping[str, Any]
    axes: Mapping[str, Values | Solve] = {}
    shapes: tuple[Mapping[str, Any], ...] = ()
    budget: Budget = Budget()
    trial: Trial
    search: Search = Search()
    objectives: Mapping[str, Literal["min", "max"]] = DEFAULT_OBJECTIVES
    resources: Resources = Resources()


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
