"""YAML text → a tree of values that know their place, with YAML 1.2's idea of numbers and booleans.

PyYAML's scanner and composer do the reading; scalars are resolved here, since PyYAML follows YAML 1.1, where
`1e-4` is text and `off` is false.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from sweeper.values.errors import Fault

MAX_CHARACTERS = 256 * 1024
MAX_VALUES = 20_000
MAX_DEPTH = 20

Scalar = str | int | float | bool | None
LineColumn = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class YamlNode:
    """A value with its place: `at` is the value's (line, column), `key_at` that of the key it stands under.

    `path` is like `profiles.cpu.trial.tokens`; `text` is a scalar as written.
    """

    file: str
    path: str
    at: LineColumn
    key_at: LineColumn
    value: Scalar | dict[str, YamlNode] | list[YamlNode]
    text: str = ""

    def fault(self, message: str) -> Fault:
        """A fault of the value."""
        line, column = self.at
        return Fault(file=self.file, line=line, column=column, path=self.path, message=message)

    def key_fault(self, message: str, *, child: str = "") -> Fault:
        """A fault of the key, or of a `child` that is missing under it."""
        line, column = self.key_at
        path = dotted(self.path, child) if child else self.path
        return Fault(file=self.file, line=line, column=column, path=path, message=message)

    def get(self, *keys: str | int) -> YamlNode | None:
        """The node under `keys`, or None."""
        node: YamlNode | None = self
        for key in keys:
            if isinstance(node, YamlNode) and isinstance(node.value, dict) and isinstance(key, str):
                node = node.value.get(key)
            elif isinstance(node, YamlNode) and isinstance(node.value, list) and isinstance(key, int):
                node = node.value[key] if key < len(node.value) else None
            else:
                return None
        return node

    def items(self) -> dict[str, YamlNode]:
        """The children of a mapping; none for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    def elements(self) -> list[YamlNode]:
        """The children of a list; none for anything else."""
        return self.value if isinstance(self.value, list) else []

    def with_items(self, items: dict[str, YamlNode]) -> YamlNode:
        """The same place with other children."""
        return replace(self, value=items)


def dotted(path: str, key: str) -> str:
    """`path.key`."""
    return f"{path}.{key}" if path else key


def plain(node: YamlNode) -> Any:
    """The values alone: dicts, lists and scalars."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


class _Loader(yaml.SafeLoader):
    """Leaves scalars unresolved: plain and quoted ones are told apart, a tag that was written stays."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        del value  # the form alone decides
        if kind is yaml.ScalarNode:
            return "plain" if implicit[0] else "quoted"
        return "collection"


_HINTS = (
    ("'\\t'", "indent with spaces, not tabs"),
    ("mapping values are not allowed", "put text that holds ': ' in quotes, or mend the indentation"),
    ("<stream end>", "a bracket or brace is not closed"),
    ("end of stream", "a quote is not closed"),
    ("single document", "a study is one document: take out the ---"),
    ("undefined alias", "an alias *name needs its anchor &name before it; text with * needs quotes"),
    ("cannot start any token", "put this text in quotes"),
    ("expected <block end>", "mend the indentation"),
    ("expected ',' or", "a comma or a closing bracket is missing"),
    ("could not find expected ':'", "write key: value"),
)


def parse(text: str, *, file: str, path: str = "", at: LineColumn | None = None) -> tuple[YamlNode | None, list[Fault]]:
    """The tree of `text`, None for an empty one or one that isn't YAML, and the faults of its form.

    `path` is put before each node's path; `at` replaces every place (for text that isn't in a file).
    """
    reader = _Reader(file=file, at=at)
    if len(text) > MAX_CHARACTERS:
        return None, [reader.fault((1, 1), path, f"more than {MAX_CHARACTERS} characters; a study is short")]
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        return None, [reader.syntax_fault(error, path)]
    except yaml.reader.ReaderError as error:
        place = _place_of(text, error.position)
        message = f"not valid YAML: character {error.character!r} may not stand in a file; take it out"
        return None, [reader.fault(place, path, message)]
    except RecursionError:
        return None, [reader.fault((1, 1), path, f"nested too deeply; at most {MAX_DEPTH} levels")]
    except (ValueError, OverflowError) as error:
        # PyYAML lets a few of Python's own errors through, as for the escape "\UFFFFFFFF".
        return None, [reader.fault((1, 1), path, f"not valid YAML: {error}")]
    if root is None:
        return None, []
    node = reader.node(root, path=path, key=None)
    return (node if reader.whole else None), reader.faults


def _place_of(text: str, position: int) -> LineColumn:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


@dataclass(kw_only=True)
class _Reader:
    """Turns PyYAML's nodes into ours and collects the faults of their form."""

    file: str
    at: LineColumn | None
    faults: list[Fault] = field(default_factory=list)
    whole: bool = True
    _open: list[int] = field(default_factory=list)
    _values: int = 0
    _top: tuple[LineColumn, str] = ((1, 1), "")

    def fault(self, place: LineColumn, path: str, message: str) -> Fault:
        line, column = self.at or place
        return Fault(file=self.file, line=line, column=column, path=path, message=message)

    def syntax_fault(self, error: yaml.MarkedYAMLError, path: str) -> Fault:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        said = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        hint = next((hint for sign, hint in _HINTS if sign in said), "")
        return self.fault(place, path, f"not valid YAML: {said}" + (f"; {hint}" if hint else ""))

    def node(self, source: yaml.Node, *, path: str, key: LineColumn | None) -> YamlNode:
        place = self.at or (source.start_mark.line + 1, source.start_mark.column + 1)
        made = YamlNode(file=self.file, path=path, at=place, key_at=key or place, value=None)
        problem = self._problem(source)
        if problem:
            self.faults.append(made.fault(problem))
            return made
        self._count()
        self._open.append(id(source))
        try:
            if isinstance(source, yaml.MappingNode):
                return made.with_items(self._items(source, path))
            if isinstance(source, yaml.SequenceNode):
                return replace(made, value=self._elements(source, path))
            value = source.value if source.tag == "quoted" else resolved(source.value)
            return replace(made, value=value, text=source.value)
        finally:
            self._open.pop()

    def _count(self) -> None:
        """Aliases of aliases can stand for more values than there are atoms: stop, and say under which key."""
        self._values += 1
        if self._values > MAX_VALUES and self.whole:
            self.whole = False
            message = f"this makes more than {MAX_VALUES} values; write it without aliases of aliases"
            self.faults.append(self.fault(*self._top, message))

    def _problem(self, source: yaml.Node) -> str | None:
        if id(source) in self._open:
            return "an alias of what it stands in; write the values out"
        if len(self._open) >= MAX_DEPTH:
            return f"nested too deeply; at most {MAX_DEPTH} levels"
        if source.tag not in ("plain", "quoted", "collection"):
            tag = source.tag.replace("tag:yaml.org,2002:", "!!")
            return f"tags like {tag} are not supported; write the plain value"
        if isinstance(source, yaml.ScalarNode) and any("\ud800" <= char <= "\udfff" for char in source.value):
            return "half a surrogate pair is no text; take it out"
        return None

    def _elements(self, source: yaml.SequenceNode, path: str) -> list[YamlNode]:
        elements = []
        for index, child in enumerate(source.value):
            if not self.whole:
                break
            elements.append(self.node(child, path=f"{path}[{index}]", key=None))
        return elements

    def _items(self, source: yaml.MappingNode, path: str) -> dict[str, YamlNode]:
        items: dict[str, YamlNode] = {}
        for key, child in source.value:
            if not self.whole:
                break
            place = self.at or (key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode) or self._problem(key):
                self.faults.append(self.fault(place, path, "this key is no plain word; write key: value"))
                continue
            name = str(key.value)
            own = dotted(path, name)
            self._top = (place, own) if len(self._open) == 1 else self._top
            if name == "<<" and key.tag == "plain":
                message = "merge keys are not supported; repeat the fields, or use a profile"
                self.faults.append(self.fault(place, own, message))
            elif name in items:
                line, column = items[name].key_at
                message = f"given twice, first at {line}:{column}; keep one"
                self.faults.append(self.fault(place, own, message))
            else:
                items[name] = self.node(child, path=own, key=place)
        return items


_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def resolved(text: str) -> Scalar:
    """The value of a plain scalar by YAML 1.2's core schema, and `1_000` as an int."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 60 or not text.isascii():
        return text
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _BASED.fullmatch(text):
        return int(text, 0)
    return float(text.replace("_", "")) if _FLOAT.fullmatch(text) else text
