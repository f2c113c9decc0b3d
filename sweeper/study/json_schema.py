"""The JSON schema of a study file, for editors: completion, and most faults before `sweeper check`."""

from __future__ import annotations

import copy
from typing import Any

from sweeper.study.axes import LIST_ONLY, SOLVABLE
from sweeper.study.layers import OPTIMIZER_AXES, SHAPE_AXES, TRIAL_AXES
from sweeper.study.schema import Document, Solve

Json = dict[str, Any]


def schema_json() -> Json:
    """The schema, draft 2020-12. It takes every study that loads; rules between fields it doesn't know.

    Any key may be null, as in a profile, where null removes.
    """
    schema = Document.model_json_schema(ref_template="#/$defs/{model}")
    definitions: Json = schema.pop("$defs")
    definitions["Solve"] = Solve.model_json_schema()
    definitions["Axes"] = _axes(definitions)
    schema["properties"]["axes"] = {"$ref": "#/$defs/Axes"}
    _text_may_look_like_numbers(schema["properties"], ("name", "question"))
    _text_may_look_like_numbers(definitions["Trial"]["properties"], ("data",))
    for definition in (schema, *definitions.values()):
        _nullable(definition)
    profile = copy.deepcopy(schema)
    profile.pop("required")
    profile.update(title="Profile", description="Merged over the study.")
    definitions["Profile"] = profile
    schema["properties"]["profiles"] = {
        "anyOf": [
            {"type": "object", "additionalProperties": {"$ref": "#/$defs/Profile"}},
            {"type": "null"},
        ],
        "description": "Named variants of the study; cpu is taken where there is no GPU.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "sweeper study",
        "$defs": definitions,
    }


def _text_may_look_like_numbers(properties: Json, names: tuple[str, ...]) -> None:
    for name in names:
        properties[name]["type"] = ["string", "number", "boolean"]


def _nullable(definition: Json) -> None:
    """Let every property be null. What a profile leaves out may be required below it: only top keys are."""
    if definition.get("title") not in ("Document",):
        definition.pop("required", None)
    for name, field in definition.get("properties", {}).items():
        options = field.get("anyOf", [])
        if {"type": "null"} not in options:
            definition["properties"][name] = {"anyOf": [field, {"type": "null"}]}


def _axes(definitions: Json) -> Json:
    fields = {
        **{name: definitions["ShapeFields"]["properties"][name] for name in SHAPE_AXES},
        **{name: definitions["Trial"]["properties"][name] for name in TRIAL_AXES},
        **{
            name: definitions["OptimizerFields"]["properties"][name.removeprefix("optimizer.")]
            for name in OPTIMIZER_AXES
        },
    }
    return {
        "type": "object",
        "description": "Crossed with each other.",
        "additionalProperties": False,
        "properties": {name: _axis(name, field) for name, field in fields.items()},
    }


def _axis(name: str, field: Json) -> Json:
    value = {key: _plain_forms(part) for key, part in field.items() if key not in ("default", "description")}
    forms: list[Json] = [{"type": "array", "items": value, "minItems": 1}]
    if name not in LIST_ONLY:
        forms.append(
            {
                "type": "object",
                "properties": {"from": value, "to": value, "step": value, "log": {"type": "integer"}},
                "additionalProperties": False,
            }
        )
    if name in SOLVABLE:
        forms.append({"$ref": "#/$defs/Solve"})
    return {"anyOf": forms}


def _plain_forms(part: Any) -> Any:
    """A field's schema without the forms that are no single value: the ladder of batch_size."""
    if isinstance(part, dict) and "oneOf" in part:
        return {**part, "oneOf": [form for form in part["oneOf"] if "$ref" not in form]}
    return [_plain_forms(form) for form in part] if isinstance(part, list) else part
