"""Non-dominated sets and hypervolumes against a brute force and moocore: ties, duplicates, infinities, NaN."""

from __future__ import annotations

import math
from itertools import product

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.frontier.posterior import _of_two, on_frontier
from sweeper.stats.pareto import nondominated, volume_of

NUMBERS = st.integers(0, 3).map(float) | st.floats(-2, 4, width=16)
ANY = NUMBERS | st.sampled_from([math.nan, math.inf, -math.inf])
HARD = settings(deadline=None, database=None, max_examples=250)


@st.composite
def tables(draw, values=ANY, most=9):
    """Rows of 1 to 4 objectives, some of them repeated, and which objectives are maximised."""
    n = draw(st.integers(1, 4))
    rows = draw(st.lists(st.tuples(*[values] * n), min_size=1, max_size=most))
    rows += draw(st.lists(st.sampled_from(rows), max_size=3))
    return np.array(rows, dtype=float), draw(st.lists(st.booleans(), min_size=n, max_size=n))


def beats(a, b, maximise):
    """By the definition: as good in all and better in one; what has a NaN beats nothing and isn't compared."""
    if any(map(math.isnan, (*a, *b))):
        return False
    better = [x > y if high else x < y for x, y, high in zip(a, b, maximise, strict=True)]
    return any(better) and all(is_better or x == y for is_better, x, y in zip(better, a, b, strict=True))


def by_definition(rows, maximise):
    return [not any(map(math.isnan, own)) and not any(beats(other, own, maximise) for other in rows) for own in rows]


def lower_is_better(rows, maximise):
    return rows * np.where(maximise, -1.0, 1.0)


@HARD
@given(tables())
def test_non_dominated_rows_are_those_of_the_definition(table):
    rows, maximise = table
    assert nondominated(rows, maximise).tolist() == by_definition(rows, maximise)


@HARD
@given(tables())
def test_of_draws_the_frontier_is_that_of_the_definition(table):
    """Three draws at once: the rows, the rows turned round, and all rows alike."""
    rows, maximise = table
    three = (rows, rows[::-1], np.repeat(rows[:1], len(rows), axis=0))
    drawn = [np.stack([lower_is_better(draw, maximise)[:, k] for draw in three]) for k in range(rows.shape[1])]
    assert on_frontier(drawn).tolist() == [by_definition(draw, maximise) for draw in three]
    if len(drawn) == 2:
        loop = on_frontier([*drawn, np.zeros_like(drawn[0])])
        assert (_of_two(*drawn) == loop).all(), "the walk and the general way agree"


@HARD
@given(tables(NUMBERS))
def test_of_finite_rows_both_are_moocores(table):
    rows, maximise = table
    wanted = moocore.is_nondominated(rows, maximise=maximise, keep_weakly=True).tolist()
    assert nondominated(rows, maximise).tolist() == wanted
    assert on_frontier(list(lower_is_better(rows, maximise).T[:, None])).tolist() == [wanted]


def grid_volume(rows, reference):
    """Cell by cell of the grid through all coordinates, which are the lower the better."""
    inside = [row for row in rows.tolist() if all(x < ref for x, ref in zip(row, reference, strict=True))]
    axes = [sorted({*(row[k] for row in inside), ref}) for k, ref in enumerate(reference)]
    return sum(
        math.prod(axis[i + 1] - axis[i] for axis, i in zip(axes, cell, strict=True))
        for cell in product(*(range(len(axis) - 1) for axis in axes))
        if any(all(row[k] <= axes[k][i] for k, i in enumerate(cell)) for row in inside)
    )


@HARD
@given(tables(NUMBERS | st.just(math.nan) | st.just(math.inf), most=5), st.lists(NUMBERS, min_size=4, max_size=4))
def test_hypervolumes_are_those_of_a_grid_and_moocores(table, reference):
    rows, maximise = table
    rows = np.where(np.isinf(rows), math.inf, lower_is_better(rows, maximise))
    reference = reference[: rows.shape[1]]
    known = rows[np.isfinite(rows).all(axis=1)]  # moocore ends the process at an infinity
    mixed = [1.0 if not high else -1.0 for high in maximise]
    found = volume_of(rows * mixed, np.array(reference) * mixed, maximise)
    assert found == pytest.approx(grid_volume(known, reference), abs=1e-9)
    assert found == pytest.approx(moocore.hypervolume(known, ref=reference), abs=1e-9)


def test_a_row_that_is_infinitely_good_has_an_infinite_hypervolume():
    assert volume_of(np.array([[-math.inf, 1.0], [0.5, 0.5]]), [3.0, 3.0], [False, False]) == math.inf
    assert volume_of(np.array([[-math.inf, 3.0]]), [3.0, 3.0], [False, False]) == 0.0
    assert volume_of(np.full((2, 2), math.nan), [3.0, 3.0], [False, True]) == 0.0
