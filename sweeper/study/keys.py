"""Unknown and unsupported keys of one layer, found before anything is merged."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from sweeper.study.layers import AXES
from sweeper.study.nodes import YamlNode
from sweeper.study.schema import Budget, Document, OptimizerFields, ParamsBudget, Resources, Search, ShapeFields, Trial
from sweeper.study.unsupported import unsupported_key
from sweeper.values.errors import Fault

Path = tuple[str, ...]

_HOMES: dict[str, str] = {
    field: place
    for place, model in (
        ("budget.params", ParamsBudget),
        ("budget", Budget),
        ("resources", Resources),
        ("search", Search),
        ("trial.optimizer", OptimizerFields),
        ("trial", Trial),
        ("model", ShapeFields),
    )
    for field in model.model_fields
}
"""Where a key belongs that stands elsewhere."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean …`, or a list of what is known."""
    names = list(known)
    meant = near(word, names)
    return f"did you mean {meant}?" if meant else f"known are {', '.join(names)}"


def near(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known word that is most like `word`, if any is by at least `cutoff` (difflib's ratio, 0 to 1)."""
    return next(iter(difflib.get_close_matches(word[:80], list(known), n=1, cutoff=cutoff)), None)


@dataclass(frozen=True, kw_only=True)
class Keys:
    """A layer without the keys that nothing reads: `faults` names them, `meant` what they stand for."""

    layer: YamlNode
    faults: tuple[Fault, ...]
    meant: frozenset[str]


def known_keys(layer: YamlNode) -> Keys:
    """Take out the keys that nothing reads. `meant` has the paths that a misspelt key was meant to be."""
    search = _Search()
    known = search.model(layer, Document, ())
    axes = known.get("axes")
    if axes is not None:
        known = known.with_items({**known.items(), "axes": search.axes(axes)})
    return Keys(layer=known, faults=tuple(search.faults), meant=frozenset(search.meant))


@dataclass(kw_only=True)
class _Search:
    faults: list[Fault] = field(default_factory=list)
    meant: set[str] = field(default_factory=set)

    def model(self, node: YamlNode, model: type[BaseModel], path: Path) -> YamlNode:
        if not isinstance(node.value, dict):
            return node
        items: dict[str, YamlNode] = {}
        for key, child in node.value.items():
            if key in model.model_fields:
                inner = _inner(model.model_fields[key].annotation)
                items[key] = child if inner is None else self._children(child, inner, (*path, key))
            else:
                known = list(model.model_fields)
                self._meant((*path, key), near(key, known) or key)
                self.faults.append(child.key_fault(_unknown(key, path, known)))
        return node.with_items(items)

    def axes(self, axes: YamlNode) -> YamlNode:
        if not isinstance(axes.value, dict):
            return axes
        items = {}
        for key, child in axes.value.items():
            if key in AXES:
                items[key] = child
            else:
                self._meant(("axes", key), near(key, AXES) or key)
                self.faults.append(child.key_fault(_unknown_axis(key)))
        return axes.with_items(items)

    def _children(self, node: YamlNode, model: type[BaseModel], path: Path) -> YamlNode:
        if isinstance(node.value, list) and path == ("shapes",):
            return replace(node, value=[self.model(child, model, path) for child in node.value])
        return self.model(node, model, path)

    def _meant(self, path: Path, name: str) -> None:
        self.meant |= {".".join(path), ".".join((*path[:-1], name))}


def _unknown(key: str, path: Path, known: list[str]) -> str:
    not_yet = unsupported_key((*path, key))
    if not_yet:
        return not_yet
    if key == "profiles":
        return "profiles stand at the top of the study only; take it out"
    if near(key, known, cutoff=0.8) is None and key in _HOMES:
        return f"unknown key here; put it under {_HOMES[key]}"
    if path and key in Document.model_fields:
        return "unknown key here; it stands at the top of the study"
    return f"unknown key; {did_you_mean(key, known)}"


def _unknown_axis(key: str) -> str:
    if f"optimizer.{key}" in AXES:
        return f"unknown axis; did you mean optimizer.{key}?"
    if key == "optimizer":
        return "not an axis itself; write one of its fields, like optimizer.lr"
    return f"unknown axis; {did_you_mean(key, AXES)}"


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model`, `Model | None`, `tuple[Model, ...]` or an annotated one of these."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, tuple, Annotated):
        return next((inner for arg in get_args(annotation) if (inner := _inner(arg))), None)
    return None
