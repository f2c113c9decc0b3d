"""More than two objectives: what each is, and a frontier in all of them against brute force."""

from __future__ import annotations

import math
from itertools import product

import pytest
from frontier_fakes import OBJECTIVES, PROXY, config, final, plan
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_lines import as_line, as_lines, event_of
from rich.console import Console

from sweeper.frontier.frontiers import frontier
from sweeper.planning.objectives import EXACT, exact, of_final, of_line, scaled
from sweeper.report.tables import frontier_table
from sweeper.values.errors import UsageError
from sweeper.values.objectives import DIRECTIONS

MEMORY = 400 * 2**20


def test_what_each_objective_is_of_a_trial():
    point = plan([config(3, 384)])[0]
    record = final(point, 0, 1.9, 30_000.0)
    shape = point.config.shape
    wanted = {
        "val_loss": 1.9,
        "tokens_per_s": 30_000.0,
        "peak_memory_bytes": MEMORY,
        "params": shape.params.total,
        "trunk_params": shape.params.trunk,
        "kv_bytes_per_token": 2 * 2 * 3 * 1 * 32,  # keys and values, bf16, layers × KV heads × head_dim
        "train_flops_per_token": shape.train_flops_per_token(256),
    }
    assert set(wanted) == set(DIRECTIONS)
    for name, value in wanted.items():
        assert of_line(name, as_line(record)) == value
        assert of_final(name, event_of(record)) == value
        assert scaled(name, value) == (1.9 if name == "val_loss" else math.log(value))
    assert of_line("tokens_per_s", as_line(final(point, 0, 1.9, None))) is None


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=2, max_size=7),
    names=st.sets(st.sampled_from(EXACT), min_size=1),
)
@settings(deadline=None, max_examples=40)
def test_a_frontier_in_several_objectives_agrees_with_brute_force(rows, names):
    planned = plan([config(*shape) for shape in PROXY[: len(rows)]])
    objectives = OBJECTIVES | {name: DIRECTIONS[name] for name in names}
    records = [final(p, 0, 1 + loss, speed * 1e4) for p, (loss, speed) in zip(planned, rows, strict=True)]
    one = frontier(as_lines(records), study="s", profile="cpu", planned=planned, objectives=objectives).frontiers[0]
    costs = {
        p.config.config_id: (loss, -speed, *(exact(name, p.config) for name in sorted(names)))
        for p, (loss, speed) in zip(planned, rows, strict=True)
    }
    for point in one.points:
        own = costs[point.config_id]
        beaten = any(all(a <= b for a, b in zip(c, own, strict=True)) and c != own for c in costs.values())
        assert point.on_frontier == (not beaten)


def test_a_slower_and_worse_shape_is_on_the_frontier_for_its_few_parameters_only():
    planned = plan([config(1, 1360), config(1, 208)])
    records = [
        final(p, seed, loss + 0.01 * seed, speed)
        for (p, loss, speed), seed in product(zip(planned, (1.5, 1.8), (3e4, 2e4), strict=True), range(3))
    ]
    named = {"study": "s", "profile": "cpu", "planned": planned}
    two = frontier(as_lines(records), objectives=OBJECTIVES, **named).frontiers[0]
    assert [p.standing for p in two.points] == ["frontier", "dominated"]
    three = frontier(as_lines(records), objectives=OBJECTIVES | {"params": "min"}, **named).frontiers[0]
    assert [p.standing for p in three.points] == ["frontier", "frontier"]
    # Equal memory doesn't help; and what is measured is said.
    memory = frontier(as_lines(records), objectives=OBJECTIVES | {"peak_memory_bytes": "min"}, **named).frontiers[0]
    assert [p.standing for p in memory.points] == ["frontier", "dominated"]
    console = Console(width=120, record=True)
    console.print(frontier_table(memory, width=120))
    assert "memory" in (said := console.export_text())
    assert "400 MiB" in said


def test_a_direction_that_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="params: max"):
        frontier([], study="s", profile="cpu", planned=[], objectives=OBJECTIVES | {"params": "max"})
