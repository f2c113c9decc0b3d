"""The lattice of a study: every combination of its axes and shapes, each a config or a reason to drop it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeper.model.shape import Shape, ShapeError, derive
from sweeper.planning.constraints import Constraints
from sweeper.planning.memory import Cap, rungs_within, too_large
from sweeper.planning.solver import Drop, Window, solve
from sweeper.planning.tokens import TrialSettings, reference_tokens, settle, with_axes
from sweeper.study.schema import ShapeFields, Solve, Study
from sweeper.values.errors import UsageError
from sweeper.values.records import Config

BUDGET_RULE = "budget.params"

_PRESET_TRIAL = ("batch_size", "grad_accum_steps")
"""What a shape that comes from a preset may carry beside its shape fields."""

_UNKNOWN = 0
"""Stands for the value of a solved axis until it is solved; no field may have it."""

_Key = tuple[Any, ...]


@dataclass(frozen=True)
class LatticePoint:
    """A feasible point: a config at a micro-batch of so many sequences, or at the fastest of several, ascending."""

    config: Config
    batch_sizes: tuple[int, ...]


@dataclass
class Lattice:
    """The points of `study`, by index: its shapes in their order, and for each the axes crossed in theirs.

    The last axis varies fastest. A point is dropped for the first rule it fails: head rules, then those of the trial,
    then the parameter budget, then the study's constraints in their order, then the memory. `at` works one point out;
    `sweeper.planning.feasible` all of them.
    `beside_bytes` is what lies on a trial's device beside its tensors, which `budget.memory` has to hold too.
    Raises UsageError where the study can't be planned at all.
    """

    study: Study
    beside_bytes: int = 0
    window: Window | None = field(init=False)
    solved: str | None = field(init=False)
    rule: Solve | None = field(init=False)
    values: Mapping[str, tuple[Any, ...]] = field(init=False)
    strides: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        budget = self.study.budget.params
        self.window = None if budget is None else Window.of(budget)
        axes = self.study.axes
        rules = {name: axis for name, axis in axes.items() if isinstance(axis, Solve)}
        if len(rules) > 1:
            first, second, *_ = rules
            raise UsageError(f"axes.{second}: only one axis can be solved, and {first} is")
        self.solved, self.rule = next(iter(rules.items()), (None, None))
        if self.solved and self.window is None:
            raise UsageError(f"axes.{self.solved}: solve: params needs budget.params")
        self.values = {name: (_UNKNOWN,) if isinstance(axis, Solve) else axis for name, axis in axes.items()}
        lengths = [len(values) for values in self.values.values()]
        self.strides = {name: math.prod(lengths[place + 1 :]) for place, name in enumerate(self.values)}
        self.shapes: tuple[Mapping[str, Any], ...] = self.study.shapes or ({},)
        self._block = math.prod(lengths)
        self._trial = self.study.trial.model_dump()
        self._reference = reference_tokens(self.study.trial, axes)
        self._trials: dict[_Key, TrialSettings | Drop] = {}
        self._known: dict[_Key, Shape | Drop] = {}
        self.constraints = Constraints(self.study.constraints)

    @property
    def cap(self) -> Cap | None:
        """On the memory of a trial; None without one."""
        memory = self.study.budget.memory
        return None if memory is None else Cap(memory_bytes=memory, beside_bytes=self.beside_bytes)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the axes, in their order."""
        return tuple(self.values)

    @property
    def size(self) -> int:
        """How many points there are; a solved axis counts once per combination of the others."""
        return len(self.shapes) * self._block

    @property
    def budget_rule(self) -> str:
        """The reason for dropping what misses the parameter budget."""
        return BUDGET_RULE if self.solved is None else f"solve {self.solved}"

    def first_index(self, listed: int) -> int:
        """Of the points with one of `shapes`."""
        return listed * self._block

    def at(self, index: int) -> LatticePoint | Drop:
        """The point of that index, or why it is dropped."""
        shape, trial = self.shape_at(index), self.settings_at(index)
        if isinstance(shape, Drop) and shape.of_heads:
            return shape
        if isinstance(trial, Drop):
            return trial
        if isinstance(shape, Drop):
            return shape
        config, cap = Config(shape=shape, recipe=trial.recipe(shape)), self.cap
        if broken := self.constraints.first_broken(config):
            return broken
        if cap is None:
            return LatticePoint(config, trial.batch_sizes)
        batch_sizes = rungs_within(cap, config, trial.batch_sizes)
        return LatticePoint(config, batch_sizes) if batch_sizes else too_large(cap, config, trial.batch_sizes[0])

    def shape_at(self, index: int) -> Shape | Drop:
        """The shape of a point, or why it has none: by the head rules and the parameter budget."""
        listed, axes = self._coordinates(index, of_shape=True)
        key = (listed, *axes.values())
        if self._known.get(key) is None:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known[key] = self._shape({**self.base_fields(listed), **axes})
        return self._known[key]

    def settings_at(self, index: int) -> TrialSettings | Drop:
        """The trial's settings at a point, or the rule of the trial that they break."""
        listed, axes = self._coordinates(index, of_shape=False)
        preset = {name: self.shapes[listed][name] for name in _PRESET_TRIAL if name in self.shapes[listed]}
        key = (*preset.items(), *axes.values())
        known = self._trials.get(key)
        if known is None:
            known = self._trials[key] = settle(with_axes(self._trial, {**preset, **axes}), reference=self._reference)
        return known

    def base_fields(self, listed: int) -> dict[str, Any]:
        """The shape fields of one of `shapes` that no axis sets. Raises UsageError where there are too few."""
        own = {name: value for name, value in self.shapes[listed].items() if name not in _PRESET_TRIAL}
        fields = {**self.study.model, **own}
        for name in ("n_layers", "d_model", "vocab_size"):
            if fields.get(name) is None and name not in self.values:
                raise UsageError(f"model.{name}: missing; give it in model, in axes, or in each of shapes")
        return {**fields, "tie_embeddings": bool(fields.get("tie_embeddings"))}

    def _coordinates(self, index: int, *, of_shape: bool) -> tuple[int, dict[str, Any]]:
        """Which of `shapes`, and the values of the axes that are fields of a shape, or of the others."""
        listed, rest = divmod(index, self._block)
        wanted = [name for name in self.values if (name in ShapeFields.model_fields) == of_shape]
        return listed, {name: self.values[name][rest // self.strides[name] % len(self.values[name])] for name in wanted}

    def _shape(self, fields: Mapping[str, Any]) -> Shape | Drop:
        window = self.window
        try:
            if self.solved is not None and self.rule is not None and window is not None:
                return solve(self.solved, fields, self.rule, window)
            shape = derive(fields)
        except ShapeError as error:
            message = str(error)
            return Drop(reason=error.rule, message=lambda: message, of_heads=True)
        if window is None or window.holds(window.counted(shape)):
            return shape
        return Drop(reason=BUDGET_RULE, message=lambda: _outside(shape, window))


_MOST_KNOWN = 10_000
"""Shapes that are kept, as points that differ in their trial alone follow one another."""


def _outside(shape: Shape, window: Window) -> str:
    params = window.counted(shape)
    message = f"{shape.label()} has {params:,} parameters ({window.count}), the budget allows {window}"
    if window.low is None or window.high is None:
        return message
    near = []
    for name, multiple in (("n_layers", 1), ("ffn_hidden", 16)):
        solved = solve(name, shape.to_dict(), Solve(solve="params", multiple_of=multiple), window)
        if isinstance(solved, Shape):
            near.append(f"{name} {getattr(solved, name)} ({window.counted(solved):,})")
    return f"{message}: {' or '.join(near)} would fit" if near else message
