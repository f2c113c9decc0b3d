"""What diverged for a seed is never the choice; one computation under two ids counts once; peaks don't grow."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frontier_fakes import LOSSES, SPEEDS, study
from ledger_lines import as_lines

from sweeper.frontier.answer import answer
from sweeper.frontier.frontiers import frontier
from sweeper.measurements.same_computation import copies, fit_once
from sweeper.report.text import point_standing
from sweeper.stats.additive_fit import Observation, fit
from sweeper.values.records import Base, Config

ROOT = Path(__file__).parents[3]
OBJECTIVES = {"val_loss": "min", "tokens_per_s": "max"}


def found(records, planned):
    return frontier(as_lines(records), study="s", profile="p", planned=planned, objectives=OBJECTIVES)


def diverging(records, config_id, seeds):
    return [
        {**r, "status": "diverged", "val_loss": None}
        if r["type"] == "final" and r["config_id"] == config_id and r["seed"] in seeds
        else r
        for r in records
    ]


def test_the_best_in_both_is_no_choice_where_it_diverged_in_two_of_three_seeds():
    losses, speeds = {**LOSSES, 1: 1.3}, {**SPEEDS, 1: 60_000.0}
    planned, records = study(losses, speeds)
    lucky = planned[0].config.config_id
    sure = found(records, planned)
    assert next(p for p in sure.frontiers[0].points if p.config_id == lucky).standing == "frontier"
    result = found(diverging(records, lucky, {1, 2}), planned)
    one = result.frontiers[0]
    point = next(p for p in one.points if p.config_id == lucky)
    assert (point.standing, point.on_frontier, point.diverged) == ("unstable", False, 2)
    assert point_standing(point) == "unstable (1 of 3 finished)"
    assert point.p_frontier < 0.05
    assert all(best.point_id != point.point_id for best in one.best.values())
    assert point.label not in answer(result)[0]
    others = [p for p in one.points if p is not point]
    assert any(p.standing == "frontier" for p in others)
    assert all(rival.point_id != point.point_id or rival.chance < 0.05 for p in others for rival in p.dominated_by)


def test_where_all_diverged_for_some_seed_the_report_still_says_what_there_is():
    planned, records = study(LOSSES, SPEEDS)
    for point in planned:
        records = diverging(records, point.config.config_id, {2})
    one = found(records, planned).frontiers[0]
    assert {p.standing for p in one.points} == {"unstable"}
    assert any(p.on_frontier for p in one.points)
    assert answer(found(records, planned))[0]


def lr_transfer():
    lines = (ROOT / "benchmarks/results/lr_transfer_cpu/ledger.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["type"] == "final"]


def test_the_recorded_studys_repeats_of_one_computation_count_once():
    finals = lr_transfer()
    configs = list({r["config_id"]: Config.from_dict(r) for r in finals}.values())
    observations = [
        Observation(treatment=r["config_id"], block=f"seed {r['seed']}", value=r["val_loss"]) for r in finals
    ]
    copy_of = copies(configs, {o.treatment for o in observations})
    losses = {(o.treatment, o.block): o.value for o in observations}
    assert len(copy_of) == 5
    for copy, own in copy_of.items():
        assert [losses[copy, b] for b in ("seed 0", "seed 1")] == [losses[own, b] for b in ("seed 0", "seed 1")]
    once, twice = fit_once(observations, copy_of), fit(observations)
    assert (len(once.observations), once.degrees_of_freedom, twice.degrees_of_freedom) == (50, 24, 29)
    copy, own = next(iter(copy_of.items()))
    assert once.mean(copy) == once.mean(own)
    assert once.difference(copy, own).standard_error == 0
    assert copy in once


def test_a_base_that_is_another_shapes_is_another_computation():
    config = Config.from_dict(lr_transfer()[0])
    recipe, shape = config.recipe, config.shape
    own = Base(n_layers=shape.n_layers, d_model=shape.d_model, ffn_hidden=shape.ffn_hidden)
    made = [
        replace(config, recipe=replace(recipe, optimizer=replace(recipe.optimizer, base=base)))
        for base in (None, own, replace(own, d_model=2 * own.d_model))
    ]
    assert copies(made, {c.config_id for c in made}) == {made[1].config_id: made[0].config_id}


def test_peak_memory_as_an_objective_does_not_grow_with_the_number_of_trials():
    planned, records = study(LOSSES, SPEEDS)
    peaks = iter(np.random.default_rng(0).permutation(len(records)))
    records = [{**r, "peak_memory_bytes": int(2**30 + next(peaks))} for r in records]
    result = frontier(as_lines(records), study="s", profile="p", planned=planned,
                      objectives={**OBJECTIVES, "peak_memory_bytes": "min"})  # fmt: skip
    point = result.frontiers[0].points[0]
    own = [r["peak_memory_bytes"] for r in records if r["probe_id"] == point.probe_id]
    assert point.objectives["peak_memory_bytes"].mean == pytest.approx(np.median(own))
    assert point.peak_memory_bytes == max(own)
