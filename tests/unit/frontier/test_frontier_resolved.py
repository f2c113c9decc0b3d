"""Points whose micro-batch, precision or steps were measured: what is shown, what is pooled, what is doubted."""

import math
from dataclasses import replace

import pytest
from frontier_fakes import OBJECTIVES, asked, config, environment, final, plan, probe
from ledger_lines import as_lines

from sweeper.frontier.frontiers import frontier
from sweeper.ledger.lines import started_record
from sweeper.measurements.measured import PlannedPoint, measured
from sweeper.report.frontier_json import frontier_json
from sweeper.report.tables import status_json
from sweeper.search.job_states import job_states
from sweeper.values.records import Execution, Optimizer, Resolved

RUNGS = tuple(Execution(batch_size=size, compile=True) for size in (2, 4, 8))


def found(records, planned, **changes):
    return frontier(as_lines(records), study="s", profile="cpu", planned=planned, objectives=OBJECTIVES, **changes)


def one_of(records, planned):
    return found(records, planned).frontiers[0]


def ladder(*configs, rungs=RUNGS):
    return [PlannedPoint(config=c, execution=rungs[0], off_target=None, ladder=rungs) for c in configs]


def at(point, batch_size):
    return replace(point, execution=Execution(batch_size=batch_size, compile=True))


def climbed(point, *speeds, precision=None, **changes):
    """The probes of a point's ladder."""
    return [probe(at(point, 2**n), speed, precision, **changes) for n, speed in enumerate(speeds, start=1)]


def test_a_ladder_is_one_point_at_its_fastest_micro_batch():
    planned = ladder(config(1, 16), config(2, 16))
    deep = planned[1]
    records = [*climbed(planned[0], 100.0, 300.0, 200.0), *climbed(deep, 90.0, 80.0, None)]
    records += [final(at(planned[0], 4), s, 1.5 + 0.1 * s, 280.0 + s) for s in range(2)]
    records += [final(at(deep, 2), s, 1.6 + 0.1 * s, 85.0 + s) for s in range(2)]
    result = found(records, planned, seeds=2)
    fast, slow = result.frontiers[0].points
    assert (fast.batch_size, fast.resolved, fast.point_id) == (4, {"batch_size": 4}, planned[0].config.config_id)
    assert (slow.batch_size, slow.resolved) == (2, {"batch_size": 2})
    assert [p.label for p in (fast, slow)] == ["L1", "L2"]
    assert fast.probe_id == at(planned[0], 4).probe_id
    assert result.jobs == {"ok": 10}
    assert result.planned == 2
    assert result.doubts == ()
    assert frontier_json(result)["frontiers"][0]["points"][0]["resolved"] == {"batch_size": 4}


def test_the_probe_that_won_is_not_pooled_with_the_trials_that_it_chose():
    """The highest of several measurements reads too high: here the probe says 400, the trials 300 and 302."""
    planned = ladder(config(1, 16), config(2, 16))
    probes = climbed(planned[0], 100.0, 400.0, 200.0) + climbed(planned[1], 50.0, 60.0, 70.0)
    trials = [final(at(p, b), s, 1.5, 300.0 + 2 * s) for p, b in ((planned[0], 4), (planned[1], 8)) for s in range(2)]
    point = one_of(probes + trials, planned).points[0]
    assert point.objectives["tokens_per_s"].n == 2
    assert point.objectives["tokens_per_s"].mean == pytest.approx(math.sqrt(300 * 302))
    untimed = [final(at(p, b), s, 1.5, None) for p, b in ((planned[0], 4), (planned[1], 8)) for s in range(2)]
    assert one_of(probes + untimed, planned).points[0].objectives["tokens_per_s"].mean == pytest.approx(400.0)


def test_each_kind_of_device_has_its_own_winner():
    planned = ladder(config(1, 16))
    records = [*climbed(planned[0], 1.0, 3.0, 2.0), final(at(planned[0], 4), 0, 1.5, 3.0)]
    records += climbed(planned[0], 10.0, 20.0, 90.0, device="H200")
    records += [final(at(planned[0], 8), 1, 1.5, 90.0, environment=environment(device="H200"))]
    assert [one.points[0].batch_size for one in found(records, planned).frontiers] == [4, 8]


def test_a_ladder_without_probes_here_is_at_the_micro_batch_of_its_trials():
    planned = ladder(config(1, 16))
    (point,) = one_of([final(at(planned[0], 8), s, 1.5, 100.0) for s in range(2)], planned).points
    assert (point.batch_size, point.objectives["tokens_per_s"].n) == (8, 2)


def test_auto_is_shown_in_the_precision_that_won():
    one = config(1, 16, precision="auto", fp8_backend="torchao")
    planned = plan([one])
    records = [probe(planned[0], 100.0, "bf16"), probe(planned[0], 150.0, "fp8")]
    records += [final(planned[0], s, 1.5, 140.0 + s, resolved=Resolved(precision="fp8")) for s in range(3)]
    result = found(records, planned, seeds=3)
    (point,) = result.frontiers[0].points
    assert point.resolved == {"precision": "fp8"}
    assert point.config.recipe.precision == "auto"
    assert point.objectives["tokens_per_s"].n == 3
    assert [sample.tokens_per_s for sample in point.samples] == [140.0, 141.0, 142.0]
    assert result.jobs == {"ok": 5}


def test_minutes_hold_time_equal_and_tokens_come_from_the_steps():
    planned = plan([config(n, 16, steps=None, minutes=2.0) for n in (1, 2)])
    records = [probe(planned[0], 1000.0), probe(planned[1], 500.0)]
    records += [
        final(p, s, 1.5, 900.0, resolved=Resolved(steps=n)) for p, n in zip(planned, (117, 58), strict=True)
        for s in range(2)
    ]  # fmt: skip
    one = one_of(records, planned)
    assert {p.label: p.resolved for p in one.points} == {
        "L1": {"steps": 117, "tokens": 117 * 1024},
        "L2": {"steps": 58, "tokens": 58 * 1024},
    }
    assert one.held_equal.startswith("Held equal: time, 2 min of training for each trial; not equal tokens (59.4k–120k")
    assert one.points[0].objectives["tokens_per_s"].n == 3, "nothing was chosen by the probe, so it is pooled"
    assert "time, 2 min" in one_of(records[2:4], planned).held_equal


RETRIED = Resolved(precision="bf16")


def fp8_trials(point, *resolved):
    return [
        final(point, s, 1.5 if r == Resolved() else 1.9, 100.0 if r == Resolved() else 70.0, resolved=r)
        for s, r in enumerate(resolved)
    ]


def test_a_trial_that_went_on_in_bf16_is_not_pooled_with_fp8():
    planned = plan([config(1, 16, precision="fp8"), config(2, 16, precision="fp8")])
    records = fp8_trials(planned[0], Resolved(), RETRIED, Resolved()) + fp8_trials(planned[1], *[Resolved()] * 3)
    one = one_of(records, planned)
    assert one.left_out == {"resolution": 1}
    point = next(p for p in one.points if p.label == "L1")
    assert point.objectives["val_loss"].mean == pytest.approx(1.5)
    assert point.objectives["tokens_per_s"].n == 2
    assert point.resolved == {}
    doubts = [doubt for doubt in one.doubts if "pooled" in doubt]
    assert len(doubts) == 1
    assert doubts[0].startswith("1 trial of L1 computed in another precision than the others of the config (bf16")
    assert not any("older record" in doubt for doubt in one.doubts)


def test_where_most_went_on_in_bf16_the_point_is_bf16s():
    planned = plan([config(1, 16, precision="fp8")])
    one = one_of(fp8_trials(planned[0], RETRIED, Resolved(), RETRIED), planned)
    (point,) = one.points
    assert point.resolved == {"precision": "bf16"}
    assert point.objectives["val_loss"].mean == pytest.approx(1.9)
    assert point.objectives["tokens_per_s"].mean == pytest.approx(70.0)
    assert any(d.startswith("FP8 gave no finite loss in 2 of 2 trials (") for d in one.doubts)
    tie = one_of(fp8_trials(planned[0], Resolved(), RETRIED), planned)
    assert tie.points[0].resolved == {}, "of equally many the lowest seed's"


def test_trials_of_other_steps_are_not_pooled():
    planned = plan([config(1, 16, steps=None, minutes=1.0)])
    records = [final(planned[0], s, 1.5 + s, 50.0, resolved=Resolved(steps=n)) for s, n in enumerate((9, 5, 9))]
    one = one_of(records, planned)
    assert one.left_out == {"resolution": 1}
    assert [sample.seed for sample in one.points[0].samples] == [0, 2]
    (doubt,) = (doubt for doubt in one.doubts if "pooled" in doubt)
    assert "had other steps" in doubt
    assert "--fresh" in doubt


def test_reports_of_precision_from_before_it_had_a_backend_are_pooled():
    planned = plan([config(1, 16)])
    old = {"name": "fp32", "converted": 0, "total": 7, "kept_out": [], "emulated": False}
    new = {**old, "backend": None, "layer_filter": None, "eager": None}
    records = [final(planned[0], s, 1.5, environment=environment(precision=p)) for s, p in enumerate((old, new))]
    assert one_of(records, planned).left_out == {}


# ---- jobs ----------------------------------------------------------------------------------------------------------


def states(records, planned, seeds=1):
    return {
        (state.seed, state.state, state.to_do, state.untrained): state.why
        for state in job_states(as_lines(records), planned, seeds)
    }


def test_the_jobs_of_a_ladder_end_at_the_memorys_end():
    planned = ladder(config(1, 16))
    assert found([], planned, seeds=2).jobs == {"missing": 5}
    assert found(climbed(planned[0], 1.0, None), planned, seeds=2).jobs == {"ok": 2, "missing": 2}
    started = {**started_record(devices=1, command=""), "time": "2025-01-01T00:00:00Z"}
    records = [started, *climbed(planned[0], 1.0, None), asked(at(planned[0], 2), 0)]
    assert found(records, planned, seeds=2).jobs == {"ok": 2, "asked": 1, "missing": 1}


def test_where_nothing_has_memory_the_trials_are_shown_out_of_memory():
    planned = ladder(config(1, 16), config(2, 16))
    records = climbed(planned[0], None)
    result = found(records, planned[:1], seeds=2)
    assert (result.jobs, result.to_do) == ({"out_of_memory": 3}, 0)
    assert "3 of 3 jobs out of memory" in result.doubts[0]
    status = status_json(as_lines(records), planned, seeds=2)["configs"]
    assert [(row["done"], row["failed"], row["missing"]) for row in status] == [(0, 3, 0), (0, 0, 5)]
    assert any(why.startswith("not trained: its probes ran out of memory") for why in status[0]["why"])


def test_where_probes_failed_for_good_trials_are_said_not_to_be_trained():
    planned = ladder(config(1, 16), rungs=RUNGS[:2])
    failures = [
        {**record, "type": "failed", "error": "boom", "status": None} for record in climbed(planned[0], 1.0, 1.0) * 3
    ]
    assert states(failures, planned) == {
        (None, "failed", False, False): "boom",
        (0, "failed", False, True): "not trained: none of its probes could measure a speed",
    }
    doubts = found(failures, planned, seeds=1).doubts
    assert any(doubt.startswith("1 of 3 jobs not trained") for doubt in doubts)
    assert any(doubt.startswith("2 of 3 jobs failed 3 times") for doubt in doubts)


def test_probes_under_another_cap_are_to_do():
    planned = [replace(point, memory_bytes=2**34) for point in ladder(config(1, 16))]
    assert found(climbed(planned[0], 1.0, 2.0, 3.0), planned, seeds=1).jobs == {"missing": 4}


def test_speeds_of_a_ladder_are_measured_ones():
    planned = ladder(config(1, 16, precision="auto", fp8_backend="torchao"))
    records = [*climbed(planned[0], 1.0, 2.0, None, precision="bf16"), *climbed(planned[0], 1.0, precision="fp8")]
    (m,) = measured(as_lines(records), planned)
    assert len(m.speeds) == 3


# ---- conditions ----------------------------------------------------------------------------------------------------


def doubts(*configs, **changes):
    planned = plan(list(configs))
    records = [final(p, s, 1.5 + 0.01 * s, environment=environment(**changes)) for p in planned for s in range(3)]
    return "\n".join(one_of(records, planned).doubts)


def test_fp8_that_converted_nothing_is_said():
    report = {"name": "fp8", "converted": 0, "total": 8, "kept_out": ["qkv: 96 × 160: FP8 slows it down"]}
    said = doubts(config(1, 16, precision="fp8"), precision=report)
    assert "3 of 3 trials were to compute in FP8 and had no matmul converted (qkv: 96 × 160" in said
    assert "converted" not in doubts(config(1, 16, precision="fp8"), precision={**report, "converted": 1})
    assert "converted" not in doubts(config(1, 16), precision={**report, "name": "fp32"})


def test_an_fp8_config_at_several_micro_batches_is_said():
    """There a scale spans the micro-batch; in other precisions, and where nothing was converted, it's all the same."""

    def said(*sizes, precision="fp8", converted=4):
        points = plan([config(1, 16, precision=precision)], batch_sizes=sizes)
        report = environment(precision={"name": precision, "converted": converted, "total": 8})
        records = [final(points[s % len(points)], s, 1.5 + 0.01 * s, environment=report) for s in range(3)]
        return [doubt for doubt in one_of(records, points[:1]).doubts if "micro-batch" in doubt]

    assert said(4, 8) == [
        "3 trials of d96 L1 f16 computed in FP8 at different micro-batches (4 and 8): a scale spans the micro-batch "
        "there, so their losses differ slightly by that too. One `batch_size` trains all alike."
    ]
    assert said(4) == said(4, 8, precision="bf16", converted=0) == said(4, 8, converted=0) == []


def test_a_shared_or_throttled_device_is_said():
    said = doubts(config(1, 16), device_state={"other_processes": 2, "throttle_reasons": ["sw_thermal_slowdown"]})
    assert "3 of 3 jobs were timed on a device that other processes used (up to 2 of them)" in said
    assert "slowed itself down in 3 of 3 jobs (sw_thermal_slowdown)" in said
    for quiet in (None, *({"other_processes": 0, "throttle_reasons": some} for some in (None, [], ["power cap"]))):
        assert "device" not in doubts(config(1, 16), device_state=quiet)


def test_a_power_cap_that_only_some_jobs_met_is_said():
    planned = plan([config(1, 16)])
    records = [
        final(planned[0], s, 1.5, environment=environment(device_state={"throttle_reasons": ["power cap"] * (s > 0)}))
        for s in range(3)
    ]
    assert any("in 2 of 3 jobs (power cap)" in doubt for doubt in one_of(records, planned).doubts)


def test_a_gpu_that_waited_for_launches_is_said():
    planned = plan([config(1, 16)])
    shares = (0.62, 0.95, None)
    records = [final(planned[0], s, 1.5) for s in range(3)]
    records = [r | {"speed": r["speed"] | {"busy": busy}} for r, busy in zip(records, shares, strict=True)]
    (said,) = [doubt for doubt in one_of(records, planned).doubts if "launch" in doubt]
    assert said.startswith(
        "The GPU waited for kernels to be launched in 1 of 2 jobs (busy 62% of the time at the least)"
    )
    busy = [r | {"speed": r["speed"] | {"busy": 0.9}} for r in records]
    old = [r | {"speed": {k: v for k, v in r["speed"].items() if k != "busy"}} for r in records]
    for quiet in (busy, old):
        assert not any("launch" in doubt for doubt in one_of(quiet, planned).doubts)


def test_one_learning_rate_for_several_depths_is_said_once_and_only_then():
    assert "One learning rate serves 2 depths" in doubts(config(1, 16), config(2, 16))
    for several in (
        [config(1, 16), config(1, 32)],
        [config(n, 16, lr=lr) for n in (1, 2) for lr in (1e-3, 2e-3)],
    ):
        assert "One learning rate" not in doubts(*several)


@pytest.mark.parametrize(
    "optimizer", [{"base": {"n_layers": 1, "d_model": 96, "ffn_hidden": 16}}, {"name": "muon", "momentum": 0.95}]
)
def test_what_scales_with_the_shape_is_not_doubted(optimizer):
    from sweeper.values.records import Base

    if "base" in optimizer:
        optimizer = {"base": Base(**optimizer["base"])}
    configs = [config(n, 16) for n in (1, 2)]
    scaled = [replace(c, recipe=replace(c.recipe, optimizer=Optimizer(**optimizer))) for c in configs]
    assert "One learning rate" not in doubts(*scaled)
