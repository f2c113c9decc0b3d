"""Axes: each written form becomes the values it stands for, each value checked like its field."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from sweeper.study.keys import did_you_mean
from sweeper.study.layers import SHAPE_AXES
from sweeper.study.nodes import YamlNode, plain
from sweeper.study.schema import EMBEDDED_DATA, OptimizerFields, ShapeFields, Solve, Trial, Values
from sweeper.study.sizes import Whole, value_text
from sweeper.study.unsupported import unsupported_value
from sweeper.study.validation import messages
from sweeper.values.errors import Fault

MAX_VALUES = 10_000
SOLVABLE = ("ffn_hidden", "d_model", "n_layers")
LIST_ONLY = (
    "tie_embeddings", "precision", "fp8_backend", "fp8_filter", "data", "optimizer.betas", "optimizer.name",
    "optimizer.parametrization",
)  # fmt: skip
_NO_LADDER = "a ladder is no axis; write trial: {batch_size: {fastest: [4, 8]}}"
_FORMS = "write a list, {from:, to:, step:} or {from:, to:, log: count}"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis as expanded; `nodes` has the place of each value."""

    values: Values | Solve
    nodes: tuple[YamlNode, ...]


class WrongValueError(Exception):
    """An axis that can't be expanded, with its faults."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__()
        self.faults = faults


def expand(axes: YamlNode) -> tuple[Mapping[str, Axis], list[Fault]]:
    """The sound axes under `axes`, and the faults of the others."""
    expanded: dict[str, Axis] = {}
    faults: list[Fault] = []
    for name, node in axes.items().items():
        try:
            expanded[name] = _axis(name, node)
        except WrongValueError as wrong:
            faults += wrong.faults
    return expanded, faults


def _axis(name: str, node: YamlNode) -> Axis:
    if isinstance(node.value, list):
        return _listed(name, node)
    if not isinstance(node.value, dict):
        raise WrongValueError(
            node.fault(f"{value_text(node.value)} is no list; {_FORMS}, or fix it under {_home(name)}")
        )
    if name == "batch_size" and "fastest" in node.value:
        raise WrongValueError(node.fault(_NO_LADDER))
    if "solve" in node.value:
        return Axis(values=_solve(name, node), nodes=(node,))
    if name in LIST_ONLY:
        raise WrongValueError(node.fault("a mapping doesn't fit here; write a list"))
    values = _Range(name=name, node=node).values()
    return Axis(values=values, nodes=(node,) * len(values))


def _home(name: str) -> str:
    return "model" if name in SHAPE_AXES else "trial"


def _owner(name: str) -> tuple[type[BaseModel], str, tuple[str, ...]]:
    if name in SHAPE_AXES:
        return ShapeFields, name, ("model",)
    if name.startswith("optimizer."):
        return OptimizerFields, name.removeprefix("optimizer."), ("trial", "optimizer")
    return Trial, name, ("trial",)


def field_value(name: str, node: YamlNode) -> Any:
    """One value of an axis, checked like the field that the axis stands for. Raises WrongValueError."""
    model, key, above = _owner(name)
    value = plain(node)
    if value is None:
        raise WrongValueError(node.fault("null is no value of an axis; take it out"))
    if name == "data" and value not in EMBEDDED_DATA:
        hint = did_you_mean(str(value), EMBEDDED_DATA)
        raise WrongValueError(node.fault(f"as an axis only embedded data is supported yet; {hint}"))
    not_yet = unsupported_value((*above, key), value)
    if not_yet:
        raise WrongValueError(node.fault(not_yet))
    if name == "batch_size" and isinstance(value, dict):
        raise WrongValueError(node.fault(_NO_LADDER))
    try:
        made = model.model_validate({key: tuple(value) if isinstance(value, list) else value})
    except ValidationError as error:
        raise WrongValueError(*(node.fault(message) for _, message in messages(error))) from None
    return getattr(made, key)


def _listed(name: str, node: YamlNode) -> Axis:
    if not node.elements():
        raise WrongValueError(node.fault(f"an empty list; {_FORMS}"))
    if len(node.elements()) > MAX_VALUES:
        raise WrongValueError(node.fault(f"{len(node.elements())} values; at most {MAX_VALUES}"))
    values: dict[Any, YamlNode] = {}
    faults: list[Fault] = []
    for element in node.elements():
        try:
            value = field_value(name, element)
        except WrongValueError as wrong:
            faults += wrong.faults
            continue
        if value in values:
            faults.append(element.fault(f"{value_text(plain(element))} is in the list already; take it out"))
        else:
            values[value] = element
    if faults:
        raise WrongValueError(*faults)
    return Axis(values=tuple(values), nodes=tuple(values.values()))


def _solve(name: str, node: YamlNode) -> Solve:
    if name not in SOLVABLE:
        raise WrongValueError(node.fault(f"only {', '.join(SOLVABLE)} can be solved; {_FORMS}"))
    unknown = {key: child for key, child in node.items().items() if key not in Solve.model_fields}
    faults = [
        child.key_fault(f"unknown key; {did_you_mean(key, Solve.model_fields)}") for key, child in unknown.items()
    ]
    values = {key: plain(child) for key, child in node.items().items() if key not in unknown}
    try:
        solve = Solve.model_validate(values)
    except ValidationError as error:
        for loc, message in messages(error):
            faults.append((node.get(*loc) or node).fault(message))
        raise WrongValueError(*faults) from None
    if faults:
        raise WrongValueError(*faults)
    if solve.min is not None and solve.max is not None and solve.min > solve.max:
        raise WrongValueError(node.items()["max"].fault(f"max {solve.max} is below min {solve.min}; swap them"))
    return solve


@dataclass(kw_only=True)
class _Range:
    """`{from, to, step}` or `{from, to, log}`; `to` is a value too where the steps land on it."""

    name: str
    node: YamlNode
    faults: list[Fault] = field(default_factory=list)

    def values(self) -> Values:
        for key, child in self.node.items().items():
            if key not in ("from", "to", "step", "log"):
                hint = did_you_mean(key, ("from", "to", "step", "log"))
                self.faults.append(child.key_fault(f"unknown key; {hint}"))
        for key in ("from", "to"):
            if key not in self.node.items():
                self.faults.append(self.node.key_fault("missing; a range is {from:, to:, step:}", child=key))
        second = [self.node.items()[key] for key in ("step", "log") if key in self.node.items()][1:]
        self.faults += [node.key_fault("step and log are both given; keep one of the two") for node in second]
        start, end = self._read("from", self._field), self._read("to", self._field)
        step, count = self._read("step", self._field), self._read("log", Whole(high=MAX_VALUES).parse)
        if start is not None and end is not None and start > end:
            self.faults.append(self.node.items()["to"].fault(f"to is below from {start}; swap them"))
        if step is not None and step <= 0:
            self.faults.append(self.node.items()["step"].fault("0 is too small; a step is above 0"))
        if self.faults:
            raise WrongValueError(*self.faults)
        values = self._geometric(start, end, count) if count else self._arithmetic(start, end, step)
        return tuple(dict.fromkeys(values))

    def _field(self, value: Any) -> Any:
        model, key, _ = _owner(self.name)
        if key == "batch_size" and isinstance(value, dict):
            raise ValueError(_NO_LADDER)
        try:
            return getattr(model.model_validate({key: value}), key)
        except ValidationError as error:
            raise ValueError("; ".join(message for _, message in messages(error))) from None

    def _read(self, key: str, parse: Callable[[Any], Any]) -> Any:
        child = self.node.items().get(key)
        if child is None:
            return None
        try:
            return parse(plain(child))
        except ValueError as error:
            self.faults.append(child.fault(str(error)))
            return None

    def _arithmetic(self, start: Any, end: Any, step: Any) -> list[Any]:
        if step is None:
            if isinstance(start, float):
                raise WrongValueError(self.node.key_fault("missing; give step, or log: count", child="step"))
            step = 1
        count = math.floor((end - start) / step * (1 + 1e-12) + 1e-9) + 1
        if count > MAX_VALUES:
            raise WrongValueError(self.node.fault(f"{count} values; at most {MAX_VALUES}: take a larger step"))
        return [self._tidy(start + index * step) for index in range(count)]

    def _geometric(self, start: Any, end: Any, count: int) -> list[Any]:
        if start <= 0:
            raise WrongValueError(self.node.items()["from"].fault(f"{start} has no logarithm; start above 0"))
        if count == 1 and start != end:
            raise WrongValueError(self.node.items()["log"].fault("one value can't be both from and to; at least 2"))
        ratio = end / start
        inner = [start * ratio ** (index / (count - 1)) for index in range(1, count - 1)]
        whole = isinstance(start, int)
        return [start, *(round(value) if whole else self._tidy(value) for value in inner), end][:count]

    @staticmethod
    def _tidy(value: Any) -> Any:
        """0.1 + 2 × 0.1 as 0.3."""
        return float(f"{value:.12g}") if isinstance(value, float) else value
