"""Precisions in pairs and ladders of micro-batches: what is compared, with which interval, and what is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from frontier_fakes import OBJECTIVES, PROXY, config, final, plan, probe
from ledger_lines import as_lines
from scipy import stats

from sweeper.frontier.frontiers import frontier
from sweeper.measurements.measured import PlannedPoint
from sweeper.values.records import Execution, Resolved

RUNGS = tuple(Execution(batch_size=size, compile=True) for size in (1, 2, 4))
FP8 = {"fp8_backend": "torchao", "fp8_filter": "auto"}


def one_device(planned, records):
    (one,) = frontier(as_lines(records), study="a", profile="cpu", planned=planned, objectives=OBJECTIVES).frontiers
    return one


def laddered(n_layers=1, ffn_hidden=1360, **recipe):
    return PlannedPoint(
        config=config(n_layers, ffn_hidden, **recipe), execution=RUNGS[0], off_target=None, ladder=RUNGS
    )


def at(point, batch_size):
    return replace(point, execution=next(rung for rung in RUNGS if rung.batch_size == batch_size))


def test_a_pair_has_the_intervals_of_a_paired_t_test():
    draw = np.random.default_rng(3)
    planned = plan([config(precision="bf16"), config(precision="fp8", **FP8)])
    losses, speeds = draw.normal((1.5, 1.52), 0.01, (5, 2)), np.exp(draw.normal((10.0, 10.2), 0.02, (5, 2)))
    records = [final(p, s, losses[s, i], speeds[s, i]) for s in range(5) for i, p in enumerate(planned)]
    (pair,) = one_device(planned, records).precision_pairs
    assert (pair.precisions, pair.source, pair.batch_sizes) == (("bf16", "fp8"), "trials", (4, 4))
    paired = stats.ttest_rel(losses[:, 1], losses[:, 0]).confidence_interval()
    assert (pair.loss.low, pair.loss.high) == pytest.approx((paired.low, paired.high))
    paired = stats.ttest_rel(np.log(speeds[:, 1]), np.log(speeds[:, 0])).confidence_interval()
    assert (pair.speed.low, pair.speed.high) == pytest.approx(np.exp((paired.low, paired.high)))
    assert pair.speed.resolved is bool(paired.low > 0)


def test_only_what_differs_in_nothing_but_the_precision_is_a_pair():
    configs = [config(1, 1360, precision="fp32"), config(1, 1360, precision="bf16"), config(2, 624, precision="bf16"),
               config(3, 384, precision="fp32"), config(3, 384, precision="bf16", lr=1e-3)]  # fmt: skip
    planned = plan(configs)
    one = one_device(planned, [final(p, s, 1.5 + s / 10) for p in planned for s in range(2)])
    assert [(pair.label, pair.precisions) for pair in one.precision_pairs] == [("d96 L1 f1360", ("fp32", "bf16"))]
    assert one.batch_ladders == ()


def test_auto_compares_the_fastest_probe_of_each_precision():
    point = laddered(precision="auto", **FP8)
    speeds = {"bf16": {1: 100.0, 2: 150.0, 4: 140.0}, "fp8": {1: 90.0, 2: 160.0, 4: None}}
    records = [probe(at(point, size), v, name) for name, of in speeds.items() for size, v in of.items()]
    assert frontier(as_lines(records), study="a", profile="cpu", planned=[point], objectives=OBJECTIVES).frontiers == ()
    records += [final(at(point, 2), s, 1.5, 160.0, resolved=Resolved(precision="fp8")) for s in range(2)]
    one = one_device([point], records)
    (pair,) = one.precision_pairs
    assert (pair.source, pair.loss, pair.batch_sizes) == ("probes", None, (2, 2))
    assert pair.speed.value == pytest.approx(160 / 150)
    rungs = {
        ladder.precision: [(r.tokens_per_s, r.status, r.chosen) for r in ladder.rungs] for ladder in one.batch_ladders
    }
    assert rungs == {
        "bf16": [(100.0, "ok", False), (150.0, "ok", False), (140.0, "ok", False)],
        "fp8": [(90.0, "ok", False), (160.0, "ok", True), (None, "out_of_memory", False)],
    }


def test_one_precision_of_auto_alone_is_no_pair():
    point = laddered(precision="auto", **FP8)
    records = [probe(at(point, 1), 100.0, "bf16")]
    records += [final(at(point, 1), 0, 1.5, 100.0, resolved=Resolved(precision="bf16"))]
    assert one_device([point], records).precision_pairs == ()


def test_a_ladder_says_which_micro_batch_trains_and_which_has_not_run():
    planned = [laddered(n, f) for n, f in PROXY[:2]]
    records = [probe(at(planned[0], 1), 100.0), probe(at(planned[0], 2), None)]
    records += [final(at(p, 1), s, 1.5, 100.0) for p in planned for s in range(2)]
    (ladder,) = one_device(planned, records).batch_ladders
    assert [rung.status for rung in ladder.rungs] == ["ok", "out_of_memory", "not_run"]
    assert [rung.chosen for rung in ladder.rungs] == [True, False, False]
    assert ladder.rungs[0].memory_bytes == 10**8
    elsewhere = [{**r, "device": "another"} if r["type"] == "speed" else r for r in records]
    frontiers = frontier(
        as_lines(elsewhere), study="a", profile="cpu", planned=planned, objectives=OBJECTIVES
    ).frontiers
    assert [len(one.batch_ladders) for one in frontiers] == [1, 0]
    assert frontiers[1].device == "2-core CPU", "where nothing was probed"


def test_configs_that_speed_cannot_tell_apart_share_a_ladder_and_an_axis_of_micro_batches_has_no_choice():
    configs = [config(lr=lr) for lr in (1e-3, 2e-3)]
    planned = plan(configs, batch_sizes=(1, 2))
    records = [probe(p, 100.0 * p.execution.batch_size) for p in planned[:2]]
    records += [final(p, 0, 1.5) for p in planned[::2]]
    (ladder,) = one_device(planned, records).batch_ladders
    assert ladder.config_ids == tuple(c.config_id for c in configs)
    assert [(r.batch_size, r.tokens_per_s, r.chosen) for r in ladder.rungs] == [(1, 100.0, False), (2, 200.0, False)]
