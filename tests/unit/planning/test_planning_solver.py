"""The solver against brute force, whose counting and head rules are written from the design, not from the code."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeper.model.shape import Shape
from sweeper.planning.plan import make_plan
from sweeper.planning.solver import Drop, Window, solve
from sweeper.study.schema import Budget, LoadedStudy, ParamsBudget, Solve, Study, Trial
from sweeper.values.errors import NothingFeasible, UsageError
from tests.examples import examples

SOLVABLE = ("ffn_hidden", "d_model", "n_layers")


def plan(*, model, axes, budget):
    study = Study(
        name="s", model=model, axes=axes, budget=Budget(params=budget), trial=Trial(tokens=8192, seq_len=1024)
    )
    return make_plan(LoadedStudy(study=study, profile="full", file=Path("s.yaml"), resolved={}), cpus=2)


def oracle_shape(fields):
    """(L, d, h, kv, dh, f), or None where a head rule is broken."""
    d = fields["d_model"]
    if fields.get("n_heads"):
        h = fields["n_heads"]
        dh, rest = divmod(d, h)
    else:
        dh = fields.get("head_dim") or 64
        h, rest = divmod(d, dh)
    if rest or dh % 2:
        return None
    if fields.get("kv_groups"):
        kv, rest = divmod(h, fields["kv_groups"])
    elif fields.get("n_kv_heads"):
        kv, rest = fields["n_kv_heads"], h % fields["n_kv_heads"]
    else:
        divisors = [k for k in range(1, h + 1) if h % k == 0]
        kv, rest = min(divisors, key=lambda k: (max(Fraction(3 * k, h), Fraction(h, 3 * k)), k)), 0
    if rest:
        return None
    if fields.get("ffn_hidden"):
        f = fields["ffn_hidden"]
    elif fields.get("ffn_ratio"):
        m = fields.get("multiple_of") or 1
        f = max(m, round(d * fields["ffn_ratio"] / m) * m)
    else:
        f = int(d * 8 / 3)
    return fields["n_layers"], d, h, kv, dh, f


def oracle_count(fields, numbers, count):
    L, d, h, kv, dh, f = numbers
    trunk = L * (2 * d * h * dh + 2 * d * kv * dh + 3 * d * f + 2 * d) + d
    return trunk if count == "trunk" else trunk + fields["vocab_size"] * d * (1 if fields["tie_embeddings"] else 2)


def oracle_limits(budget):
    """Lowest and highest allowed count, and what a solved value aims at, all exact."""
    if budget.target is None:
        return budget.min, budget.max, Fraction(budget.min + budget.max, 2)
    slack = Fraction(str(budget.tolerance)) * budget.target
    return budget.target - slack, budget.target + slack, Fraction(budget.target)


def oracle_solve(name, fields, rule, budget):
    """(L, d, h, kv, dh, f) of the nearest allowed value within budget, by trying every value; else None."""
    low, high, middle = oracle_limits(budget)
    # A count is at least 2·L·d, 3·L·d·f and 2·L·d²: past this nothing comes nearer than what was tried.
    most, d_model, n_layers = budget.target or budget.max, fields.get("d_model"), fields.get("n_layers")
    if name == "n_layers":
        largest = most // (2 * d_model)
    elif name == "ffn_hidden":
        largest = most // (3 * d_model * n_layers)
    else:
        largest = 2 * math.isqrt(most) + 4 * 16
    last = largest + 2 * (rule.min or 0) + 13 * rule.multiple_of
    best = None
    for value in range(rule.multiple_of, last + 1, rule.multiple_of):
        if value < (rule.min or 0) or value > (rule.max or value):
            continue
        numbers = oracle_shape({**fields, name: value})
        if numbers is None:
            continue
        params = oracle_count(fields, numbers, budget.count)
        if best is None or abs(params - middle) < best[0]:
            best = abs(params - middle), params, numbers
    return best[2] if best and low <= best[1] <= high else None


heads = st.one_of(
    st.sampled_from([2, 3, 4, 6, 8, 16]).map(lambda n: {"head_dim": n}),
    st.integers(1, 6).map(lambda n: {"n_heads": n}),
)
kv_heads = st.one_of(
    st.just({}),
    st.integers(1, 4).map(lambda n: {"n_kv_heads": n}),
    st.integers(1, 3).map(lambda n: {"kv_groups": n}),
)
ffn = st.one_of(
    st.just({}),
    st.integers(1, 200).map(lambda n: {"ffn_hidden": n}),
    st.tuples(st.sampled_from([1.5, 2.67, 3.33, 4]), st.sampled_from([1, 4, 16])).map(
        lambda pair: {"ffn_ratio": pair[0], "multiple_of": pair[1]}
    ),
)
sizes = st.integers(600, 150_000)
budgets = st.one_of(
    st.builds(
        lambda target, tolerance, count: ParamsBudget(target=target, tolerance=tolerance, count=count),
        sizes,
        st.sampled_from([0.0, 0.005, 0.02, 0.1, 0.3]),
        st.sampled_from(["total", "trunk"]),
    ),
    st.builds(
        lambda low, extra, count: ParamsBudget(min=low, max=low + extra, count=count),
        sizes,
        st.integers(0, 30_000),
        st.sampled_from(["total", "trunk"]),
    ),
)
bounds = st.one_of(
    st.just({}),
    st.integers(1, 60).map(lambda n: {"min": n}),
    st.integers(1, 200).map(lambda n: {"max": n}),
    st.tuples(st.integers(1, 60), st.integers(0, 60)).map(lambda pair: {"min": pair[0], "max": sum(pair)}),
)
rules = st.builds(
    lambda multiple, ends: Solve(solve="params", multiple_of=multiple, **ends),
    st.sampled_from([1, 1, 2, 3, 5, 8, 12, 16, 48]),
    bounds,
)


@st.composite
def lattices(draw):
    """A model, the unsolved axes and the solved one, on a budget."""
    solved = draw(st.sampled_from(SOLVABLE))
    model = {
        "vocab_size": draw(st.integers(1, 300)),
        "tie_embeddings": draw(st.booleans()),
        **draw(heads),
        **draw(kv_heads),
    }
    if solved != "ffn_hidden":
        model |= draw(ffn)
    axes = {}
    if solved != "n_layers":
        axes["n_layers"] = tuple(draw(st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True)))
    if solved != "d_model":
        axes["d_model"] = tuple(draw(st.lists(st.integers(2, 24), min_size=1, max_size=3, unique=True)))
        axes["d_model"] = tuple(value * 4 for value in axes["d_model"])
    axes[solved] = draw(rules)
    return solved, model, axes, draw(budgets)


def kept_by_brute_force(solved, model, axes, budget):
    """The numbers of every kept shape in the lattice's order, and how many points there are."""
    fixed = {name: axis for name, axis in axes.items() if name != solved}
    points = [dict(zip(fixed, values, strict=True)) for values in product(*fixed.values())]
    found = [oracle_solve(solved, {**model, **point}, axes[solved], budget) for point in points]
    return [numbers for numbers in found if numbers is not None], len(points)


def numbers_of(shape: Shape):
    return (
        shape.n_layers, shape.d_model, shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.ffn_hidden,
    )  # fmt: skip


@settings(
    max_examples=examples(1200),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
@given(lattices())
def test_solver_and_drops_agree_with_brute_force(lattice):
    solved, model, axes, budget = lattice
    expected, points = kept_by_brute_force(solved, model, axes, budget)
    try:
        made = plan(model=model, axes=axes, budget=budget)
    except NothingFeasible:
        assert expected == []
        return
    assert [numbers_of(planned.config.shape) for planned in made.configs] == list(dict.fromkeys(expected))
    assert made.lattice.points == points
    assert made.lattice.feasible + sum(made.lattice.dropped.values()) == points


FIELDS = {"n_layers": 2, "d_model": 32, "head_dim": 8, "n_kv_heads": 2, "vocab_size": 100, "tie_embeddings": True}


@pytest.mark.parametrize("solved", ["ffn_hidden", "n_layers"])
def test_a_tie_goes_to_the_lower_value(solved):
    fields = {**FIELDS, "ffn_hidden": 40}
    two, four = (oracle_count(fields, oracle_shape({**fields, solved: n}), "total") for n in (16, 32))
    window = Window.of(ParamsBudget(min=two, max=four))
    shape = solve(solved, fields, Solve(solve="params", multiple_of=16), window)
    assert isinstance(shape, Shape)
    assert getattr(shape, solved) == 16


def test_a_tie_in_d_model_goes_to_the_lower_value():
    fields = {**FIELDS, "ffn_hidden": 40}
    counts = [oracle_count(fields, oracle_shape({**fields, "d_model": d}), "total") for d in (64, 80)]
    window = Window.of(ParamsBudget(min=counts[0], max=counts[1]))
    shape = solve("d_model", fields, Solve(solve="params"), window)
    assert isinstance(shape, Shape)
    assert shape.d_model == 64


def test_d_model_is_found_where_the_count_falls_as_it_grows():
    # A third of 13 heads is nearest 13 KV heads, of 14 it is 7: the count falls from d_model 104 to 112.
    fields = {"n_layers": 50, "head_dim": 8, "vocab_size": 1, "tie_embeddings": True, "ffn_hidden": 1}
    counts = {d: oracle_count(fields, oracle_shape({**fields, "d_model": d}), "total") for d in range(8, 400, 8)}
    assert counts[112] < counts[104]
    for d_model, params in counts.items():
        window = Window.of(ParamsBudget(target=params, tolerance=0.0))
        shape = solve("d_model", fields, Solve(solve="params"), window)
        assert isinstance(shape, Shape)
        assert shape.d_model == d_model


def test_above_the_budget_the_nearest_d_model_is_not_always_the_lowest():
    fields = {"n_layers": 50, "head_dim": 8, "vocab_size": 1, "tie_embeddings": True, "ffn_hidden": 1}
    budget = ParamsBudget(target=1_100_000, tolerance=0.9)
    rule = Solve(solve="params", multiple_of=8, min=104)
    shape = solve("d_model", fields, rule, Window.of(budget))
    assert isinstance(shape, Shape)
    assert shape.d_model == 112
    assert numbers_of(shape) == oracle_solve("d_model", fields, rule, budget)


def message(solved, fields, rule, budget):
    outcome = solve(solved, fields, rule, Window.of(budget))
    assert isinstance(outcome, Drop)
    assert outcome.reason == f"solve {solved}"
    return outcome.message()


def test_a_miss_names_the_nearest_values_their_counts_and_the_multiple_that_would_work():
    # One FFN row is 3·32·2 = 192 parameters; the rest is 9,504 (attention 2·3,072, norms 2·64 + 32, table 3,200).
    assert 2 * 3072 + 2 * 64 + 32 + 3200 == 9504
    budget = ParamsBudget(target=9504 + 192 * 100, tolerance=0.02)
    text = message("ffn_hidden", FIELDS, Solve(solve="params", multiple_of=64), budget)
    assert "64 (21,792) and 128 (34,080)" in text
    # ±574 is less than 3 rows: 96 and 104 are 4 off, 100 is a multiple of 4 and of no 8.
    assert "; multiple_of 4 would" in text


def test_a_miss_falls_back_on_a_smaller_multiple_that_is_no_divisor():
    # 101 rows exactly, from multiples of 7: no divisor of 7 above 1, and 101 is prime.
    budget = ParamsBudget(target=9504 + 192 * 101, tolerance=0.0)
    text = message("ffn_hidden", FIELDS, Solve(solve="params", multiple_of=7), budget)
    assert "98 (28,320) and 105 (29,664)" in text
    assert text.endswith("multiple_of 1 would")
    budget = ParamsBudget(target=9504 + 192 * 102, tolerance=0.0)
    text = message("ffn_hidden", FIELDS, Solve(solve="params", multiple_of=7), budget)
    assert text.endswith("multiple_of 6 would")


def test_a_miss_that_no_multiple_mends_names_the_tolerance_that_would():
    text = message("n_layers", {**FIELDS, "ffn_hidden": 40}, Solve(solve="params"), ParamsBudget(target=2000))
    L1 = oracle_count(FIELDS, (1, 32, 4, 2, 8, 40), "total")
    assert f"nearest is 1 ({L1:,})" in text
    assert text.endswith(f"a target of {L1:,} would")
    text = message("n_layers", {**FIELDS, "ffn_hidden": 40}, Solve(solve="params"), ParamsBudget(target=8000))
    tolerance = math.ceil((L1 - 8000) / 8000 * 1000) / 10
    assert text.endswith(f"a tolerance of {tolerance:g}% would")
    text = message("n_layers", {**FIELDS, "ffn_hidden": 40}, Solve(solve="params"), ParamsBudget(min=8, max=9))
    assert text.endswith(f"a range that holds {L1:,} would")


def test_no_value_between_min_and_max():
    text = message(
        "ffn_hidden", FIELDS, Solve(solve="params", multiple_of=64, min=70, max=100), ParamsBudget(target=20_000)
    )
    assert "no multiple of 64 between its min and max" in text
    assert "64 and 128" in text


def test_ffn_ratio_beside_a_solved_d_model():
    model = {
        "n_layers": 4,
        "head_dim": 8,
        "vocab_size": 100,
        "tie_embeddings": True,
        "ffn_ratio": 4.0,
        "multiple_of": 16,
    }
    made = plan(
        model=model, axes={"d_model": Solve(solve="params")}, budget=ParamsBudget(target=100_000, tolerance=0.1)
    )
    shape = made.configs[0].config.shape
    assert shape.ffn_hidden == 4 * shape.d_model


@pytest.mark.parametrize(
    ("axes", "budget", "text"),
    [
        ({"ffn_hidden": Solve(solve="params")}, None, "needs budget.params"),
        ({"ffn_hidden": Solve(solve="params")}, ParamsBudget(max=9), "needs a target, or both min and max"),
        ({"ffn_hidden": Solve(solve="params"), "n_layers": Solve(solve="params")}, ParamsBudget(target=9), "only one"),
    ],
)
def test_what_cannot_be_solved_is_said(axes, budget, text):
    with pytest.raises(UsageError, match=text):
        plan(model=FIELDS, axes=axes, budget=budget)
