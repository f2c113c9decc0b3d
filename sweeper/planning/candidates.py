"""Configs at their micro-batches in columns: a whole lattice, or what was measured of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.model.shape import FIELDS, Shape
from sweeper.planning.columns import columns_of
from sweeper.planning.estimates import memory_of
from sweeper.planning.feasible import Group, memory_of_all
from sweeper.planning.plan import Plan, PlannedConfigs
from sweeper.values.records import Config, Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[Any]

MOST_ROWS = 1_000_000
"""Of a lattice with more configs, so many are looked at, evenly spaced in its order."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Rows of configs at a micro-batch. `shape` is a Shape of columns.

    `recipes[recipe[row]]` is a row's recipe but for its steps, which are `steps[row]` (0 where minutes are given).
    `memory_bytes` is predicted. `batch_size` is in sequences.
    """

    shape: Shape
    recipes: tuple[Recipe, ...]
    recipe: Column
    steps: Column
    batch_size: Column
    memory_bytes: Column

    def __len__(self) -> int:
        return len(self.recipe)

    @property
    def params(self) -> Column:
        """Parameters of each row, the embeddings' included."""
        return np.asarray(self.shape.params.total)

    def config(self, row: int) -> Config:
        """The config of one row."""
        fields: dict[str, Any] = {name: int(getattr(self.shape, name)[row]) for name in FIELDS}
        fields["tie_embeddings"] = bool(fields["tie_embeddings"])
        recipe, steps = self.recipes[int(self.recipe[row])], int(self.steps[row])
        return Config(shape=Shape(**fields), recipe=replace(recipe, steps=steps) if steps else recipe)

    def take(self, rows: Column) -> Candidates:
        """Those at `rows`, or where a mask says so."""
        return Candidates(
            shape=columns_of(**{name: np.asarray(getattr(self.shape, name))[rows] for name in FIELDS}),
            recipes=self.recipes,
            recipe=self.recipe[rows],
            steps=self.steps[rows],
            batch_size=self.batch_size[rows],
            memory_bytes=self.memory_bytes[rows],
        )

    def without(self, known: Iterable[tuple[Config, int]], *, at_any_batch: bool = False) -> Candidates:
        """All but those configs at those micro-batches, or at whatever micro-batch."""
        known = set(known)
        configs = {config for config, _ in known}
        own = [config.shape for config in configs if isinstance(config.shape, Shape)]
        shapes = {(shape.n_layers, shape.d_model, shape.ffn_hidden) for shape in own}
        keys = _key(*(getattr(self.shape, name) for name in ("n_layers", "d_model", "ffn_hidden")))
        kept = np.ones(len(self), dtype=bool)
        for row in np.flatnonzero(np.isin(keys, [_key(*one) for one in shapes])).tolist():
            config = self.config(row)
            kept[row] = not ((config, int(self.batch_size[row])) in known or (at_any_batch and config in configs))
        return self.take(kept)


def _key(n_layers: Any, d_model: Any, ffn_hidden: Any) -> Any:
    """The same for equal shapes, and for few others."""
    return np.int64(n_layers) * 2**46 + np.int64(d_model) * 2**23 + np.int64(ffn_hidden)


def rows_of(points: Sequence[tuple[Config, int]]) -> Candidates:
    """Configs that our trainer trains, each at its micro-batch. TypeError for one of another kind."""
    recipes: dict[Recipe, int] = {}
    ours = [config.ours for config, _ in points]
    numbers = [recipes.setdefault(replace(recipe, steps=None), len(recipes)) for _, recipe in ours]
    shapes = [shape for shape, _ in ours]
    return Candidates(
        shape=columns_of(**{name: np.array([int(getattr(one, name)) for one in shapes]) for name in FIELDS}),
        recipes=tuple(recipes),
        recipe=np.array(numbers, dtype=np.int64),
        steps=np.array([recipe.steps or 0 for _, recipe in ours], dtype=np.int64),
        batch_size=np.array([batch_size for _, batch_size in points], dtype=np.int64),
        memory_bytes=np.array([memory_of(config, batch_size) for config, batch_size in points], dtype=np.int64),
    )


def of_plan(plan: Plan) -> tuple[Candidates, int]:
    """The lattice's shapes at their micro-batches, and how many are left out of a lattice beyond MOST_ROWS.

    A ladder counts once, at its smallest micro-batch; so does each config where these are more than
    `sweeper.planning.plan.MAX_LISTED`.
    """
    if not isinstance(plan.configs, PlannedConfigs):
        executions = [
            (planned.config, execution.batch_size)
            for planned in plan.configs
            for execution in (planned.executions[:1] if planned.choose == "fastest" else planned.executions)
        ]
        ours = [(config, batch_size) for config, batch_size in executions if isinstance(config.shape, Shape)]
        return rows_of(ours), 0
    groups = plan.configs.groups
    every = -(-sum(map(len, groups)) // MOST_ROWS)
    parts = [_of_group(group, number, every) for number, group in enumerate(groups)]
    whole = Candidates(
        shape=columns_of(**{name: np.concatenate([getattr(p.shape, name) for p in parts]) for name in FIELDS}),
        recipes=tuple(recipe for part in parts for recipe in part.recipes),
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("recipe", "steps", "batch_size", "memory_bytes")
        },
    )
    return whole, sum(map(len, groups)) - len(whole)


def foreign_points(plan: Plan) -> int:
    """How many configs at their micro-batches are of another kind than a shape: a lattice in columns has none."""
    if isinstance(plan.configs, PlannedConfigs):
        return 0
    foreign = [planned for planned in plan.configs if not isinstance(planned.config.shape, Shape)]
    return sum(1 if planned.choose == "fastest" else len(planned.executions) for planned in foreign)


def _of_group(group: Group, number: int, every: int) -> Candidates:
    shapes = group.shapes.take(np.arange(0, len(group), every))
    batch_size, recipe = group.settings.batch_sizes[0], group.settings.common_recipe
    steps = group.steps[::every] if isinstance(group.steps, np.ndarray) else np.full(len(shapes), group.steps or 0)
    return Candidates(
        shape=shapes.shape,
        recipes=(replace(recipe, steps=None),),
        recipe=np.full(len(shapes), number),
        steps=steps,
        batch_size=np.full(len(shapes), batch_size),
        memory_bytes=memory_of_all(shapes.shape, group.settings, batch_size),
    )
