"""`benchmarks/calibration/verdicts.py` in small: chances and verdicts of synthetic studies against their truth."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[3] / folder) for folder in ("benchmarks", "benchmarks/calibration")]


@pytest.fixture(scope="module")
def result():
    from verdicts import run

    return run(20, seed=7)


def test_all_criteria_are_met(result):
    assert {name for name, met in result["criteria"].items() if not met} == set()


def test_what_is_said_to_be_sure_is_true(result):
    for name in ("truly_off_of_those_said_to_be_dominated", "right_of_those_said_to_be_best_for_sure"):
        assert result[name]["n"] > 10
        assert result[name]["share"] > 0.9


def test_chances_are_what_they_say(result):
    """In each bin with 50 points or more the share that is truly on the frontier is within 0.1 of the mean chance."""
    filled = [row for row in result["reliability"] if row["n"] >= 50]
    assert len(filled) >= 2
    assert all(abs(row["mean_p"] - row["share_on"]) < 0.1 for row in filled)
