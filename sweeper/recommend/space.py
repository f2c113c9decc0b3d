"""What configs differ in, as a surrogate sees it: dimensions in logarithms, and how far measured ones reach in them.

A dimension comes from an axis of the study. At a nearly fixed count one of depth, width and FFN follows from the others
(the solved axis, else the FFN): it's no dimension of its own, nor is what the other dimensions determine. The count
itself always follows from fields of the shape, so that it's none either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sweeper.planning.axes import value_on
from sweeper.planning.candidates import Candidates
from sweeper.study.schema import Solve, Study
from sweeper.values.records import Config

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

NEARLY_FIXED = 1.05
"""A count whose largest is less than so many times its smallest is nearly fixed."""
DETERMINED = 0.02
"""What the other dimensions determine to within this part of its range is no dimension of its own."""
MOST_IN_HULL = 4
"""In more dimensions a convex hull is no longer worked out."""
TOLERANCE = 1e-7

_SHAPES: Mapping[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    "depth": (("n_layers",), lambda shape: shape.n_layers),
    "width": (("d_model",), lambda shape: shape.d_model),
    "FFN ratio": (("ffn_hidden", "ffn_ratio"), lambda shape: shape.ffn_hidden / shape.d_model),
    "KV share": (("n_kv_heads", "kv_groups"), lambda shape: shape.n_kv_heads / shape.n_heads),
    "head size": (("n_heads", "head_dim"), lambda shape: shape.head_dim),
    "vocabulary": (("vocab_size",), lambda shape: shape.vocab_size),
    "tied embeddings": (("tie_embeddings",), lambda shape: shape.tie_embeddings + 1),
}
"""A dimension's name → the axes behind it, and its value of a Shape of columns."""
_LENGTHS = ("tokens", "flops", "tokens_per_param")
"""Axes that come to training tokens."""
_OF_SPEED = (
    "batch_size", "seq_len", "tokens_per_step", "grad_accum_steps", "precision", "fp8_backend", "fp8_filter",
    "optimizer.name",
)  # fmt: skip
"""What a speed depends on beside the shape."""


@dataclass(frozen=True)
class Dimension:
    """One column of numbers, or of words: then `words` are its values, as they were measured."""

    name: str
    column: Callable[[Candidates], Any]
    words: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Space:
    """The dimensions in which measured configs differ, and what these reach in it.

    `numbers` and `words` are dimensions; `known` (measured, numbers) and `known_words` are those of the measured
    configs, numbers scaled to [0, 1]; `low` and `spans` (numbers,) are of that scale.
    """

    numbers: tuple[Dimension, ...]
    words: tuple[Dimension, ...]
    low: Matrix
    spans: Matrix
    known: Matrix
    known_words: NDArray[np.int64]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all dimensions."""
        return tuple(dimension.name for dimension in (*self.numbers, *self.words))

    @property
    def reach(self) -> Literal["convex hull", "box and nearest"]:
        """How it's told whether a config lies among the measured ones."""
        return "convex hull" if len(self.numbers) <= MOST_IN_HULL else "box and nearest"

    def of(self, rows: Candidates) -> Matrix:
        """(rows, features): numbers, then a column for each word, √½ where it holds and 0 elsewhere.

        So two words are as far apart as the ends of a number's measured range.
        """
        words = self._words_of(rows)
        return np.hstack([self._numbers_of(rows), *(_one_hot(words[:, n], d) for n, d in enumerate(self.words))])

    def among_measured(self, rows: Candidates) -> NDArray[np.bool_]:
        """Which rows lie among the measured configs: within the convex hull of those with the same words.

        In more than MOST_IN_HULL dimensions, or where the measured ones span no hull: within their box, and no
        farther from the nearest than any of them is from its nearest.
        """
        numbers, words = self._numbers_of(rows), self._words_of(rows)
        inside = np.zeros(len(rows), dtype=bool)
        for combination in np.unique(self.known_words, axis=0):
            here = (words == combination).all(axis=1)
            known = self.known[(self.known_words == combination).all(axis=1)]
            inside[here] = within(known, numbers[here])
        return inside

    def _numbers_of(self, rows: Candidates) -> Matrix:
        return (_matrix(self.numbers, rows) - self.low) / self.spans

    def _words_of(self, rows: Candidates) -> NDArray[np.int64]:
        """(rows, words): which of a dimension's words a row has, −1 for one that wasn't measured."""
        columns = [_numbered(dimension.column(rows), dimension.words) for dimension in self.words]
        return np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), dtype=np.int64)


NOWHERE = Space(
    numbers=(),
    words=(),
    low=np.zeros(0),
    spans=np.ones(0),
    known=np.zeros((0, 0)),
    known_words=np.zeros((0, 0), dtype=np.int64),
)
"""Without dimensions and without measured configs: what configs span that no surrogate knows."""


def space(study: Study, measured: Candidates, *, of_speed: bool) -> Space:
    """The dimensions of the study's axes in which `measured` configs differ, for their speed or for their loss."""
    found = _dimensions(study, of_speed=of_speed)
    numbers: list[Dimension] = []
    words: list[Dimension] = []
    for dimension in found:
        values = dimension.column(measured)
        if len(set(np.asarray(values).tolist())) > 1:
            (words if np.asarray(values).dtype.kind in "OUSb" else numbers).append(dimension)
    follows = _follows(study, measured)
    if sum(dimension.name in _SHAPES for dimension in numbers) > 1:
        numbers = [dimension for dimension in numbers if dimension.name != follows]
    numbers = _independent(numbers, measured)
    words = [Dimension(d.name, d.column, tuple(sorted(set(d.column(measured)), key=str))) for d in words]
    columns = _matrix(numbers, measured)
    low = columns.min(axis=0) if numbers else np.zeros(0)
    spans = columns.max(axis=0) - low if numbers else np.ones(0)
    known_words = [_numbered(dimension.column(measured), dimension.words) for dimension in words]
    return Space(
        numbers=tuple(numbers),
        words=tuple(words),
        low=low,
        spans=spans,
        known=(columns - low) / spans,
        known_words=np.stack(known_words, axis=1) if words else np.zeros((len(measured), 0), dtype=np.int64),
    )


def _dimensions(study: Study, *, of_speed: bool) -> list[Dimension]:
    differing = set(study.differing)
    found = [
        Dimension(name, partial(_shape_column, value))
        for name, (axes, value) in _SHAPES.items()
        if differing & set(axes)
    ]
    of_shapes = {axis for axes, _ in _SHAPES.values() for axis in axes}
    for axis in study.differing:
        matters = axis in _OF_SPEED if of_speed else axis != "batch_size"
        if matters and axis not in of_shapes:
            name = axis.removeprefix("optimizer.")
            found.append(Dimension(name, partial(_recipe_column, axis)))
    return found


def _shape_column(value: Callable[[Any], Any], rows: Candidates) -> Any:
    return np.log(np.asarray(value(rows.shape), dtype=np.float64))


def _recipe_column(axis: str, rows: Candidates) -> Any:
    """Where rows lie on an axis of the trial: logarithms of numbers, or words."""
    if axis == "batch_size":
        return np.log(rows.batch_size)
    if axis in _LENGTHS:
        per_step = np.array([recipe.tokens_per_step for recipe in rows.recipes])
        return np.log(rows.steps * per_step[rows.recipe])
    values = [value_on(axis, Config(shape=rows.shape, recipe=recipe)) for recipe in rows.recipes]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return (np.log(values) if min(values) > 0 else np.array(values, dtype=np.float64))[rows.recipe]
    return np.array([str(value) for value in values], dtype=object)[rows.recipe]


def _follows(study: Study, measured: Candidates) -> str | None:
    """The dimension that follows from the others as the count is nearly fixed, None where it isn't."""
    params = measured.shape.params
    counts = [np.asarray(count, dtype=np.float64) for count in (params.total, params.trunk)]
    if not any(count.max() < NEARLY_FIXED * count.min() for count in counts):
        return None
    solved = next((name for name, axis in study.axes.items() if isinstance(axis, Solve)), "ffn_hidden")
    return next(name for name, (axes, _) in _SHAPES.items() if solved in axes)


def _independent(dimensions: Sequence[Dimension], measured: Candidates) -> list[Dimension]:
    """Those that the ones before them don't determine, linearly."""
    kept: list[Dimension] = []
    for dimension in dimensions:
        before = np.hstack([np.ones((len(measured), 1)), _matrix(kept, measured)])
        column = np.asarray(dimension.column(measured), dtype=np.float64)
        left = column - before @ np.linalg.lstsq(before, column, rcond=None)[0]
        if np.ptp(left) > DETERMINED * np.ptp(column):
            kept.append(dimension)
    return kept


def _matrix(dimensions: Sequence[Dimension], rows: Candidates) -> Matrix:
    columns = [np.asarray(dimension.column(rows), dtype=np.float64) for dimension in dimensions]
    return np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0))


def _numbered(values: Any, words: Sequence[Any]) -> NDArray[np.int64]:
    place = {word: number for number, word in enumerate(words)}
    return np.array([place.get(value, -1) for value in values], dtype=np.int64)


def _one_hot(numbers: NDArray[np.int64], dimension: Dimension) -> Matrix:
    holds: Matrix = np.where(numbers[:, None] == np.arange(len(dimension.words)), np.sqrt(0.5), 0.0)
    return holds


def within(known: Matrix, points: Matrix) -> NDArray[np.bool_]:
    """Which `points` (n, dimensions) lie within what `known` (m, dimensions) reach: see `Space.among_measured`."""
    from scipy.spatial import ConvexHull, QhullError

    size = known.shape[1]
    in_box: NDArray[np.bool_] = (
        (points >= known.min(axis=0) - TOLERANCE) & (points <= known.max(axis=0) + TOLERANCE)
    ).all(axis=1)
    if size <= 1:
        return in_box
    if size <= MOST_IN_HULL and len(known) > size:
        try:
            faces = ConvexHull(known).equations
        except QhullError:
            return in_box & _near(known, points)
        return _within_faces(faces, points)
    return in_box & _near(known, points)


CHUNK = 20_000


def _within_faces(faces: Matrix, points: Matrix) -> NDArray[np.bool_]:
    """By the half-spaces of a hull's faces: normal · x + offset ≤ 0."""
    parts = [points[start : start + CHUNK] for start in range(0, len(points), CHUNK)] or [points]
    return np.concatenate([(part @ faces[:, :-1].T + faces[:, -1] <= TOLERANCE).all(axis=1) for part in parts])


def _near(known: Matrix, points: Matrix) -> NDArray[np.bool_]:
    from scipy.spatial import cKDTree

    tree = cKDTree(known)
    own = tree.query(known, k=2)[0][:, -1] if len(known) > 1 else np.zeros(1)
    near: NDArray[np.bool_] = tree.query(points)[0] <= own.max() + TOLERANCE
    return near
