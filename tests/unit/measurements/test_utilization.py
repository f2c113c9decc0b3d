"""Utilization and held seconds of hand-made ledgers, worked out by hand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ledger_lines import as_lines, plain_lines, record_of

from sweeper.measurements.utilization import of_own_seconds, utilization

ROOT = Path(__file__).parents[3]


def at(seconds):
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def started(seconds, devices=1):
    return {"schema": 1, "type": "started", "time": at(seconds), "devices": devices, "command": "sweeper run s.yaml"}


def line(kind, when, trial=None, probe="p1", **fields):
    """Of a trial, or of a probe where no trial is named."""
    record = record_of(kind, time=at(when), probe_id=probe, config_id="c", trial_id=trial, **fields)
    return record if trial else {name: value for name, value in record.items() if name != "trial_id"}


def trial(name, asked, ended, train, evaluate=0.0, environment=None, **seconds):
    booked = {"set_up": 1.0, "compile": 2.0, "train": train, "evaluate": evaluate, **seconds}
    final = line("final", ended, name, seconds=booked, environment=environment or {})
    return [line("asked", asked, name), line("rung", asked + 1, name), final]


def in_order(*parts):
    return sorted((record for part in parts for record in part), key=lambda record: record["time"])


def test_one_run_on_one_device():
    records = [started(0), *trial("a-s0", 5, 20, 10.0, 1.0), *trial("b-s0", 20, 40, 14.0, 1.0)]
    found = utilization(as_lines(records))
    assert (found.useful_s, found.held_s, found.runs) == (26.0, 40.0, 1)
    assert found.fraction == pytest.approx(26 / 40)
    assert [(t.trial_id, t.useful_s, t.held_s) for t in found.trials] == [("a-s0", 11.0, 15.0), ("b-s0", 15.0, 20.0)]
    assert found.trials[0].fraction == pytest.approx(11 / 15)


def test_probes_timing_and_failed_attempts_are_held_and_not_useful():
    records = [
        started(0),
        line("asked", 1), line("speed", 11, seconds={"train": 9.0, "timing": 3.0}),
        line("asked", 11, "a-s0"), line("failed", 21, "a-s0"),
        *trial("a-s0", 21, 41, 12.0, timing=4.0),
        line("asked", 41, "b-s0"), line("failed", 51, "b-s0"),
    ]  # fmt: skip
    found = utilization(as_lines(records))
    assert (found.useful_s, found.held_s) == (12.0, 51.0)
    assert [(t.trial_id, t.held_s) for t in found.trials] == [("a-s0", 20.0)], "from the attempt that ended well"


def test_an_interrupted_run_and_the_one_that_goes_on_do_not_count_the_night_between():
    records = [
        started(0), *trial("a-s0", 2, 12, 8.0), line("asked", 12, "b-s0"), line("rung", 15, "b-s0"),
        started(40_000), *trial("b-s0", 40_003, 40_013, 8.0),
    ]  # fmt: skip
    found = utilization(as_lines(records))
    assert (found.useful_s, found.held_s, found.runs) == (16.0, 12.0 + 13.0, 2)
    assert [t.held_s for t in found.trials] == [10.0, 10.0]


def test_what_a_checkpoint_brought_along_was_done_before():
    resumed = {"resumed": {"tokens": 1024, "seconds": {"train": 30.0, "evaluate": 1.0}}}
    found = utilization(as_lines([started(0), *trial("a-s0", 0, 20, 45.0, 3.0, environment=resumed)]))
    assert (found.useful_s, found.held_s) == (17.0, 20.0)


def test_two_devices_are_both_held_until_the_last_outcome():
    records = in_order(
        [started(0, devices=2)], trial("a-s0", 1, 31, 25.0), trial("b-s0", 1, 11, 5.0), trial("c-s0", 11, 21, 5.0)
    )
    found = utilization(as_lines(records))
    assert (found.useful_s, found.held_s) == (35.0, 62.0)


def test_a_run_without_an_outcome_holds_nothing_that_can_be_told():
    found = utilization(as_lines([started(0), line("asked", 1, "a-s0")]))
    assert (found.fraction, found.useful_s, found.held_s, found.trials) == (None, 0.0, 0.0, ())
    assert utilization([]).fraction is None


def test_without_start_lines_a_run_starts_with_its_first_job():
    killed = [*trial("a-s0", 10, 20, 8.0), line("asked", 20, "b-s0")]
    resumed = [*trial("b-s0", 25, 35, 8.0)]
    next_day = [*trial("c-s0", 90_000, 90_010, 8.0)]
    found = utilization(as_lines([*killed, *resumed, *next_day]))
    assert (found.useful_s, found.held_s, found.runs) == (24.0, 30.0, 3)


def test_without_start_lines_devices_are_as_many_as_had_a_job():
    found = utilization(as_lines(in_order(trial("a-s0", 0, 10, 8.0), trial("b-s0", 0, 20, 18.0))))
    assert found.held_s == 40.0


@pytest.mark.parametrize("name", ["first", "depth_vs_ffn_cpu"])
def test_recorded_ledgers_from_before_start_lines_are_read(name):
    records = plain_lines(ROOT / "benchmarks" / "results" / name / "ledger.jsonl")
    found = utilization(as_lines(records))
    assert found.runs >= 1
    assert len(found.trials) == sum(record["type"] == "final" for record in records)
    assert 0 < found.fraction < 1
    assert all(0 < trial.fraction < 1 for trial in found.trials)


def test_of_a_trials_own_seconds_its_steps_and_its_evaluation_are_useful():
    assert of_own_seconds({"set_up": 1.0, "compile": 2.0, "train": 5.0, "evaluate": 1.0, "timing": 1.0}) == 0.6
    assert of_own_seconds({"train": 5.0, "evaluate": 1.0, "timing": 4.0, "reference": 30.0}) == 0.6
    assert of_own_seconds({}) is None
