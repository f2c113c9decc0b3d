"""Where others can slow a job its speed is the uncontended one, elsewhere the median of its windows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from frontier_fakes import OBJECTIVES, config, environment, final, plan
from ledger_lines import as_line

from sweeper.frontier.frontiers import frontier
from sweeper.ledger.file import read
from sweeper.ledger.typed import FinalLine
from sweeper.measurements.measured import tokens_per_s
from sweeper.measurements.speeds import speed_of
from sweeper.report.frontier_json import frontier_json
from sweeper.report.page.trials import point_table, trial_table
from sweeper.stats.additive_fit import Observation, fit
from sweeper.stats.uncontended import uncontended

RECORDED = Path(__file__).parents[3] / "benchmarks" / "results"
SLOWED = (1000.0, 1010.0, 990.0, 1005.0, 700.0, 600.0, 500.0, 400.0, 300.0, 250.0)
"""Six of ten windows were slowed: the median is 650."""


def line(point, seed, *, device="AMD EPYC, 2 threads", state=None, windows=SLOWED, loss=1.5):
    record = final(point, seed, loss, environment=environment(device=device, device_state=state))
    median = sorted(windows)[len(windows) // 2 - 1] / 2 + sorted(windows)[len(windows) // 2] / 2
    speed = {**record["speed"], "windows": list(windows), "tokens_per_s": median}
    return as_line({**record, "speed": {**speed, "low": min(windows), "high": max(windows)}})


def test_of_a_recorded_run_among_other_work_speeds_scatter_little():
    """Medians of these windows scatter by 0.30; what is asked for is 0.12."""
    records = [record for record in read(RECORDED / "contended_run" / "ledger.jsonl") if isinstance(record, FinalLine)]

    def scatter(speed):
        each = [(r.probe_id, f"seed {r.seed}", math.log(speed(r))) for r in records]
        return fit([Observation(treatment=t, block=b, value=v) for t, b, v in each]).residual_sd

    assert len(records) == 18
    assert scatter(tokens_per_s) == pytest.approx(0.303, abs=0.001)
    assert scatter(lambda record: speed_of(record).speed) <= 0.12


@pytest.mark.parametrize(
    ("device", "state", "is_estimate"),
    [
        ("AMD EPYC, 2 threads", None, True),
        ("Intel Xeon Processor, 1 thread", None, True),
        ("NVIDIA H200", None, False),
        ("NVIDIA H200", {"other_processes": 0}, False),
        ("NVIDIA H200", {"other_processes": 1}, True),
    ],
)
def test_a_device_of_ones_own_has_the_median(device, state, is_estimate):
    found = speed_of(line(plan([config()])[0], 0, device=device, state=state))
    assert found == (uncontended(SLOWED) if is_estimate else found)
    assert found.speed == pytest.approx(1001 if is_estimate else 650, rel=0.01)
    assert (found.low is None) == (not is_estimate)


def test_no_speed_has_no_estimate():
    assert speed_of(as_line({**final(plan([config()])[0], 0, 1.5), "speed": None})) is None


def test_the_median_stands_beside_the_estimate_and_a_doubt_says_that_they_part():
    planned = plan([config(1, 1360), config(2, 624)])
    records = [line(point, seed, loss=1.5 + i / 10) for i, point in enumerate(planned) for seed in range(2)]
    found = frontier(records, study="s", profile="cpu", planned=planned, objectives=OBJECTIVES)
    one = found.frontiers[0]
    point = json.loads(json.dumps(frontier_json(found)))["frontiers"][0]["points"][0]
    assert point["objectives"]["tokens_per_s"]["mean"] == pytest.approx(1001, rel=0.01)
    assert point["median_tokens_per_s"] == pytest.approx(650)
    assert point["samples"][0]["tokens_per_s_low"] < 1000 < point["samples"][0]["tokens_per_s_high"]
    (said,) = [doubt for doubt in one.doubts if "Other work slowed 4 of 4 jobs" in doubt]
    assert "up to 54% above the median" in said
    assert not any("windows up to" in doubt for doubt in one.doubts), "said once"
    table = point_table(one)
    at = [column.header for column in table["columns"]].index("median tokens/s")
    assert table["rows"][0]["cells"][at][:2] == (pytest.approx(650), "650")
    table = trial_table(records, {p.config.config_id: "a" for p in planned})
    assert {"tokens/s", "uncontended"} <= {column.header for column in table["columns"]}


def test_nothing_stands_beside_a_median():
    planned = plan([config(1, 1360), config(2, 624)])
    records = [line(p, seed, device="NVIDIA H200") for p in planned for seed in range(2)]
    one = frontier(records, study="s", profile="full", planned=planned, objectives=OBJECTIVES).frontiers[0]
    assert one.points[0].median_tokens_per_s is None
    assert one.points[0].samples[0].tokens_per_s_low is None
    assert not any("Other work" in doubt for doubt in one.doubts)
    assert "median tokens/s" not in [column.header for column in point_table(one)["columns"]]
