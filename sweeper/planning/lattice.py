"""The lattice of a study: every combination of its axes and shapes, each a config or a reason to drop it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from model.shape import Shape, ShapeError, derive
from sweeper.errors import UsageError
from sweeper.planning.constraints import Constraints
from sweeper.planning.memory import rungs_within, too_large
from sweeper.planning.solver import Drop, Window, solve
from sweeper.planning.tokens import TrialSettings, reference_tokens, settle, with_axes
from sweeper.records import Config
from sweeper.study.schema import ShapeFields, Solve, Study

BUDGET_RULE = "budget.params"

_PRESET_TRIAL = ("batch_size", "grad_accum_steps")
"""What a shape that comes from a preset may carry beside its shape fields."""

_UNKNOWN = 0
"""Stands for the value of a solved axis until it is solved; no field may have it."""

_Key = tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """A feasible point: a config at a micro-batch of so many sequences, or at the fastest of several, ascending."""

    config: Config
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True)
class _Broken:
    """A shape that breaks a head rule, whatever its budget says."""

    drop: Drop


@dataclass
class Lattice:
    """The points of `study`, made one at a time; shapes and trial settings that recur are worked out once.

    A point is dropped for the first rule it fails: head rules, then those of the trial, then the parameter budget,
    then the study's constraints in their order, then the memory.
    Raises UsageError where the study can't be planned at all.
    """

    study: Study
    window: Window | None = field(init=False)

    def __post_init__(self) -> None:
        budget = self.study.budget.params
        self.window = None if budget is None else Window.of(budget)
        axes = self.study.axes
        solved = [name for name, axis in axes.items() if isinstance(axis, Solve)]
        if len(solved) > 1:
            raise UsageError(f"axes.{solved[1]}: only one axis can be solved, and {solved[0]} is")
        if solved and self.window is None:
            raise UsageError(f"axes.{solved[0]}: solve: params needs budget.params")
        self._solved = solved[0] if solved else None
        self._values = {name: (_UNKNOWN,) if isinstance(axis, Solve) else axis for name, axis in axes.items()}
        self._names = tuple(self._values)
        self._shapes: tuple[Mapping[str, Any], ...] = self.study.shapes or ({},)
        self._trial = self.study.trial.model_dump()
        self._reference = reference_tokens(self.study.trial, axes)
        self._trials: dict[_Key, TrialSettings | Drop] = {}
        self._constraints = Constraints(self.study.constraints)

    @property
    def size(self) -> int:
        """How many points there are; a solved axis counts once per combination of the others."""
        return len(self._shapes) * math.prod(len(values) for values in self._values.values())

    def __iter__(self) -> Iterator[Point | Drop]:
        """Shapes in their order, and for each the axes crossed in theirs, the last varying fastest."""
        shape_at = [i for i, name in enumerate(self._names) if name in ShapeFields.model_fields]
        trial_at = [i for i, name in enumerate(self._names) if name not in ShapeFields.model_fields]
        for listed in self._shapes:
            known: dict[_Key, Shape | Drop | _Broken] = {}
            for values in product(*self._values.values()):
                key = tuple([values[i] for i in shape_at])
                shape = known.get(key)
                if shape is None:
                    shape = known[key] = self._shape(listed, {self._names[i]: values[i] for i in shape_at})
                if isinstance(shape, _Broken):
                    yield shape.drop
                else:
                    trial = self._settings(listed, {self._names[i]: values[i] for i in trial_at})
                    yield self._point(shape, trial)

    def _point(self, shape: Shape | Drop, trial: TrialSettings | Drop) -> Point | Drop:
        if isinstance(trial, Drop):
            return trial
        if isinstance(shape, Drop):
            return shape
        config, cap = Config(shape=shape, recipe=trial.recipe(shape)), self.study.budget.memory
        if broken := self._constraints.first_broken(config):
            return broken
        if cap is None:
            return Point(config, trial.batch_sizes)
        batch_sizes = rungs_within(cap, config, trial.batch_sizes)
        return Point(config, batch_sizes) if batch_sizes else too_large(cap, config, trial.batch_sizes[0])

    def _settings(self, listed: Mapping[str, Any], axes: Mapping[str, Any]) -> TrialSettings | Drop:
        preset = {name: listed[name] for name in _PRESET_TRIAL if name in listed}
        key = (*preset.items(), *axes.values())
        known = self._trials.get(key)
        if known is None:
            known = self._trials[key] = settle(with_axes(self._trial, {**preset, **axes}), reference=self._reference)
        return known

    def _shape(self, listed: Mapping[str, Any], axes: Mapping[str, Any]) -> Shape | Drop | _Broken:
        own = {name: value for name, value in listed.items() if name not in _PRESET_TRIAL}
        fields = {**self.study.model, **own, **axes}
        for name in ("n_layers", "d_model", "vocab_size"):
            if fields.get(name) is None:
                raise UsageError(f"model.{name}: missing; give it in model, in axes, or in each of shapes")
        fields["tie_embeddings"] = bool(fields.get("tie_embeddings"))
        try:
            return self._within_budget(fields)
        except ShapeError as error:
            message = str(error)
            return _Broken(Drop(reason=error.rule, message=lambda: message))

    def _within_budget(self, fields: Mapping[str, Any]) -> Shape | Drop:
        window = self.window
        rule = self.study.axes.get(self._solved or "")
        if self._solved is not None and isinstance(rule, Solve) and window is not None:
            return solve(self._solved, fields, rule, window)
        shape = derive(fields)
        if window is None or window.holds(window.counted(shape)):
            return shape
        return Drop(reason=BUDGET_RULE, message=lambda: _outside(shape, window))


def _outside(shape: Shape, window: Window) -> str:
    params = window.counted(shape)
    message = (
        f"n_layers {shape.n_layers}, d_model {shape.d_model}, ffn_hidden {shape.ffn_hidden} has {params:,} "
        f"parameters ({window.count}), the budget allows {window}"
    )
    if window.low is None or window.high is None:
        return message
    near = []
    for name, multiple in (("n_layers", 1), ("ffn_hidden", 16)):
        solved = solve(name, shape.to_dict(), Solve(solve="params", multiple_of=multiple), window)
        if isinstance(solved, Shape):
            near.append(f"{name} {getattr(solved, name)} ({window.counted(solved):,})")
    return f"{message}: {' or '.join(near)} would fit" if near else message
