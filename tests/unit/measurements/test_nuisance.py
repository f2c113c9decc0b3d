"""Each shape at its best value of the nuisance axes, without the gain of having picked it."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from frontier_fakes import OBJECTIVES, PROXY, config, final, plan
from ledger_lines import as_lines, event_of

from sweeper.frontier.frontiers import DeviceFrontier, frontier
from sweeper.report.facts import noise_sentences
from sweeper.report.frontier_json import frontier_json
from sweeper.running.standing_so_far import standings

RATES = (1e-3, 2e-3, 4e-3)
LR = ["optimizer.lr"]


def one_of(records, planned, **changes) -> DeviceFrontier:
    named = {"study": "s", "profile": "cpu", "objectives": OBJECTIVES, "nuisance": LR, **changes}
    return frontier(as_lines(records), planned=planned, **named).frontiers[0]


def lattice(n_shapes: int = 2, rates=RATES):
    return plan([config(*shape, lr=lr) for shape in PROXY[:n_shapes] for lr in rates])


def test_a_shape_is_a_point_at_its_best_value_and_the_others_are_listed():
    planned = lattice()
    losses = dict(zip(planned, [1.9, 1.7, 1.8, 1.6, 1.65, 1.9], strict=True))
    records = [final(p, seed, loss + 0.01 * seed) for (p, loss), seed in product(losses.items(), range(3))]
    one = one_of(records, planned)
    assert sorted(p.config.recipe.optimizer.lr for p in one.points) == [1e-3, 2e-3]
    assert {p.label: round(p.objectives["val_loss"].mean, 6) for p in one.points} == {
        "L1 f1360 lr 0.002": 1.71,
        "L2 f624 lr 0.001": 1.61,
    }
    by_rate = [[round(level.val_loss, 6) for level in shape.levels] for shape in one.tuned]
    assert by_rate == [[1.91, 1.71, 1.81], [1.61, 1.66, 1.91]]
    assert [level.values for level in one.tuned[0].levels] == [{"optimizer.lr": lr} for lr in RATES]
    assert not one.incomplete
    whole = frontier(as_lines(records), study="s", profile="cpu", planned=planned, objectives=OBJECTIVES, nuisance=LR)
    json.dumps(frontier_json(whole), allow_nan=False)
    said = " ".join(noise_sentences(one))
    assert "2 shapes are judged at their best optimizer.lr" in said
    assert "(0.001: 1.910, 0.002: 1.710, 0.004: 1.810)" in said


def test_without_nuisance_every_config_is_a_point():
    planned = lattice()
    records = [final(p, seed, 1.5 + i / 10) for (i, p), seed in product(enumerate(planned), range(2))]
    assert len(one_of(records, planned, nuisance=()).points) == len(planned)


def test_at_each_seed_the_value_is_that_which_is_best_at_the_others():
    planned = lattice(1, RATES[:2])
    #           seed 0  1    2
    values = [[1.0, 3.0, 1.1], [2.0, 1.0, 2.2]]
    records = [final(p, seed, values[i][seed]) for (i, p), seed in product(enumerate(planned), range(3))]
    # Without seed 0 the means are 2.05 and 1.6: the second, 2.0. Without seed 1: 1.05, 2.1: the first, 3.0.
    # Without seed 2: 2.0 and 1.5: the second, 2.2. The plain means are 1.7 and 1.7333.
    one = one_of(records, planned)
    assert one.points[0].objectives["val_loss"].mean == pytest.approx((2.0 + 3.0 + 2.2) / 3)
    assert one.tuned[0].optimism == pytest.approx((2.0 + 3.0 + 2.2) / 3 - 5.1 / 3)


def test_losses_of_shapes_that_were_picked_from_many_equal_values_arent_biased():
    source = np.random.default_rng(5)
    rates = [k * 1e-3 for k in range(1, 7)]
    corrected, plain = [], []
    for _ in range(80):
        planned = lattice(2, rates)
        records = [final(p, seed, 2.0 + 0.05 * source.standard_normal()) for p, seed in product(planned, range(3))]
        one = one_of(records, planned)
        corrected += [p.objectives["val_loss"].mean - 2.0 for p in one.points]
        plain += [min(level.val_loss for level in t.levels) - 2.0 for t in one.tuned]
    error = np.std(corrected) / len(corrected) ** 0.5
    assert abs(np.mean(corrected)) < 3 * error < 0.01
    assert np.mean(plain) < -10 * error


def test_one_seed_cant_be_corrected_and_that_is_doubted():
    planned = lattice()
    records = [final(p, 0, 1.5 + i / 10) for i, p in enumerate(planned)]
    one = one_of(records, planned)
    assert [t.optimism for t in one.tuned] == [None, None]
    assert any("2 of 2 shapes have one seed" in doubt for doubt in one.doubts)
    assert {p.objectives["val_loss"].mean for p in one.points} == {1.5, 1.8}


def test_a_rate_at_the_edge_is_still_doubted_and_a_value_without_result_is_named():
    planned = lattice(1)
    records = [final(p, seed, 1.5 + i / 10) for (i, p), seed in product(enumerate(planned[:2]), range(2))]
    one = one_of(records, planned)
    assert any("at an end of those tried (0.001)" in doubt for doubt in one.doubts)
    assert len(one.incomplete) == 1
    assert "0.004" in one.incomplete[0]


def test_further_seeds_go_to_shapes_at_their_best():

    planned = lattice()
    records = [final(p, seed, 1.5 + i / 10) for (i, p), seed in product(enumerate(planned), range(2))]
    outcomes = [event for record in records if (event := event_of(record)) is not None]
    found = standings(outcomes, planned, OBJECTIVES, LR)
    assert {one.config_id for one in found} == {planned[0].config.config_id, planned[3].config.config_id}
