"""Drift by the reference config: against scipy and numpy, and on synthetic studies whose true speeds are known."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from frontier_fakes import LOSSES, OBJECTIVES, PROXY, SPEEDS, config, environment, final, plan, probe
from hypothesis import given
from hypothesis import strategies as st
from ledger_lines import as_line, as_lines, event_of, record_of
from scipy import stats

from sweeper.compare.comparison import sides_of
from sweeper.frontier.frontiers import frontier
from sweeper.measurements.drift import (
    Drift,
    Measurement,
    ReferenceLog,
    drift_caveats,
    interpolated,
    measured_at,
    p_equal,
    reference_log,
)
from sweeper.report.facts import drift_sentence, noise_sentences
from sweeper.report.frontier_json import frontier_json
from sweeper.running.standing_so_far import standings

KIND = environment()["device"]
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3600.0


def stamp(seconds):
    return (START + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def measurement(at, log_speed, *, device_id="a", windows=(-0.001, 0.0, 0.001)):
    return Measurement(
        device_id=device_id, at=at, log_speed=log_speed, log_windows=tuple(log_speed + w for w in windows)
    )


def drawn(logs, rng, *, sd, device_ids=None):
    """Measurements an hour apart, of five windows each."""
    found = []
    for n, log_speed in enumerate(logs):
        windows = log_speed + rng.normal(0, sd, 5)
        device_id = device_ids[n] if device_ids else "a"
        found.append(
            Measurement(
                device_id=device_id, at=n * HOUR, log_speed=float(np.median(windows)), log_windows=tuple(windows)
            )
        )
    return ReferenceLog(tuple(found))


def final_at(at, *, device_id="a", seconds=None):
    """A final's record whose speed was measured in the middle of 900 s that ended 100 s before the record."""
    record = final(plan([config()])[0], 0, 1.5, environment=environment(device_id=device_id))
    took = seconds or {"train": 900.0, "evaluate": 100.0}
    ended = stamp(at + took.get("train", 0) / 2 + took.get("evaluate", 0))
    return as_line({**record, "time": ended, "seconds": took})


def at_epoch(seconds):
    return START.timestamp() + seconds


def test_the_analysis_of_variance_is_scipys():
    rng = np.random.default_rng(0)
    for sizes in ((5, 5), (5, 3, 4, 5), (2,) * 12):
        groups = [rng.normal(rng.normal(0, 0.5), 1, n) for n in sizes]
        assert p_equal(groups) == pytest.approx(stats.f_oneway(*groups).pvalue, rel=1e-9)
    assert p_equal([[1.0, 2.0, 3.0]]) is None
    assert p_equal([[1.0], [2.0]]) is None
    assert p_equal([[1.0, 1.0], [1.0, 1.0]]) == 1.0
    assert p_equal([[1.0, 1.0], [2.0, 2.0]]) == 0.0


@given(
    st.lists(
        st.tuples(st.integers(0, 1000), st.floats(-1, 1)), min_size=1, max_size=12, unique_by=lambda pair: pair[0]
    ),
    st.floats(-100, 1100),
)
def test_interpolation_holds_at_both_ends(points, at):
    points = sorted(points)
    own = [measurement(float(time), value) for time, value in points]
    times, values = zip(*points, strict=True)
    assert interpolated(own, at) == pytest.approx(float(np.interp(at, times, values)), abs=1e-9)


def test_a_correction_is_the_device_at_that_time_less_the_mean_of_all():
    """By hand: device a at log speeds 0, 4, 2% at 0, 1, 2 h; b at 8, 9% at 0, 2 h. The mean is 4.6%."""
    a = [measurement(at_epoch(n * HOUR), y) for n, y in enumerate((0.0, 0.04, 0.02))]
    b = [measurement(at_epoch(n * HOUR), y, device_id="b") for n, y in ((0, 0.08), (2, 0.09))]
    log = ReferenceLog((*b, *a))
    assert log.drift.corrected
    for device_id, hours, expected in (
        ("a", 0.25, 0.01), ("a", 1.5, 0.03), ("a", -5, 0.0), ("a", 9, 0.02), ("b", 1, 0.085), ("b", 3, 0.09),
    ):  # fmt: skip
        found = log.correction(final_at(hours * HOUR, device_id=device_id))
        assert found == pytest.approx(expected - 0.046, abs=1e-9), (device_id, hours)
    assert log.correction(final_at(0, device_id="c")) == 0.0, "a device that measured no reference"
    assert (log.drift.measurements, log.drift.devices) == (5, 2)
    assert (log.drift.low, log.drift.high) == pytest.approx((math.exp(-0.046) - 1, math.exp(0.044) - 1))


def test_a_speed_was_measured_in_the_middle_of_its_steps():
    assert measured_at(final_at(7.0)) == pytest.approx(at_epoch(7.0))
    record = {**probe(plan([config()])[0], 1e4), "time": stamp(50), "seconds": {"set_up": 9.0, "timing": 4.0}}
    assert measured_at(as_line(record)) == pytest.approx(at_epoch(48))


@given(st.floats(5, 15), st.integers(1, 6), st.integers(0, 5), st.floats(0.0001, 0.05))
def test_a_constant_reference_changes_nothing(log_speed, on_a, on_b, spread):
    windows = (-spread, 0.0, spread)
    found = [measurement(at_epoch(n * HOUR), log_speed, windows=windows) for n in range(on_a)]
    found += [measurement(at_epoch(n * HOUR), log_speed, device_id="b", windows=windows) for n in range(on_b)]
    log = ReferenceLog(tuple(found))
    assert not log.drift.corrected
    assert log.correction(final_at(HOUR)) == 0.0


@given(st.floats(-0.2, 0.2).filter(lambda y: abs(y) > 0.01), st.integers(2, 6), st.integers(2, 6))
def test_what_cards_differ_by_is_recovered(offset, on_a, on_b):
    a = [measurement(at_epoch(n * HOUR), 9.0) for n in range(on_a)]
    b = [measurement(at_epoch(n * HOUR), 9.0 + offset, device_id="b") for n in range(on_b)]
    log = ReferenceLog((*a, *b))
    difference = log.correction(final_at(HOUR, device_id="b")) - log.correction(final_at(HOUR, device_id="a"))
    assert log.drift.corrected
    assert difference == pytest.approx(offset, abs=1e-9)


@pytest.mark.parametrize("measurements", [2, 4, 7, 15])
def test_noise_within_windows_is_left_alone(measurements):
    """At most 1 in 100 by the test's own p; 400 repetitions, of which 10 would be 2.5%."""
    rng = np.random.default_rng(1)
    corrected = sum(drawn(np.zeros(measurements), rng, sd=0.02).drift.corrected for _ in range(400))
    assert corrected <= 10


def test_measurements_that_scatter_by_themselves_are_left_alone_more_often_than_not():
    """They differ by far more than their windows, yet none says anything about the next: correcting would add that."""
    rng = np.random.default_rng(2)
    logs = [drawn(rng.normal(0, 0.02, 7), rng, sd=0.002) for _ in range(300)]
    assert all(log.drift.moved for log in logs)
    assert sum(log.drift.corrected for log in logs) < 0.35 * len(logs)


@pytest.mark.parametrize("shape", [lambda x: 0.02 * x, lambda x: 0.02 * np.sin(5 * x), lambda x: 0.02 * (x > 0.5)])
def test_a_course_is_followed(shape):
    rng = np.random.default_rng(3)
    corrected = [drawn(shape(np.linspace(0, 1, 9)), rng, sd=0.003).drift.corrected for _ in range(100)]
    assert all(corrected)


def test_what_is_small_or_measured_once_is_not_corrected():
    small = drawn(np.linspace(0, 0.004, 9), np.random.default_rng(4), sd=0.0001).drift
    assert small.p < 1e-6
    assert not small.moved
    assert not small.corrected
    once = drawn([0.3], np.random.default_rng(4), sd=0.01).drift
    assert (once.measurements, once.p, once.corrected, once.low, once.high) == (1, None, False, 0.0, 0.0)
    assert ReferenceLog(()).drift is None


def drift_of(device_id, at):
    """Planted: card b is 5% slower, both slow down by 4% in 12 hours, and swing by 2% in five."""
    hours = at / HOUR
    return (-0.05 if device_id == "b" else 0.0) - 0.04 * hours / 12 + 0.02 * math.sin(2 * math.pi * hours / 5)


def drifting_study(rng, *, planted=drift_of, seeds=3):
    """Trials of half an hour on two cards, the reference before each; all speeds with 0.3% of noise."""
    planned = plan([config(n, f) for n, f in PROXY])
    clock, records = {"a": 0.0, "b": 0.0}, []
    for number, (seed, point) in enumerate((seed, point) for seed in range(seeds) for point in planned):
        device_id = "ab"[number % 2]
        began = clock[device_id]
        clock[device_id] = ended = began + HOUR / 2
        windows = [1e4 * math.exp(planted(device_id, began) + rng.normal(0, 0.003)) for _ in range(5)]
        reference = {
            "probe_id": "pref", "tokens_per_s": float(np.median(windows)), "low": min(windows), "high": max(windows),
            "windows": windows, "time": stamp(began),
        }  # fmt: skip
        middle = (began + ended) / 2
        n = point.config.shape.n_layers
        speed = SPEEDS[n] * math.exp(planted(device_id, middle) + rng.normal(0, 0.003))
        loss = LOSSES[n] + rng.normal(0, 0.01)
        known = environment(device_id=device_id, reference=[reference])
        record = final(point, seed, float(loss), float(speed), environment=known)
        records.append({**record, "time": stamp(ended), "seconds": {"train": HOUR / 2}})
    return planned, records


def without_reference(records):
    return [{**r, "environment": {k: v for k, v in r["environment"].items() if k != "reference"}} for r in records]


def found(planned, records):
    answer = frontier(as_lines(records), study="s", profile="full", planned=planned, objectives=OBJECTIVES)
    (one,) = answer.frontiers
    return answer, one


def error(one):
    """Root mean square error of the log speeds against the truth, but for a level that all share."""
    errors = [math.log(p.objectives["tokens_per_s"].mean / SPEEDS[p.config.shape.n_layers]) for p in one.points]
    return float(np.std(errors))


def test_a_planted_drift_is_taken_out_of_the_frontiers_speeds():
    planned, records = drifting_study(np.random.default_rng(5))
    answer, corrected = found(planned, records)
    _, as_measured = found(planned, without_reference(records))
    assert error(corrected) < error(as_measured) / 3
    assert error(corrected) < 0.003
    assert corrected.noise["tokens_per_s"].residual_sd < as_measured.noise["tokens_per_s"].residual_sd / 4
    assert corrected.drift.corrected
    assert as_measured.drift is None
    samples = {one.point_id: one.samples for one in as_measured.points}
    assert {one.point_id: one.samples for one in corrected.points} == samples
    plain = frontier_json(answer)["frontiers"][0]["drift"]
    assert set(plain) == {"measurements", "devices", "low", "high", "p", "corrected"}
    assert (plain["measurements"], plain["devices"], plain["corrected"]) == (21, 2, True)
    assert any("drifted by" in doubt and "`resources.reference_every`" in doubt for doubt in corrected.doubts)
    assert any("speeds are corrected for it" in sentence for sentence in noise_sentences(corrected))
    assert not any("Drift" in sentence for sentence in noise_sentences(as_measured))


def test_sides_are_compared_at_the_speeds_of_their_frontiers():
    planned, records = drifting_study(np.random.default_rng(5))
    answer, one = found(planned, records)
    (side,) = sides_of(answer, as_lines(records), planned, None)
    for point in one.points:
        logs = [math.log(speed) for speed in side.speeds[point.probe_id]]
        assert math.fsum(logs) / 3 == pytest.approx(math.log(point.objectives["tokens_per_s"].mean))


def test_where_seeds_go_is_judged_by_speeds_as_measured():
    """By events, which have no times."""
    planned, records = drifting_study(np.random.default_rng(5))
    measured_alone = [event_of(record) for record in without_reference(records)]
    assert standings([event_of(r) for r in records], planned, OBJECTIVES) == standings(
        measured_alone, planned, OBJECTIVES
    )


def test_without_drift_the_frontier_is_as_without_a_reference():
    planned, records = drifting_study(np.random.default_rng(6), planted=lambda device_id, at: 0.0)
    _, with_reference = found(planned, records)
    _, as_measured = found(planned, without_reference(records))
    assert not with_reference.drift.corrected
    assert replace(with_reference, drift=None) == as_measured


def test_only_what_was_measured_like_the_latest_counts():
    def carrying(at, log_speed, *, probe_id="p1", torch="2.13.0", device=KIND):
        one = {"probe_id": probe_id, "tokens_per_s": math.exp(log_speed), "windows": [1.0] * 3, "time": stamp(at)}
        own = {"device": device, "device_id": "a", "versions": {"torch": torch}, "reference": [one, one]}
        return record_of("final", device=device, status="diverged", environment=own, time=stamp(at))

    records = [carrying(9, 5.0), carrying(1, 7.0, probe_id="p0"), carrying(8, 6.0, torch="2.12.0")]
    other = [
        carrying(10, 8.0, device="another"),
        {"type": "started", "devices": 1},
        record_of("failed", environment={}),
    ]
    log = reference_log(as_lines([*records, *other]), KIND)
    assert [m.log_speed for m in log.measurements] == pytest.approx([5.0, 5.0])
    assert reference_log(as_lines(other[1:]), KIND).drift is None
    untimed = [{name: value for name, value in record.items() if name != "time"} for record in records]
    assert reference_log(as_lines(untimed), KIND).drift is None, "events that are no lines yet"


def drift(**changes):
    fields = {"measurements": 7, "devices": 2, "low": -0.031, "high": 0.004, "p": 1e-5, "corrected": True}
    return Drift(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "was measured 7 times on 2 devices and ran between 3.1% slower and 0.4% faster than its mean; speeds are "
             "corrected for it."),
        ({"corrected": False, "devices": 1}, "on 1 device and ran between 3.1% slower and 0.4% faster than its mean, "
                                             "but without a course that its measurements share; nothing is corrected."),
        ({"corrected": False, "p": 0.3}, "its mean, within what its windows explain; nothing is corrected."),
        ({"corrected": False, "low": -0.002, "high": 0.001}, "within 0.5%, which is too little to matter; nothing is"),
        ({"corrected": False, "p": None, "measurements": 1}, "was measured once, so that nothing is known"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_became_of_it(changes, said):
    assert said in drift_sentence(drift(**changes))
    assert drift_sentence(drift(**changes)).startswith("Drift: the reference config ")


def test_a_doubt_is_for_large_movements_alone():
    assert drift_caveats(None) == drift_caveats(drift()) == drift_caveats(drift(low=-0.2, p=0.2)) == ()
    (corrected,) = drift_caveats(drift(low=-0.06))
    assert corrected.startswith("Devices drifted by 6.4%")
    (jumped,) = drift_caveats(drift(low=-0.06, corrected=False))
    assert "jumped by 6.4%" in jumped
    assert "quiet machine" in jumped
