"""Curves as data and panels: what is kept of them, and the scale on which they are drawn."""

from __future__ import annotations

import json

import pytest
from frontier_fakes import config, final, plan
from ledger_lines import as_lines

from sweeper.report.page.curves import MOST_PANELS, MOST_POINTS, Scale, curve_data, panels, scale_of


def record(seed=0, *, losses=(4.0, 3.0, 2.0), tokens=300, status="ok", val_loss=1.9, of=0):
    (point,) = plan([config(1 + of)])
    at = [tokens * (i + 1) // len(losses) for i in range(len(losses))]
    return {
        **final(point, seed, val_loss, status=status),
        "tokens": tokens,
        "curve": list(zip(at, losses, strict=True)),
    }


def data(*records):
    return curve_data(
        as_lines(records), {r["config_id"]: f"label {r['config_id']}" for r in records}, scale_of(as_lines(records))
    )


def test_a_long_curve_keeps_its_ends_and_is_thinned_evenly():
    losses = [5 - i / 1000 for i in range(1000)]
    found = data(record(losses=losses, tokens=1000))
    (one,) = found["curves"].values()
    (trial,) = one["trials"]
    assert len(trial["losses"]) == len(found["grids"][0]) == MOST_POINTS
    assert (found["grids"][0][0], found["grids"][0][-1]) == (1, 1000)
    steps = [b - a for a, b in zip(found["grids"][0], found["grids"][0][1:], strict=False)]
    assert max(steps) - min(steps) <= 1
    assert [losses[at - 1] for at in found["grids"][0]] == pytest.approx(trial["losses"], abs=1e-4)


def test_trials_share_the_tokens_at_which_they_were_looked_at():
    found = data(record(0), record(1), record(2, losses=(4.0, 2.0)))
    assert [trial["grid"] for trial in next(iter(found["curves"].values()))["trials"]] == [0, 0, 1]


def test_trials_that_did_not_end_well_are_drawn_and_have_no_end():
    broken = record(1, losses=(4.0, None, None), status="diverged", val_loss=None)
    found = data(record(0), broken)
    trials = next(iter(found["curves"].values()))["trials"]
    assert [trial["end"] for trial in trials] == ["held-out loss 1.9000", "diverged"]
    assert trials[1]["losses"] == [4.0, None, None]
    assert trials[1]["val_loss"] is None
    json.dumps(found, allow_nan=False)


def test_the_scale_leaves_out_the_fall_at_the_start_and_what_did_not_end_well():
    losses = (9.0, *([3.0] * 19))
    wild = record(1, losses=(50.0, 60.0), status="diverged", val_loss=None)
    assert scale_of(as_lines([record(losses=losses, val_loss=2.5), wild])) == Scale(low=2.5, high=3.0, end=300.0)
    assert scale_of(as_lines([wild])) is None
    assert scale_of([]) is None


@pytest.mark.parametrize(("low", "high"), [(1.49, 3.22), (2.997, 3.01), (0.0, 12.0), (3.1, 3.1001)])
def test_ticks_are_few_and_round_and_within(low, high):
    found = curve_data([], {}, Scale(low=low, high=high, end=123_456.0))["scale"]
    for name, end in (("y_ticks", (low, high)), ("x_ticks", (0.0, 123_456.0))):
        values = [value for value, _ in found[name]]
        assert 3 <= len(values) <= 8
        assert all(end[0] - 1e-9 <= value <= end[1] + 1e-9 for value in values)
        assert len({text for _, text in found[name]}) == len(values), "each text tells its value from the others"
    assert all(float(text) == pytest.approx(value, rel=1e-9) for value, text in found["y_ticks"])


def test_of_many_configs_those_on_the_frontier_have_panels():
    records = [record(of=i) for i in range(MOST_PANELS + 10)]
    points = [
        {"config_id": r["config_id"], "label": f"p{i}", "standing": "frontier" if i % 2 else "dominated"}
        for i, r in enumerate(records)
    ]
    found = panels(points, as_lines(records), scale_of(as_lines(records)))
    assert [panel.label for panel in found] == [f"p{i}" for i in range(1, MOST_PANELS + 10, 2)]
    assert len(panels(points[:MOST_PANELS], as_lines(records), scale_of(as_lines(records)))) == MOST_PANELS
