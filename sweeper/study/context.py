"""What the rules between fields look at: a study under one profile, and which of its layers to blame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.study.axes import Axis
from sweeper.study.layers import place_of_axis
from sweeper.study.nodes import YamlNode
from sweeper.study.schema import Document, Ladder, Solve
from sweeper.study.validation import Sound
from sweeper.values.errors import Fault

Faults = Iterator[Fault]


@dataclass(frozen=True, kw_only=True)
class Context:
    """A study under one profile, as far as it is sound.

    `folder` is that of its file; `data_must_exist` is False for a study that is only looked back at. `data_fault` says
    what is wrong with data at a path, "" where nothing is.
    """

    sound: Sound
    axes: Mapping[str, Axis]
    folder: Path
    data_must_exist: bool = True
    data_fault: Callable[[str], str] = lambda path: ""

    @property
    def document(self) -> Document:
        """The values."""
        return self.sound.document

    def node(self, *path: str) -> YamlNode | None:
        """The node at `path`, if the study has one."""
        return self.sound.root.get(*path)

    def blamed(self, *paths: tuple[str, ...]) -> YamlNode:
        """The node among `paths` that was written last: under --set, else in the profile, else the first."""
        nodes = [node for path in paths if (node := self.node(*path)) is not None]
        return max(nodes, key=layer_of) if nodes else self.sound.root

    def options(self, name: str) -> list[tuple[Any, YamlNode | None]]:
        """The values that a field of the trial takes, as an axis, a ladder or fixed, each with its node."""
        if name in self.axes:
            axis = self.axes[name]
            values = () if isinstance(axis.values, Solve) else axis.values
            return list(zip(values, axis.nodes, strict=False))
        place = place_of_axis(name)
        value: Any = self.document
        for key in place:
            value = getattr(value, key)
        node = self.node(*place)
        if isinstance(value, Ladder):
            rungs = node.get("fastest") if node else None
            return list(zip(value.fastest, rungs.elements() if rungs else (), strict=False))
        return [(value, node)]


def layer_of(node: YamlNode) -> int:
    """2 for what was written under --set, 1 in a profile, 0 in the study itself."""
    if node.file == "--set":
        return 2
    return 1 if node.path.startswith("profiles.") else 0


def either(*names: str) -> tuple[str, ...]:
    """Where fields of the trial may stand, fixed or as axes."""
    return tuple(f"{place}.{name}" for name in names for place in ("trial", "axes"))
