"""Pydantic's errors in sweeper's words, and as much of a faulty document as is sound."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sweeper.study.keys import did_you_mean
from sweeper.study.nodes import YamlNode, plain
from sweeper.study.schema import TAG, Document
from sweeper.study.sizes import value_text
from sweeper.study.unsupported import unsupported_value
from sweeper.values.errors import Fault

Loc = tuple[str | int, ...]

_TEXT_PATHS: tuple[tuple[str, ...], ...] = (("name",), ("question",), ("trial", "data"))
_PLACEHOLDERS: dict[str, Any] = {"name": "unnamed", "trial": {}}
_MISSING = {
    "name": "missing; name the study: name: depth-vs-ffn",
    "method": "missing; write method: asha",
    "trial": "missing; say how trials train: trial: {data: python-stdlib, tokens: 60M}",
}
_WANTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "model_type": "a mapping, key: value",
    "dict_type": "a mapping, key: value",
    "tuple_type": "a list, [a, b]",
}


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What could be read of a document: `document` has defaults in the places of `faulty`."""

    root: YamlNode
    document: Document
    faulty: frozenset[str]

    def sound(self, *paths: str) -> bool:
        """Whether nothing at, above or below any of `paths` is faulty."""
        return not any(_nested(path, bad) or _nested(bad, path) for path in paths for bad in self.faulty)


def _nested(path: str, above: str) -> bool:
    return path == above or path.startswith((f"{above}.", f"{above}["))


def values_of(root: YamlNode) -> dict[str, Any]:
    """The plain values of a study; name, question and data stay text even if they look like numbers."""
    values: dict[str, Any] = plain(root)
    for path in _TEXT_PATHS:
        node = root.get(*path)
        if node is not None and isinstance(node.value, bool | int | float):
            parent = values if len(path) == 1 else values[path[0]]
            parent[path[-1]] = node.text
    return values


def read_document(root: YamlNode, meant: Iterable[str]) -> tuple[Sound, list[Fault]]:
    """Validate a merged study: all that is sound, and a fault for all that isn't.

    `meant` are paths known to be faulty already.
    """
    values = _tuples(values_of(root))
    faults: list[Fault] = []
    faulty = set(meant)
    while True:
        try:
            document = Document.model_validate(values)
        except ValidationError as error:
            for loc, message in messages(error):
                if root.get(*loc) is not None or str(loc[-1]) not in faulty:
                    faults.append(_placed(root, loc, message))
                faulty.add(".".join(str(key) for key in _cut(values, loc)))
        else:
            return Sound(root=root, document=document, faulty=frozenset(faulty)), faults


def _tuples(value: Any) -> Any:
    """Lists as the tuples that strict pydantic wants."""
    if isinstance(value, dict):
        return {key: _tuples(child) for key, child in value.items()}
    return tuple(_tuples(child) for child in value) if isinstance(value, list) else value


def _cut(values: dict[str, Any], loc: Loc) -> Loc:
    """Take what is faulty out of `values`, a whole list for one element, all of what lacks a key; return its place."""
    inner: Any = values
    for depth, key in enumerate(loc):
        child = inner.get(key)
        if depth == len(loc) - 1 or not isinstance(child, dict):
            if depth and key not in inner:
                return _cut(values, loc[:depth])
            inner.pop(key, None)
            if depth == 0 and key in _PLACEHOLDERS:
                values[str(key)] = _PLACEHOLDERS[str(key)]
            return loc[: depth + 1]
        inner = child
    return ()


def _placed(root: YamlNode, loc: Loc, message: str) -> Fault:
    node = root.get(*loc)
    if node is not None:
        return node.fault(message)
    parent = root.get(*loc[:-1]) or root
    if isinstance(loc[-1], int):
        return parent.fault(message)
    return parent.key_fault(message, child=loc[-1])


def messages(error: ValidationError) -> Iterator[tuple[Loc, str]]:
    """Each error's place and what to say of it."""
    for detail in error.errors(include_url=False):
        yield tuple(key for key in detail["loc"] if not str(key).startswith(TAG)), _message(detail)


def _message(detail: ErrorDetails) -> str:
    kind, value, loc = detail["type"], detail["input"], detail["loc"]
    not_yet = unsupported_value(tuple(key for key in loc if isinstance(key, str)), value)
    if not_yet:
        return not_yet
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind in ("too_long", "too_short") or (kind == "missing" and isinstance(loc[-1], int)):
        return "give exactly two numbers, [0.9, 0.95]"
    if kind == "missing":
        return _MISSING.get(str(loc[-1]), "missing")
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        if not isinstance(value, str):
            return f"{value_text(value)} doesn't fit here; write one of {', '.join(choices)}"
        hint = did_you_mean(value, choices)
        return f"{value_text(value)} is not known; {hint}"
    return f"{value_text(value)} doesn't fit here; write {_WANTED.get(kind, detail['msg'])}"
