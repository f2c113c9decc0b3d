"""The feasible points of a lattice, all at once, and why the others aren't: see `sweeper.planning.columns`.

What each figure means, and how a single point is judged, is said by `Lattice.at`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sweeper.model.shape import FIELDS, Shape
from sweeper.planning.columns import Shapes, ShapeTable, columns_of
from sweeper.planning.estimates import memory_bytes
from sweeper.planning.lattice import Lattice
from sweeper.planning.memory import MEMORY_RULE
from sweeper.planning.solver import Drop
from sweeper.planning.tokens import TrialSettings, whole_steps
from sweeper.study.schema import ShapeFields

if TYPE_CHECKING:
    from sweeper.planning.columns import Column

DUPLICATE = "same config as another point"
"""The reason for dropping a point whose config and micro-batch an earlier one has."""


@dataclass
class Tally:
    """Points dropped, by reason, and of each reason the first in the lattice's order."""

    points: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str, index: Column, each: Column | int = 1) -> None:
        """So many points at or after each `index`."""
        if not len(index):
            return
        self.points[reason] = self.points.get(reason, 0) + _number(index, each)
        self.first[reason] = min(int(index.min()), self.first.get(reason, int(index.min())))

    def commonest_first(self) -> dict[str, int]:
        """Reasons by how often they hold, then by where they first do."""
        return dict(sorted(self.points.items(), key=lambda item: (-item[1], self.first[item[0]])))


def _number(index: Column, each: Column | int) -> int:
    """How many points groups at `index` are, of so many `each`."""
    return each * len(index) if isinstance(each, int) else int(each.sum())


@dataclass(frozen=True)
class Group:
    """The configs of one of a study's trial settings: lattice indices, their shapes, their steps.

    `steps` is one number where all shapes take as many, None where minutes are given.
    """

    settings: TrialSettings
    shapes: Shapes
    steps: Column | int | None

    def __len__(self) -> int:
        return len(self.shapes)

    def above(self, memory_bytes: float) -> int:
        """How many configs' tensors are predicted to need more than that at the largest micro-batch."""
        largest = memory_of_all(self.shapes.shape, self.settings, self.settings.batch_sizes[-1])
        return int((largest > memory_bytes).sum())


@dataclass(frozen=True)
class Feasible:
    """Points by lattice index, in its order, configs that have several together; and what was dropped.

    The points of config number n are `points[starts[n]:starts[n + 1]]`, its first point being the config's place in
    the order. `groups` have the configs again, each once, in columns.
    """

    points: Column
    starts: Column
    groups: tuple[Group, ...]
    tally: Tally

    def __len__(self) -> int:
        return len(self.starts) - 1


def feasible(lattice: Lattice) -> Feasible:
    """All points of `lattice`. Raises UsageError where a constraint can't be computed."""
    tally, groups = Tally(), []
    for listed in range(len(lattice.shapes)):
        groups += _of_listed(lattice, listed, tally)
    groups = [group for group in groups if len(group)]
    if not groups:
        return Feasible(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64), (), tally)
    index = np.concatenate([group.shapes.index for group in groups])
    of_group = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    order = np.argsort(index, kind="stable") if len(groups) > 1 else np.arange(len(index))
    config = _numbered(groups)[order]
    batch = np.array([group.settings.batch_sizes[0] for group in groups])[of_group[order]]
    return _without_duplicates(index[order], config, batch, order, groups, tally)


def _of_listed(lattice: Lattice, listed: int, tally: Tally) -> list[Group]:
    """Points with one of the study's `shapes`, a group for each combination of the trial's axes."""
    offsets = _trial_offsets(lattice)
    start = lattice.first_index(listed)
    settings = [lattice.settings_at(start + offset) for offset in offsets]
    good = [(offset, one) for offset, one in zip(offsets, settings, strict=True) if isinstance(one, TrialSettings)]
    missed: list[tuple[str, Column, Column | int]] = []

    def note_broken(reason: str, index: Column, each: Column | int) -> None:
        tally.add(reason, index, each * len(offsets))

    def note_outside(reason: str, index: Column, each: Column | int) -> None:
        if len(index):
            missed.append((reason, index, each))

    shapes = ShapeTable(lattice, listed, broken=note_broken, outside=note_outside).made()
    if good:
        for reason, index, each in missed:
            tally.add(reason, index + good[0][0], each * len(good))
    outside = sum(_number(index, each) for _, index, each in missed)
    for offset, one in zip(offsets, settings, strict=True):
        if isinstance(one, Drop) and (whole := len(shapes) + outside):
            firsts = [int(index.min()) for _, index, _ in missed] + shapes.index[:1].tolist()
            tally.add(one.reason, np.array([min(firsts) + offset]), np.array([whole]))
    return [_kept(lattice, Shapes(shapes.index + offset, shapes.shape), one, tally) for offset, one in good]


def _trial_offsets(lattice: Lattice) -> list[int]:
    """How far each combination of the trial's axes lies behind the first, in the lattice's order."""
    names = [name for name in lattice.names if name not in ShapeFields.model_fields]
    places = product(*(range(len(lattice.values[name])) for name in names))
    return [sum(at * lattice.strides[name] for at, name in zip(place, names, strict=True)) for place in places]


def _kept(lattice: Lattice, shapes: Shapes, settings: TrialSettings, tally: Tally) -> Group:
    """What keeps the constraints and the memory."""
    seq_len, cap = settings.fields["seq_len"], lattice.cap
    if lattice.study.constraints:
        kept, broken = lattice.constraints.kept(shapes.shape, seq_len=seq_len, tokens_per_step=settings.tokens_per_step)
        for reason, here in broken:
            tally.add(reason, shapes.index[here])
        shapes = shapes.take(kept)
    if cap is not None and len(shapes):
        fits = memory_of_all(shapes.shape, settings, settings.batch_sizes[0]) <= cap.for_tensors()
        tally.add(MEMORY_RULE, shapes.index[~fits])
        shapes = shapes.take(fits)
    return Group(settings, shapes, _steps(settings, shapes.shape))


def _steps(settings: TrialSettings, shape: Shape) -> Column | int | None:
    if not settings.steps_differ:
        return settings.common_recipe.steps
    if not len(cast("Column", shape.d_model)):
        return np.zeros(0, dtype=np.int64)
    exact = exact_columns(shape, lambda columns: 2 * sum(settings.share(columns)))
    return cast("Column", whole_steps(*settings.share(exact)))


def memory_of_all(shape: Shape, settings: TrialSettings, batch_size: int) -> Column:
    """Predicted bytes of each of a Shape of columns, exact whatever their size."""
    precision = settings.fields["precision"]

    def bytes_of(columns: Shape) -> Any:
        return memory_bytes(
            columns,
            precision="bf16" if precision == "auto" else precision,
            batch_size=batch_size,
            seq_len=settings.fields["seq_len"],
            optimizer=settings.fields["optimizer"]["name"],
            fp8_backend=settings.fields["fp8_backend"],
            fp8_filter=settings.fields["fp8_filter"],
        )

    return cast("Column", bytes_of(exact_columns(shape, bytes_of)))


def exact_columns(shape: Shape, largest: Callable[[Shape], Any]) -> Shape:
    """`shape` in 64 bits, or in Python's own integers where `largest`, of what is to be computed, might not fit."""
    fields = {name: getattr(shape, name) for name in FIELDS}
    about = np.asarray(largest(columns_of(**{name: column.astype(np.float64) for name, column in fields.items()})))
    if about.size and float(about.max()) >= 2.0**61:
        return columns_of(**{name: column.astype(object) for name, column in fields.items()})
    return shape


def _numbered(groups: list[Group]) -> Column:
    """A number for each row of all groups, the same for equal configs and only for them."""
    recipes: dict[Any, int] = {}
    rows = []
    for group in groups:
        number = recipes.setdefault(group.settings.common_recipe, len(recipes))
        steps = group.steps if isinstance(group.steps, np.ndarray) else np.zeros(len(group), dtype=np.int64)
        columns = [getattr(group.shapes.shape, name) for name in FIELDS]
        rows.append([*columns, np.full(len(group), number), steps])
    columns = [np.concatenate([row[n] for row in rows]) for n in range(len(FIELDS) + 2)]
    return _codes([column for column in columns if len(column) and (column != column[0]).any()], len(columns[0]))


def _codes(columns: list[Column], size: int) -> Column:
    """Rows of columns as one number each, column by column: equal where all are."""
    codes = np.zeros(size, dtype=np.int64)
    most = 1
    for column in columns:
        values, place = np.unique(column, return_inverse=True)
        if most * len(values) >= 2**62:
            codes = np.unique(codes, return_inverse=True)[1]
            most = int(codes.max()) + 1
        codes = codes * len(values) + place
        most *= len(values)
    return codes


def _without_duplicates(
    index: Column, config: Column, batch: Column, order: Column, groups: list[Group], tally: Tally
) -> Feasible:
    """Points in order → the first of each config and micro-batch, those of a config together."""
    _, first, number = np.unique(config, return_index=True, return_inverse=True)
    if len(first) == len(index):
        return Feasible(index, np.arange(len(index) + 1), tuple(groups), tally)
    place = first[number]  # of the config's first point
    by_config = np.lexsort((np.arange(len(index)), batch, place))
    again = np.zeros(len(index), dtype=bool)
    again[1:] = (np.diff(place[by_config]) == 0) & (np.diff(batch[by_config]) == 0)
    dropped = np.zeros(len(index), dtype=bool)
    dropped[by_config] = again
    tally.add(DUPLICATE, index[dropped])
    kept = np.flatnonzero(~dropped)
    kept = kept[np.argsort(place[kept], kind="stable")]
    starts = np.flatnonzero(np.diff(place[kept], prepend=-1))
    firsts = np.zeros(len(index), dtype=bool)
    firsts[order[np.unique(place)]] = True
    ends = np.cumsum([len(group) for group in groups])
    once = [_of(group, mask) for group, mask in zip(groups, np.split(firsts, ends[:-1]), strict=True)]
    return Feasible(index[kept], np.append(starts, len(kept)), tuple(group for group in once if len(group)), tally)


def _of(group: Group, mask: Column) -> Group:
    steps = group.steps[mask] if isinstance(group.steps, np.ndarray) else group.steps
    return Group(group.settings, group.shapes.take(mask), steps)
