"""What a config is of: a shape that our trainer builds, a module of somebody's own, or somebody's own training script.

Rooms ask a config's `shape` for what `Kind` has, whichever it is; who needs more of a Shape asks with isinstance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from sweeper.model.shape import Params, Shape

Value = int | float | str | bool
"""Of an axis."""


class Kind(Protocol):
    """What any of the kinds tells of itself."""

    @property
    def params(self) -> Params:
        """Its parameters."""

    def fields(self) -> dict[str, Any]:
        """What makes it: names and plain values."""

    def flops_per_token(self, seq_len: int | None) -> int | None:
        """FLOPs of forward and backward for one token; None where they aren't known. `seq_len` is the recipe's."""

    def label(self) -> str:
        """What it's called in a sentence, by itself."""


@dataclass(frozen=True, kw_only=True)
class _Foreign:
    """What isn't ours to build: its `name`, a `fingerprint` of its code, and where it lies on the study's axes.

    Its parameters and FLOPs per token are what its study says of it: they follow from the rest and identify nothing.
    """

    key: ClassVar[str]
    name: str
    fingerprint: str
    axes: tuple[tuple[str, Value], ...]
    params: Params = field(compare=False)
    train_flops_per_token: int | None = field(default=None, compare=False)

    def fields(self) -> dict[str, Any]:
        """Its axes."""
        return dict(self.axes)

    def flops_per_token(self, seq_len: int | None) -> int | None:
        """What the study says; `seq_len` is in it already."""
        return self.train_flops_per_token

    def label(self) -> str:
        """Like "nanoGPT with n_layer 6, n_embd 384"."""
        axes = ", ".join(f"{name} {value}" for name, value in self.axes)
        return f"{self.name} with {axes}" if axes else self.name

    def to_dict(self) -> dict[str, Any]:
        """`{"name", "fingerprint", "axes": {name: value}}`: what identifies it, as plain JSON values."""
        return {"name": self.name, "fingerprint": self.fingerprint, "axes": self.fields()}


@dataclass(frozen=True, kw_only=True)
class Architecture(_Foreign):
    """Somebody's own module, which our loop trains: its config has a recipe."""

    key: ClassVar[str] = "architecture"


@dataclass(frozen=True, kw_only=True)
class Program(_Foreign):
    """Somebody's own training script: all that it goes by is its axes, so that its config has no recipe."""

    key: ClassVar[str] = "program"


AnyKind = Shape | Architecture | Program
_FOREIGN: Mapping[str, type[Architecture] | type[Program]] = {kind.key: kind for kind in (Architecture, Program)}


def kind_dict(kind: AnyKind) -> dict[str, Any]:
    """The kind as a config, a point and a record have it: under "shape", "architecture" or "program"."""
    return {"shape": kind.to_dict()} if isinstance(kind, Shape) else {kind.key: kind.to_dict()}


def kind_facts(kind: AnyKind) -> dict[str, Any]:
    """What of a kind doesn't follow from `kind_dict`, and goes beside it; nothing of a shape."""
    if isinstance(kind, Shape):
        return {}
    facts = {"params": {name: getattr(kind.params, name) for name in kind.params.__dataclass_fields__}}
    flops = kind.train_flops_per_token
    return {**facts, **({} if flops is None else {"train_flops_per_token": flops})}


def kind_from(plain: Mapping[str, Any]) -> AnyKind:
    """The inverse of `kind_dict` and `kind_facts`. Raises KeyError, TypeError where `plain` has no kind."""
    for key, foreign in _FOREIGN.items():
        if key in plain:
            own = plain[key]
            return foreign(
                name=own["name"],
                fingerprint=own["fingerprint"],
                axes=tuple(own["axes"].items()),
                params=Params(**plain["params"]),
                train_flops_per_token=plain.get("train_flops_per_token"),
            )
    return Shape(**plain["shape"])


def kind_fields(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What `kind_dict` has of a kind that tells it from others: a shape's fields; else its axes, with its name."""
    for key in _FOREIGN:
        if key in plain:
            return {**plain[key]["axes"], key: plain[key]["name"]}
    return dict(plain["shape"])
