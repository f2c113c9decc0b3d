"""The frontier of synthetic ledgers with a known truth."""

from __future__ import annotations

import json
import math
from itertools import product

import pytest
from frontier_fakes import (
    LOSSES,
    OBJECTIVES,
    PROXY,
    SPEEDS,
    asked,
    config,
    environment,
    final,
    plan,
    probe,
    study,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_lines import as_lines

from sweeper.frontier.frontiers import Frontier, frontier
from sweeper.ledger.lines import event_record
from sweeper.report.frontier_json import frontier_json
from sweeper.values.errors import UsageError
from sweeper.values.events import Failed
from sweeper.values.records import Job


def found(records, planned, **changes) -> Frontier:
    named = {"study": "s", "profile": "cpu", "objectives": OBJECTIVES, **changes}
    return frontier(as_lines(records), planned=planned, **named)


def standings(records, planned) -> dict[str, str]:
    return {p.label: p.standing for p in found(records, planned).frontiers[0].points}


VALUES = st.lists(st.tuples(*[st.integers(0, 6) | st.floats(0, 6)] * 2), min_size=1, max_size=12)


@given(VALUES)
@settings(deadline=None, max_examples=40)
def test_frontier_and_hypervolume_agree_with_brute_force(rows):
    rows = [(1 + loss, 10.0 + speed) for loss, speed in rows]
    planned = plan([config(n + 1, 16) for n in range(len(rows))])
    one = found([final(p, 0, *row) for p, row in zip(planned, rows, strict=True)], planned).frontiers[0]
    speeds = {p.config_id: p.objectives["tokens_per_s"].mean for p in one.points}
    best = sorted((speed, loss) for loss, speed in rows)
    worst_loss, slowest = max(loss for loss, _ in rows), best[0][0]
    volume, at = 0.0, slowest
    for speed, _ in best:
        attained = min(loss for loss, other in rows if other >= speed)
        volume, at = volume + (speed - at) * (worst_loss - attained), speed
    assert one.hypervolume == pytest.approx(volume, abs=1e-6)
    assert one.reference == pytest.approx({"val_loss": worst_loss, "tokens_per_s": slowest})
    assert list(speeds.values()) == sorted(speeds.values(), reverse=True)
    assert all((p.standing == "frontier") == p.on_frontier for p in one.points)


def test_shapes_that_differ_by_noise_alone_are_tied_in_loss():
    """Losses all equal: a pair's interval holds zero in at least 90% of redraws (95% when it keeps its word)."""
    named = total = 0
    for rng in range(40):
        planned, records = study(dict.fromkeys(LOSSES, 1.5), SPEEDS, rng=rng)
        one = found(records, planned).frontiers[0]
        named, total = named + len(one.ties), total + math.comb(len(LOSSES), 2)
    assert named / total >= 0.9


def test_points_that_noise_alone_puts_off_the_frontier_are_tied_with_it():
    """Equal losses: the slower points are seldom shown to be beaten."""
    beaten = total = 0
    for rng in range(40):
        planned, records = study(dict.fromkeys(LOSSES, 1.5), SPEEDS, rng=rng)
        points = found(records, planned).frontiers[0].points
        beaten += sum(p.standing == "dominated" for p in points)
        total += len(points)
    assert beaten / total < 0.1


def test_a_big_gap_is_never_a_tie_and_always_dominates():
    for rng in range(40):
        planned, records = study({1: 1.7, 3: 1.5, 12: 2.5}, {1: 4e4, 3: 3e4, 12: 1e4}, rng=rng)
        one = found(records, planned).frontiers[0]
        assert not one.ties
        assert [p.standing for p in one.points] == ["frontier", "frontier", "dominated"]
        assert all(p.tied_with == () for p in one.points)


def test_a_tied_point_names_the_points_that_beat_it_only_by_the_means():
    planned = plan([config(1, 16), config(2, 16), config(3, 16)])
    values = {1: (1.50, 1.52, 1.48), 2: (1.52, 1.51, 1.51), 3: (1.90, 1.92, 1.91)}
    records = [
        final(p, seed, loss, 1000.0 * (4 - p.config.shape.n_layers) * (1 + 0.001 * seed))
        for p in planned
        for seed, loss in enumerate(values[p.config.shape.n_layers])
    ]
    fastest, tied, beaten = found(records, planned).frontiers[0].points
    assert (tied.standing, tied.on_frontier, tied.tied_with) == ("tied", False, (fastest.point_id,))
    assert (beaten.standing, beaten.tied_with) == ("dominated", ())
    assert (fastest.on_frontier, fastest.tied_with) == (True, (tied.point_id,))


def pair(losses, speeds, *, noise, speed_noise):
    """The second of two points, slower and worse in the mean; noise pushes the two apart in opposite directions."""
    planned = plan([config(1, 16), config(2, 16)])
    records = [
        final(p, s, losses[i] + noise * sign, speeds[i] * (1 + speed_noise * sign))
        for i, p in enumerate(planned)
        for s, sign in enumerate((0, (-1) ** i, -((-1) ** i)))
    ]
    return next(p for p in found(records, planned).frontiers[0].points if p.config.shape.n_layers == 2)


def test_an_advantage_in_speed_below_the_margin_does_not_excuse_a_loss_that_is_far_worse():
    tight = pair((1.49, 3.0), (1001.0, 1000.0), noise=0.005, speed_noise=0.001)
    assert tight.objectives["tokens_per_s"].high > 1001.0, "speeds are within noise"
    assert (tight.standing, tight.tied_with, tight.tied_in) == ("dominated", (), ())
    noisy = pair((1.49, 3.0), (1001.0, 1000.0), noise=0.005, speed_noise=0.02)
    assert (noisy.standing, noisy.tied_in) == ("tied", ("tokens_per_s",)), "it may be some percent faster"


def test_loss_has_no_margin_and_what_is_all_within_the_margin_is_tied():
    close = pair((1.5, 1.50001), (2000.0, 1000.0), noise=0.0001, speed_noise=0.001)
    assert (close.standing, close.tied_in) == ("tied", ("val_loss",))
    planned = plan([config(1, 16), config(2, 16)], batch_sizes=(4, 8))
    records = [
        final(p, s, 1.5 + 0.5 * i + 0.01 * s * i, (1000.0 - 200 * i) * (1 + 0.001 * s * i))
        for i, p in enumerate(planned[::2])
        for s in range(3)
    ]
    records += [probe(p, speed) for p, speed in zip(planned, (1000.0, 1000.5, 800.0, 800.5), strict=True)]
    points = found(records, planned).frontiers[0].points
    standing = {p.batch_size: (p.standing, p.tied_in) for p in points if p.config.shape.n_layers == 1}
    assert standing == {8: ("frontier", ()), 4: ("tied", ("tokens_per_s",))}, "one training: nothing is shown better"


def test_trials_of_seeds_that_are_not_asked_any_more_do_not_count():
    planned = plan([config(1, 16), config(2, 16)])
    records = [final(p, s, 1.5 + s, 1000.0 * (1 + s)) for p in planned for s in range(3)]
    result = found(records, planned, seeds=1)
    assert result.jobs == {"ok": 2}
    assert result.frontiers[0].seeds == (0,)
    assert all(p.objectives["val_loss"].mean == pytest.approx(1.5) for p in result.frontiers[0].points)
    assert all(p.objectives["tokens_per_s"].n == 1 for p in result.frontiers[0].points)


def failed(point, seed=0):
    job = Job(kind="train", config=point.config, execution=point.execution, seed=seed)
    return {**event_record(Failed(job=job, error="no space left")), "time": "2025-01-01T00:00:00Z"}


def test_a_job_that_failed_three_times_is_not_said_to_be_tried_again():
    planned = plan([config(1, 16), config(2, 16)])
    once = found([failed(planned[0])], planned)
    assert once.to_do == 2
    assert "1 of 2 jobs failed: `sweeper status` says why, `sweeper run` tries again." in once.doubts
    given_up = found([failed(planned[0])] * 3, planned)
    assert given_up.to_do == 1
    (doubt,) = (doubt for doubt in given_up.doubts if "failed" in doubt)
    assert doubt.startswith("1 of 2 jobs failed 3 times: the log says why")
    assert "--fresh" in doubt


def test_what_ran_out_of_memory_at_another_micro_batch_is_to_do_again():
    large, small = (plan([config(1, 16)], batch_sizes=(b,)) for b in (64, 8))
    records = [final(large[0], 0, None, None, status="out_of_memory")]
    assert found(records, large).jobs == {"out_of_memory": 1}
    assert "a smaller `batch_size` may fit" in found(records, large).doubts[0]
    assert found(records, small).jobs == {"missing": 1}


def test_a_training_kept_from_another_micro_batch_needs_a_speed_job():
    small, large = (plan([config(1, 16)], batch_sizes=(b,)) for b in (4, 8))
    records = [final(small[0], 0, 1.5)]
    assert found(records, large).jobs == {"ok": 1, "missing": 1}
    assert found([*records, probe(large[0], 2000.0)], large).jobs == {"ok": 2}


def test_micro_batches_share_the_training_and_differ_in_speed_alone():
    planned = plan([config(1, 16), config(2, 16)], batch_sizes=(4, 8))
    small, large = planned[0], planned[1]
    records = [final(p, s, 1.5 + 0.1 * s + 0.001 * s * n, 1000.0 * (1 + 0.001 * n * s))
               for n, p in enumerate(planned[::2]) for s in range(3)]  # fmt: skip
    records += [probe(small, 1000.0), probe(large, 2000.0), probe(planned[2], 900.0), probe(planned[3], 1800.0)]
    points = {p.point_id: p for p in found(records, planned).frontiers[0].points}
    at4, at8 = (points[f"{small.config.config_id}@{b}"] for b in (4, 8))
    assert at4.objectives["val_loss"] == at8.objectives["val_loss"]
    assert at8.objectives["tokens_per_s"].n == 1
    assert at4.objectives["tokens_per_s"].n == 4
    assert at8.objectives["tokens_per_s"].mean > 1.5 * at4.objectives["tokens_per_s"].mean
    assert at4.standing == "dominated", "the same loss for sure, and slower for sure"
    assert at4.label.endswith("b4")
    assert [sample.tokens_per_s for sample in at8.samples] == [None] * 3


def test_speeds_at_a_micro_batch_that_is_not_planned_say_nothing_of_noise():
    small = plan([config(1, 16), config(2, 16)])
    large = plan([config(1, 16), config(2, 16)], batch_sizes=(8,))
    records = [final(p, s, 1.5 + 0.1 * s, 1000.0 + 7 * s * s) for p in small for s in range(3)]
    records += [probe(p, 2000.0) for p in large]
    one = found(records, large).frontiers[0]
    assert [p.objectives["tokens_per_s"].n for p in one.points] == [1, 1]
    assert one.noise["tokens_per_s"].residual_sd is None
    assert {p.standing for p in one.points} == {"frontier"}


def test_the_latest_record_of_a_trial_counts_and_unplanned_ids_do_not():
    planned = plan([config(1, 16), config(2, 16)])
    elsewhere = plan([config(9, 16)])[0]
    records = [
        final(planned[0], 0, 9.0), final(planned[0], 0, 1.5), final(planned[1], 0, 1.6),
        final(elsewhere, 0, 0.1, 1e9),
    ]  # fmt: skip
    one = found(records, planned).frontiers[0]
    assert sorted(p.objectives["val_loss"].mean for p in one.points) == pytest.approx([1.5, 1.6])


def test_only_ok_finals_enter_and_the_rest_is_counted():
    planned = plan([config(n, 16) for n in range(1, 5)])
    records = [
        *(final(planned[0], s, 1.5 + 0.01 * s) for s in range(2)),
        *(final(planned[1], s, 1.6 - 0.02 * s) for s in range(2)),
        final(planned[2], 0, None, None, status="diverged"),
        asked(planned[2], 1),
    ]
    result = found(records, planned)
    assert result.jobs == {"ok": 4, "diverged": 1, "asked": 1, "missing": 2}
    assert len(result.frontiers[0].points) == 2
    assert len(result.frontiers[0].incomplete) == 2
    text = " ".join(result.doubts)
    assert all(words in text for words in ("1 of 8 jobs diverged", "2 of 8 jobs missing", "1 of 8 jobs without"))
    assert found(records, planned, seeds=3).jobs["missing"] == 6


def test_one_seed_has_no_intervals_and_a_doubt():
    planned, records = study(LOSSES, SPEEDS, seeds=1)
    one = found(records, planned).frontiers[0]
    for point, name in product(one.points, OBJECTIVES):
        assert (point.objectives[name].low, point.objectives[name].high, point.objectives[name].sd) == (None,) * 3
    assert any(doubt.startswith("One seed: differences can't be told from noise") for doubt in one.doubts)
    assert {p.standing for p in one.points} <= {"frontier", "unresolved"}
    assert one.ties == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data_fingerprint": "beef"}, "data"),
        ({"versions": {"torch": "2.12.0"}}, "torch version"),
        ({"precision": {"used": "bf16"}}, "precision used"),
    ],
)
def test_records_of_another_environment_are_left_out_and_named(changes, named):
    planned = plan([config(1, 16), config(2, 16)])
    old = [final(p, 0, 9.0, environment=environment(**changes)) for p in planned]
    new = [final(p, s, 1.5 + 0.1 * s) for p in planned for s in (1, 2)]
    one = found(old + new, planned).frontiers[0]
    assert one.left_out == {named: 2}
    assert any(f"The {named} changed between trials: 2 older records" in doubt for doubt in one.doubts)
    assert all(p.objectives["val_loss"].mean < 2 for p in one.points)


def test_each_kind_of_device_has_its_own_frontier():
    planned, records = study({1: 1.7, 3: 1.5}, {1: 4e4, 3: 3e4})
    other = [{**r, "device": "NVIDIA H200"} for r in records if r["type"] == "final"]
    result = found(records + other, planned)
    assert [one.device for one in result.frontiers] == ["2-core CPU", "NVIDIA H200"]


def test_what_a_reader_has_to_know_is_said():
    planned = plan([config(1, 16, lr=lr) for lr in (1e-3, 2e-3, 4e-3)])
    env = environment(epochs=1.7)
    notes = "other processes kept {}.5 CPU cores busy when the trial started"
    records = [
        final(p, s, loss + 0.01 * s, environment=env, spread=0.3, notes=(notes.format(s),))
        for p, loss in zip(planned, (1.7, 1.6, 1.5), strict=True)
        for s in range(2)
    ]
    text = "\n".join(found(records, planned).frontiers[0].doubts)
    for words in ("2 seeds: intervals are wide", "more than once (up to 1.7 times)", "windows up to 30% apart",
                  "at an end of those tried (0.004)", "(6 of 6 trials)"):  # fmt: skip
        assert words in text
    assert text.count("CPU cores busy") == 1


def test_what_was_held_equal():
    equal, longer = config(1, 16), config(8, 80, steps=100)
    assert "Held equal: tokens" in found([final(p, 0, 1.5) for p in plan([equal, config(2, 16)])],
                                         plan([equal, config(2, 16)])).frontiers[0].held_equal  # fmt: skip
    planned = plan([equal, longer])
    assert "Nothing was held equal" in found([final(p, 0, 1.5) for p in planned], planned).frontiers[0].held_equal


def test_missing_seeds_do_not_bias_a_comparison():
    """Seed 2 is a hard one and config b lacks it: plain means would rank b better, adjusted ones don't."""
    planned = plan([config(1, 16), config(2, 16)])
    a, b = planned
    records = [final(a, s, 1.5 + shift) for s, shift in enumerate((0.0, 0.02, 0.6))]
    records += [final(b, s, 1.55 + shift) for s, shift in enumerate((0.001, 0.02))]
    one = found(records, planned).frontiers[0]
    loss = {p.config_id: p.objectives["val_loss"].mean for p in one.points}
    assert loss[b.config.config_id] - loss[a.config.config_id] == pytest.approx(0.0505)
    assert any("means are adjusted" in doubt for doubt in one.doubts)


def test_the_gap_has_its_paired_standard_error():
    planned, records = study(LOSSES, SPEEDS)
    gap = found(records, planned).frontiers[0].gap
    assert gap.labels[1] == "L1 f1360"
    assert gap.difference > 2 * gap.standard_error > 0


def test_json_is_the_contract():
    planned, records = study(LOSSES, SPEEDS)
    plain = json.loads(json.dumps(frontier_json(found(records, planned)), allow_nan=False))
    assert plain["schema"] == 1
    assert {"study", "profile", "objectives", "frontiers"} <= plain.keys()
    assert plain["margins"] == {"val_loss": 0.0, "tokens_per_s": 0.01}
    (one,) = plain["frontiers"]
    assert {"device", "noise", "hypervolume", "points"} <= one.keys()
    for point in one["points"]:
        assert {"config_id", "batch_size", "shape", "recipe", "params", "objectives", "on_frontier", "tied_with"} <= (
            point.keys()
        )
        assert 0 <= point["p_frontier"] <= 1
        assert bool(point["tied_in"]) == (point["standing"] == "tied")
        assert all(e.keys() == {"mean", "sd", "n", "low", "high"} for e in point["objectives"].values())
        low, mean, high = (point["objectives"]["tokens_per_s"][key] for key in ("low", "mean", "high"))
        assert low < mean < high


def test_records_read_back_from_json_give_the_same():
    planned, records = study(LOSSES, SPEEDS)
    assert found(json.loads(json.dumps(records)), planned) == found(records, planned)


def test_nothing_measured_is_a_result_too():
    planned, _ = study(LOSSES, SPEEDS)
    result = found([], planned)
    assert result.frontiers == ()
    assert result.jobs == {"missing": 7}


def test_an_objective_that_is_not_built_is_refused():
    with pytest.raises(UsageError, match="carbon"):
        found([], [], objectives={"carbon": "min"})


def test_of_many_ties_those_of_the_lowest_losses_are_written(monkeypatch):
    planned = plan([config(*shape) for shape in PROXY[:4]])
    records = [final(p, seed, 1.5 + i / 1000 + (seed % 2) * (-1) ** i / 10)
               for (i, p), seed in product(enumerate(planned), range(3))]  # fmt: skip
    result = found(records, planned)
    whole = result.frontiers[0].ties
    assert len(whole) == 6
    monkeypatch.setattr("sweeper.report.frontier_json.MOST_TIES", 2)
    one = frontier_json(result)["frontiers"][0]
    assert [(tie["a"], tie["b"]) for tie in one["ties"]] == [(tie.a, tie.b) for tie in whole[:2]]
    assert one["ties_left_out"] == 4
