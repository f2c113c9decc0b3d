"""A sound document and its expanded axes → the `Study` that they mean, presets put in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.study.axes import Axis
from sweeper.study.presets import ALTERNATIVES, PRESETS, layered
from sweeper.study.schema import Document, ShapeEntry, Study, Trial

STEP_FIELDS = ("tokens_per_step", "grad_accum_steps", "batch_size")
_HEADS = ("n_heads", "head_dim")
_KV_HEADS = ("n_kv_heads", "kv_groups")
_FFN = ("ffn_hidden", "ffn_ratio")

Fields = dict[str, Any]


def build(document: Document, axes: Mapping[str, Axis], *, data: str) -> Study:
    """The study; `data` is the name that ids know its data by."""
    model, shapes = _shape_fields(document, axes)
    return Study(
        name=document.name,
        question=document.question,
        base=document.base,
        model=model,
        axes={name: axis.values for name, axis in axes.items()},
        shapes=shapes,
        budget=document.budget,
        constraints=document.constraints,
        trial=_trial(document, axes).model_copy(update={"data": data}),
        search=document.search,
        objectives=document.objectives,
        margins=document.margins,
        decide=document.decide,
        nuisance=document.nuisance,
        resources=document.resources,
        follow_up=document.follow_up,
    )


def _shape_fields(document: Document, axes: Mapping[str, Any]) -> tuple[Fields, tuple[Fields, ...]]:
    """`model` and `shapes` as `Study` has them: a point's fields are the plain union with its axis values."""
    own = _given(document.model)
    model = own if document.shapes else layered(_preset(document.base, axes), own)
    shapes = tuple(_shape(entry, document, own, axes) for entry in document.shapes)
    if "tie_embeddings" not in axes:
        model = {"tie_embeddings": False, **model}
    return model, shapes


def _given(fields: Any) -> Fields:
    """The fields of a model that were set, its preset left out."""
    return {key: value for key, value in fields if value is not None and key != "preset"}


def _shape(entry: ShapeEntry, document: Document, own: Fields, axes: Mapping[str, Any]) -> Fields:
    preset = entry.preset or document.base
    if preset is None:
        return _given(entry)
    fields = layered(_preset(preset, axes), {**own, **_given(entry)})
    if entry.preset and not steps_given(document.trial, axes):
        fields |= PRESETS[entry.preset]["trial"]
    return fields


def _preset(name: str | None, axes: Mapping[str, Any]) -> Fields:
    """A preset's shape fields without those that give way to an axis, at each of its values alike."""
    fields: Fields = dict(PRESETS[name]["model"]) if name else {}
    gone = {other for axis in axes for other in (axis, *ALTERNATIVES.get(axis, ()))}
    if "d_model" in axes:
        gone |= {*_HEADS, *_KV_HEADS, *_FFN}
    if any(axis in _HEADS for axis in axes):
        gone |= {*_KV_HEADS}
    return {key: value for key, value in fields.items() if key not in gone}


def steps_given(trial: Trial, axes: Mapping[str, Any]) -> bool:
    """Whether the study itself says anything of tokens per step, accumulation or micro-batch."""
    return any(getattr(trial, name) is not None or name in axes for name in STEP_FIELDS)


def _trial(document: Document, axes: Mapping[str, Any]) -> Trial:
    if document.base and not steps_given(document.trial, axes):
        return document.trial.model_copy(update=dict(PRESETS[document.base]["trial"]))
    return document.trial
