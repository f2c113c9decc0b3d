"""The hypervolume's interval and the attained surfaces against brute force on the same draws, and their size."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from frontier_fakes import LOSSES, OBJECTIVES, SPEEDS, config, final, plan, study
from ledger_lines import as_lines

from sweeper.frontier.attainment import MOST_VERTICES, PERCENT, attainment, hypervolume_interval
from sweeper.frontier.frontiers import frontier
from sweeper.frontier.posterior import MOST_VALUES, Draws, on_frontier
from sweeper.report.facts import noise_sentences
from sweeper.report.figures import frontier_svg
from sweeper.report.frontier_json import frontier_json


def drawn(n_draws, n_points, *, noise=0.1):
    source = np.random.default_rng(3)
    means = np.stack([np.linspace(1.0, 2.0, n_points), np.linspace(-1.0, -3.0, n_points)])
    values = [np.sort(source.normal(m, noise, size=(n_draws, n_points)), axis=1)[:, ::-1] for m in means]
    return Draws(values=tuple(values), on=on_frontier(values))


def found(records, planned):
    return frontier(as_lines(records), study="s", profile="cpu", planned=planned, objectives=OBJECTIVES)


def test_surfaces_attain_what_so_many_drawn_frontiers_do():
    draws = drawn(200, 9)
    loss, speed = draws.values[0], np.exp(-draws.values[1])
    surfaces = attainment(draws, OBJECTIVES)
    assert [one.percent for one in surfaces] == list(PERCENT)
    for at in np.random.default_rng(0).uniform([loss.min(), speed.min()], [loss.max(), speed.max()], size=(400, 2)):
        share = ((loss <= at[0]) & (speed >= at[1])).any(axis=1).mean()
        for one in surfaces:
            attained = any(corner[0] <= at[0] and corner[1] >= at[1] for corner in one.vertices)
            assert attained == (share * 100 >= one.percent), (at, share, one.percent)


def test_the_interval_is_that_of_the_drawn_frontiers_volumes():
    draws, reference = drawn(500, 6), {"val_loss": 2.2, "tokens_per_s": 2.0}
    volumes = []
    for loss, minus_log in zip(*draws.values, strict=True):
        at, volume = reference["tokens_per_s"], 0.0
        for speed in sorted(np.exp(-minus_log)):
            lowest = min(one for one, other in zip(loss, np.exp(-minus_log), strict=True) if other >= speed)
            if speed > at and lowest < reference["val_loss"]:
                volume, at = volume + (speed - at) * (reference["val_loss"] - lowest), speed
        volumes.append(volume)
    low, high = np.quantile(volumes, [0.025, 0.975])
    interval = hypervolume_interval(draws, OBJECTIVES, reference=reference)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


def test_of_more_objectives_there_is_a_volume_and_no_surface():
    draws = drawn(50, 5)
    three = {**OBJECTIVES, "params": "min"}
    values = (*draws.values, np.tile(np.linspace(5.0, 1.0, 5), (50, 1)))
    draws = Draws(values=values, on=on_frontier(values))
    assert attainment(draws, three) == ()
    reference = {"val_loss": 3.0, "tokens_per_s": 1.0, "params": 6.0}
    interval = hypervolume_interval(draws, three, reference=reference)
    assert 0 < interval.low < interval.high


def test_the_report_has_interval_band_and_rivals():
    planned, records = study(LOSSES, SPEEDS)
    result = found(records, planned)
    one = json.loads(json.dumps(frontier_json(result), allow_nan=False))["frontiers"][0]
    interval = one["hypervolume_interval"]
    assert 0 < interval["low"] < one["hypervolume"] < interval["high"] * 1.2
    assert [surface["percent"] for surface in one["attainment"]] == list(PERCENT)
    assert all(len(corner) == 2 for surface in one["attainment"] for corner in surface["vertices"])
    said = " ".join(noise_sentences(result.frontiers[0]))
    assert "95% interval" in said[said.index("Hypervolume") :]
    assert "95% of frontiers" in frontier_svg(frontier_json(result))
    off = [p for p in one["points"] if not p["on_frontier"] and p["dominated_by"]]
    sure, open_ = [[p for p in off if (p["dominated_by"][0]["chance"] >= 0.99) is sure] for sure in (True, False)]
    rivals = open_[0]["dominated_by"]
    assert 1 <= len(rivals) <= 3
    assert [r["chance"] for r in rivals] == sorted((r["chance"] for r in rivals), reverse=True)
    label = {p["point_id"]: p["label"] for p in one["points"]}
    first = f"{open_[0]['label']} by {label[rivals[0]['point_id']]} {rivals[0]['chance']:.0%}"
    assert first in (chances := said[said.index("Chance of being dominated") :])
    assert not any(f"{p['label']} by" in chances for p in sure)


def test_rivals_are_those_that_beat_a_point_in_the_draws():
    draws = drawn(300, 8, noise=0.5)
    loss, minus_log = draws.values
    for own, rivals in enumerate(draws.dominated_by([str(n) for n in range(8)])):
        chances = {
            str(other): float(np.mean((loss[:, other] <= loss[:, own]) & (minus_log[:, other] <= minus_log[:, own])))
            for other in range(8)
            if other != own
        }
        wanted = [chance for chance in sorted(chances.values(), reverse=True)[:3] if chance >= 0.05]
        assert [rival.chance for rival in rivals] == wanted
        assert all(chances[rival.point_id] == rival.chance for rival in rivals)


def test_without_noise_there_is_no_interval_and_no_band():
    planned, records = study(LOSSES, SPEEDS, seeds=1)
    one = found(records, planned).frontiers[0]
    assert (one.hypervolume_interval, one.attainment) == (None, ())
    assert all(p.dominated_by == () for p in one.points)
    assert "95% of frontiers" not in frontier_svg(frontier_json(found(records, planned)))


def test_of_many_points_draws_are_thinned():
    planned = plan([config(1 + n % 40, 16 * (1 + n // 40)) for n in range(240)])
    source = np.random.default_rng(0)
    means = [(1.5 + 0.1 * source.random(), math.exp(source.normal(10, 0.5))) for _ in planned]
    records = [
        final(p, seed, loss + 0.01 * source.standard_normal(), speed * math.exp(0.01 * source.standard_normal()))
        for p, (loss, speed) in zip(planned, means, strict=True) for seed in range(2)
    ]  # fmt: skip
    assert 4000 * len(planned) > MOST_VALUES
    one = found(records, planned).frontiers[0]
    assert len(one.points) == 240
    assert all(0 < len(surface.vertices) <= MOST_VERTICES for surface in one.attainment)
    assert one.hypervolume_interval.low > 0
    assert sum(bool(p.dominated_by) for p in one.points) > 200
