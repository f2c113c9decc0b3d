"""A study that is killed at random moments: nothing is lost, nothing is done twice, nothing else is tried."""

from collections import Counter

import pytest
from ledger_lines import plain_lines

from tests.campaign.fire import finish, run_under_fire


def asked(folder):
    """Trials in the order in which they were first asked for."""
    records = plain_lines(folder / "ledger.jsonl")
    return list(dict.fromkeys(record["trial_id"] for record in records if record["type"] == "asked"))


def outcomes(folder):
    """How many outcomes each trial has."""
    records = plain_lines(folder / "ledger.jsonl")
    assert not [record for record in records if record["type"] == "failed"]
    return Counter(record["trial_id"] for record in records if record["type"] == "final")


def check_same_as_undisturbed(tmp_path, *, devices, trials, kills, seconds):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, devices, trials)
    at = run_under_fire(killed, devices, trials, kills=kills, seconds=seconds, seed=2)
    print(f"killed after so many records: {at}")
    assert len(asked(whole)) == trials
    assert asked(killed) == asked(whole)
    assert outcomes(killed) == outcomes(whole) == dict.fromkeys(asked(whole), 1)


def test_three_kills_in_one_process(tmp_path):
    check_same_as_undisturbed(tmp_path, devices=0, trials=40, kills=3, seconds=0.8)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_twenty_kills_of_one_device(tmp_path):
    check_same_as_undisturbed(tmp_path, devices=1, trials=300, kills=20, seconds=3.0)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_twenty_kills_of_eight_devices_leave_each_job_one_outcome(tmp_path):
    at = run_under_fire(tmp_path, 8, 390, kills=20, seconds=8.0, seed=3)
    print(f"killed after so many records: {at}")
    assert len(asked(tmp_path)) == 390
    assert outcomes(tmp_path) == dict.fromkeys(asked(tmp_path), 1)
