"""The shapes of a lattice in columns: numpy arrays with one entry per shape, worked out all at once.

The count is linear in `ffn_hidden` (see `sweeper.model.shape`). So where that is a list in ascending order, the rows
that the parameter budget allows are an interval of it, found by bisection for every combination of the other axes; what
lies outside is counted and never made. The cost is that of the combinations of the other axes, and of what is feasible.

`sweeper.model.shape.Shape` and what is computed from it serve columns as they serve single shapes: a Shape of arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sweeper.model.shape import DEFAULT_HEAD_DIM, FIELDS, Shape, default_kv_heads
from sweeper.planning.solver import Window, ends
from sweeper.study.schema import ShapeFields, Solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sweeper.planning.lattice import Lattice

    Column = NDArray[Any]

CHUNK = 2**17
"""Combinations that are looked at together: bounds what planning holds beside its result."""

LARGEST = 2**50
"""Budgets above it are planned shape by shape, in integers of any size."""

Note = Callable[[str, "Column", "Column | int"], None]
"""Told of a reason, the first lattice index of each of some groups of shapes that it drops, and the groups' sizes."""


@dataclass(frozen=True)
class Shapes:
    """Shapes within the budget: `index` in the lattice, at the first value of every trial axis; a Shape of columns."""

    index: Column
    shape: Shape

    def __len__(self) -> int:
        return len(self.index)

    def take(self, which: Column) -> Shapes:
        """Those at `which` positions, or where a mask says so."""
        return Shapes(self.index[which], columns_of(**{name: getattr(self.shape, name)[which] for name in FIELDS}))


def columns_of(**fields: Any) -> Shape:
    """A Shape whose fields are arrays. `tie_embeddings` holds 0 and 1."""
    return cast(Any, Shape)(**fields)  # type: ignore[no-any-return]


def joined(parts: list[Shapes]) -> Shapes:
    """All of `parts`, one after another."""
    fields = {name: np.concatenate([getattr(part.shape, name) for part in parts]) for name in FIELDS}
    return Shapes(np.concatenate([part.index for part in parts]), columns_of(**fields))


class ShapeTable:
    """The shapes of one of a study's `shapes`, crossed with the axes that are fields of a shape.

    `broken` is told of shapes that break a head rule, `outside` of those that keep these and miss the budget.
    """

    def __init__(self, lattice: Lattice, listed: int, *, broken: Note, outside: Note) -> None:
        self._lattice, self._listed = lattice, listed
        self._broken, self._outside = broken, partial(outside, lattice.budget_rule)
        self._base = lattice.base_fields(listed)
        names = [name for name in lattice.names if name in ShapeFields.model_fields and name != lattice.solved]
        self._interval = "ffn_hidden" if "ffn_hidden" in names and _ascends(lattice.values["ffn_hidden"]) else None
        self._outer = [name for name in names if name != self._interval]
        self._values = {name: _column(lattice.values[name]) for name in names}
        self._strides = lattice.strides

    def made(self) -> Shapes:
        """All that are within the budget, in the lattice's order."""
        found = joined(list(self._chunks()))
        in_order = np.all(found.index[1:] >= found.index[:-1])
        return found if in_order else found.take(np.argsort(found.index, kind="stable"))

    def _chunks(self) -> Iterator[Shapes]:
        sizes = [len(self._values[name]) for name in self._outer]
        total = prod(sizes)
        for start in range(0, total, CHUNK):
            flat = np.arange(start, min(start + CHUNK, total))
            places = np.unravel_index(flat, sizes) if sizes else ()
            index = np.full(len(flat), self._lattice.first_index(self._listed))
            fields: dict[str, Any] = dict(self._base)
            for name, place in zip(self._outer, places, strict=True):
                index += place * self._strides[name]
                fields[name] = self._values[name][place]
            yield self._within(index, fields)

    def _within(self, index: Column, fields: Mapping[str, Any]) -> Shapes:
        solved, rule, window = self._lattice.solved, self._lattice.rule, self._lattice.window
        one_by_one = window is not None and rule is not None and (solved == "d_model" or window.exceeds(LARGEST))
        if one_by_one:
            return self._one_by_one(index)
        index, shape = self._derived(index, fields)
        if rule is not None and window is not None and solved is not None:
            return self._solved(index, shape, solved, rule, window)
        if self._interval is not None:
            return self._from_interval(index, shape)
        if window is None:
            return Shapes(index, shape)
        holds = window.hold(window.counted(shape))
        self._outside(index[~holds], 1)
        return Shapes(index, shape).take(holds)

    def _one_by_one(self, index: Column) -> Shapes:
        """By the solver for single shapes, whose result says all that there is to say."""
        kept, shapes = [], []
        for at in index.tolist():
            found = self._lattice.shape_at(at)
            if isinstance(found, Shape):
                kept.append(at)
                shapes.append(found)
            elif found.of_heads:
                self._broken(found.reason, np.array([at]), 1)
            else:
                self._outside(np.array([at]), 1)
        fields = {name: _column([int(getattr(shape, name)) for shape in shapes]) for name in FIELDS}
        return Shapes(np.array(kept, dtype=np.int64), columns_of(**fields))

    def _derived(self, index: Column, fields: Mapping[str, Any]) -> tuple[Column, Shape]:
        """What `sweeper.model.shape.derive` makes of every combination, without those that break a head rule."""
        size = len(index)
        columns: dict[str, Any] = {
            name: None if value is None else np.broadcast_to(np.asarray(value), size) for name, value in fields.items()
        }
        for name in ("n_layers", "ffn_hidden"):
            if name in (self._lattice.solved, self._interval):
                columns[name] = np.zeros(size, dtype=np.int64)

        def drop(rule: str, breaks: Column) -> None:
            nonlocal index
            if breaks.any():
                each = len(self._values[self._interval]) if self._interval is not None else 1
                self._broken(rule, index[breaks], each)
                index = index[~breaks]
                columns.update({name: value[~breaks] for name, value in columns.items() if value is not None})

        _split_heads(columns, drop)
        _share_kv_heads(columns, drop)
        return index, columns_of(
            n_layers=columns["n_layers"],
            d_model=columns["d_model"],
            n_heads=columns["n_heads"],
            n_kv_heads=columns["n_kv_heads"],
            head_dim=columns["head_dim"],
            ffn_hidden=_ffn_hidden(columns),
            vocab_size=columns["vocab_size"],
            tie_embeddings=columns["tie_embeddings"].astype(np.int64),
        )

    def _solved(self, index: Column, shape: Shape, name: str, rule: Solve, window: Window) -> Shapes:
        """`sweeper.planning.solver.solve` for a field in which the count is linear, for all combinations."""
        step = rule.multiple_of
        lowest, highest = ends(rule, step)
        if highest is not None and lowest > highest:
            self._outside(index, 1)
            return Shapes(index, shape).take(np.zeros(len(index), dtype=bool))
        fixed, slope = _line(shape, name, window)
        below = (window.twice_middle - 2 * fixed) // (2 * slope * step) * step
        near, other = (np.clip(below + more, lowest, highest) for more in (0, step))
        off, other_off = (np.abs(2 * (fixed + slope * value) - window.twice_middle) for value in (near, other))
        value = np.where((other_off < off) | ((other_off == off) & (other < near)), other, near)
        holds = window.hold(fixed + slope * value)
        self._outside(index[~holds], 1)
        fields = {one: getattr(shape, one) for one in FIELDS} | {name: value}
        return Shapes(index, columns_of(**fields)).take(holds)

    def _from_interval(self, index: Column, shape: Shape) -> Shapes:
        """All values of the ascending `ffn_hidden` that the window holds, for each combination of the others."""
        values, window, stride = self._values["ffn_hidden"], self._lattice.window, self._strides["ffn_hidden"]
        first, end = np.zeros(len(index), dtype=np.int64), np.full(len(index), len(values))
        if window is not None:
            fixed, slope = _line(shape, "ffn_hidden", window)
            if window.low is not None:
                first = np.searchsorted(values, -(-(window.low - fixed) // slope), side="left")
            if window.high is not None:
                end = np.maximum(np.searchsorted(values, (window.high - fixed) // slope, side="right"), first)
        for place, missed in ((np.zeros_like(first), first), (end, len(values) - end)):
            some = missed > 0
            self._outside((index + place * stride)[some], missed[some])
        counts = end - first
        combination = np.repeat(np.arange(len(index)), counts)
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[combination]
        made = Shapes(index, shape).take(combination)
        fields = {one: getattr(made.shape, one) for one in FIELDS} | {"ffn_hidden": values[place]}
        return Shapes(made.index + place * stride, columns_of(**fields))


def _split_heads(columns: dict[str, Any], drop: Callable[[str, Column], None]) -> None:
    """`n_heads` and `head_dim`, each from the other; the rules in the order of `sweeper.model.shape`."""
    heads, size = columns.get("n_heads"), columns.get("head_dim")
    if heads is None:
        columns["head_dim"] = np.broadcast_to(DEFAULT_HEAD_DIM, columns["d_model"].shape) if size is None else size
        drop("head_dim % 2", columns["head_dim"] % 2 != 0)
        drop("d_model % head_dim", columns["d_model"] % columns["head_dim"] != 0)
        columns["n_heads"] = columns["d_model"] // columns["head_dim"]
        return
    if size is not None:
        drop("d_model = n_heads * head_dim", heads * size != columns["d_model"])
    width, heads = columns["d_model"], columns["n_heads"]
    drop("d_model % n_heads", (width % heads != 0) | (width // heads % 2 != 0))
    columns["head_dim"] = columns["d_model"] // columns["n_heads"]


def _share_kv_heads(columns: dict[str, Any], drop: Callable[[str, Column], None]) -> None:
    """`n_kv_heads`, from `kv_groups` or by default where it isn't given."""
    if columns.get("kv_groups") is not None:
        drop("n_heads % kv_groups", columns["n_heads"] % columns["kv_groups"] != 0)
        columns["n_kv_heads"] = columns["n_heads"] // columns["kv_groups"]
    elif columns.get("n_kv_heads") is not None:
        drop("n_heads % n_kv_heads", columns["n_heads"] % columns["n_kv_heads"] != 0)
    else:
        numbers, which = np.unique(columns["n_heads"], return_inverse=True)
        by_number = np.array([default_kv_heads(number) for number in numbers.tolist()], dtype=np.int64)
        columns["n_kv_heads"] = by_number[which] if len(by_number) else numbers


def _ffn_hidden(columns: Mapping[str, Any]) -> Column:
    rows, ratio, width = columns.get("ffn_hidden"), columns.get("ffn_ratio"), columns["d_model"]
    if rows is not None:
        return cast("Column", rows)
    if ratio is None:
        return cast("Column", width * 8 // 3)
    multiple = columns.get("multiple_of")
    multiple = np.ones_like(width) if multiple is None else multiple
    return cast("Column", np.maximum(multiple, np.rint(width * ratio / multiple).astype(np.int64) * multiple))


def _line(shape: Shape, name: str, window: Window) -> tuple[Column, Column]:
    """The count at 0, and what one more of `name` adds to it."""
    fields = {one: getattr(shape, one) for one in FIELDS}
    fixed, more = (
        window.counted(columns_of(**fields | {name: np.full_like(shape.d_model, value)})) for value in (0, 1)
    )
    return cast("Column", fixed), cast("Column", more - fixed)


def _column(values: Any) -> Column:
    """Numbers as an array: whole ones in 64 bits, or as Python's own where one is too large for that."""
    values = list(values)
    if any(isinstance(value, float) for value in values):
        return np.array(values, dtype=np.float64)
    fits = all(abs(int(value)) < LARGEST for value in values)
    return np.array([int(value) for value in values], dtype=np.int64 if fits else object)


def _ascends(values: Any) -> bool:
    return all(low < high for low, high in pairwise(values))
