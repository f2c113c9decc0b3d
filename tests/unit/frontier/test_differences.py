"""What is said of extremes that are picked after looking: intervals for all pairs at once."""

from __future__ import annotations

import numpy as np
import pytest
from frontier_fakes import LOSSES, OBJECTIVES, SPEEDS, config, final, plan, probe, study
from ledger_lines import as_lines
from scipy import stats

from sweeper.frontier.frontiers import frontier
from sweeper.report.facts import noise_sentences
from sweeper.report.frontier_json import frontier_json
from sweeper.report.text import tied_means
from sweeper.stats.additive_fit import Observation, fit


def found(records, planned, **changes):
    return frontier(as_lines(records), study="s", profile="cpu", planned=planned, objectives=OBJECTIVES, **changes)


def balanced(table, speeds):
    """A report of configs × seeds of losses, and each config's speed."""
    planned = plan([config(n + 1, 16) for n in range(len(table))])
    records = [
        final(p, seed, float(loss), speed * (1 + 0.001 * (seed % 2)))
        for p, losses, speed in zip(planned, table, speeds, strict=True)
        for seed, loss in enumerate(losses)
    ]
    return found(records, planned)


def test_the_gap_is_that_of_tukeys_honest_significant_difference():
    """By hand for a randomised block design: q(0.95; k, (k − 1)(n − 1)) × s ÷ √n."""
    table = np.random.default_rng(0).normal(1.5, 0.02, size=(6, 4))
    one = balanced(table, np.linspace(3e4, 4e4, 6)).frontiers[0]
    residual = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    half = stats.studentized_range.ppf(0.95, 6, 15) * np.sqrt((residual**2).sum() / 15 / 4)
    gap = table.mean(1).max() - table.mean(1).min()
    assert one.gap.difference == pytest.approx(gap)
    assert (one.gap.low, one.gap.high) == (pytest.approx(gap - half, abs=1e-5), pytest.approx(gap + half, abs=1e-5))


def test_the_best_is_shown_against_all_by_the_pooled_t_and_against_the_runner_up_by_its_own_too():
    """By hand: the pooled t at 95%, and of the runner-up the paired t of the two alone, one-sided at 90%."""
    k, n = 6, 3
    seen = set()
    for number in range(12):
        table = np.random.default_rng(number).normal(1.5, 0.02, size=(k, n))
        table[0] -= 0.05
        best = balanced(table, np.linspace(3e4, 4e4, k)).frontiers[0].best["val_loss"]
        residual = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
        sd = np.sqrt((residual**2).sum() / (k - 1) / (n - 1))
        top = table.mean(1).argmin()
        gaps = np.delete(table, top, axis=0) - table[top]
        pooled = gaps.mean(1) > stats.t.ppf(0.975, (k - 1) * (n - 1)) * sd * np.sqrt(2 / n)
        nearest = gaps[gaps.mean(1).argmin()]
        own = nearest.mean() > stats.t.ppf(0.9, n - 1) * nearest.std(ddof=1) / np.sqrt(n)
        assert best.surely == (pooled.all() and own)
        assert len(best.tied_with) == (~pooled).sum() + (pooled[gaps.mean(1).argmin()] and not own)
        seen.add((bool(pooled.all()), bool(best.surely)))
    assert (True, True) in seen
    assert (True, False) in seen, "the pair's own differences can hold a best back"


def test_where_all_are_equal_a_pair_is_nearly_always_told_apart_but_the_extremes_are_not():
    """400 studies of 12 equal configs: some pair is resolved in most; the best and the worst in about one of 20."""
    source, configs, pairs, extremes = np.random.default_rng(1), "abcdefghijkl", 0, 0
    for _ in range(400):
        one = fit([
            Observation(treatment=c, block=str(seed), value=source.normal(1.5, 0.02))
            for c in configs for seed in range(3)
        ])  # fmt: skip
        values, errors = one.all_differences(configs)
        pairs += bool((np.abs(values) > one.all_quantiles(configs, 0.975) * errors).any())
        worst, best = (max(configs, key=lambda c: sign * one.mean(c).value) for sign in (1, -1))
        extremes += one.simultaneous_difference(worst, best).resolved
    assert pairs > 200
    assert 7 <= extremes <= 36, "5% are 20; each end has a chance below 0.1%"


def test_a_best_is_named_only_where_it_is_one():
    source = np.random.default_rng(2)
    noise = source.normal(0, 0.01, size=(5, 3))
    clear = balanced(np.array([1.5, 1.8, 1.9, 2.0, 2.1])[:, None] + noise, [1e4, 2e4, 3e4, 4e4, 5e4])
    best = clear.frontiers[0].best
    assert (best["val_loss"].surely, best["val_loss"].label, best["val_loss"].tied_with) == (True, "L1", ())
    assert (best["tokens_per_s"].surely, best["tokens_per_s"].label) == (True, "L5")
    equal = balanced(1.5 + noise, [3e4] * 5)
    assert [one.surely for one in equal.frontiers[0].best.values()] == [False, False]
    assert len(equal.frontiers[0].best["val_loss"].tied_with) == 4
    assert "noise alone can make of equal configs" in noise_sentences(equal.frontiers[0])[0]


def test_points_that_share_a_measurement_are_not_compared_in_it():
    planned = plan([config(1, 16), config(2, 16)], batch_sizes=(4, 8))
    records = [
        final(p, s, 1.5 + 0.3 * i + 0.01 * s * i, 1000.0 * (1 + 0.001 * s))
        for i, p in enumerate(planned[::2]) for s in range(3)
    ]  # fmt: skip
    records += [probe(p, 1000.0 + n) for n, p in enumerate(planned)]
    best = found(records, planned).frontiers[0].best["val_loss"]
    assert best.surely
    assert best.point_id.startswith(planned[0].config.config_id)


@pytest.mark.parametrize("seeds", [1, 3])
def test_without_noise_or_rivals_nothing_is_sure(seeds):
    planned, records = study(LOSSES, SPEEDS, seeds=1)
    assert {one.surely for one in found(records, planned).frontiers[0].best.values()} == {None}
    alone = plan([config(1, 16)])
    result = found([final(alone[0], s, 1.5 + 0.1 * s, 1e3 + s) for s in range(seeds)], alone)
    assert {one.surely for one in result.frontiers[0].best.values()} == {None}
    assert result.frontiers[0].gap is None


def test_the_verdict_is_in_the_json():
    planned, records = study(LOSSES, SPEEDS)
    best = frontier_json(found(records, planned))["frontiers"][0]["best"]
    assert best.keys() == OBJECTIVES.keys()
    assert all(one.keys() == {"point_id", "label", "surely", "tied_with"} for one in best.values())


def close(margins):
    """L1 is 0.03 nats better than L2 for sure, and L2 as fast within 0.5%; L3 is far worse and slower."""
    planned = plan([config(n, 16) for n in (1, 2, 3)])
    shift = ((0.001, -0.001), (-0.001, 0.001), (0.0, 0.0))
    records = [
        final(p, s, loss + shift[s][i % 2], speed * (1 + shift[s][i % 2]))
        for i, (p, (loss, speed)) in enumerate(zip(planned, ((1.5, 1e4), (1.53, 9960.0), (1.9, 5e3)), strict=True))
        for s in range(3)
    ]
    return found(records, planned, margins=margins)


def test_what_lies_wholly_within_the_margin_is_a_tie_and_said_to_be():
    strict, loose = (close({"val_loss": loss, "tokens_per_s": 0.02}).frontiers[0] for loss in (0.0, 0.05))
    assert [tie.labels for tie in strict.ties] == []
    assert {p.label: p.standing for p in strict.points} == {"L1": "frontier", "L2": "dominated", "L3": "dominated"}
    assert strict.best["val_loss"].surely
    (tie,) = loose.ties
    assert (tie.labels, tie.within_margin) == (("L1", "L2"), True)
    assert 0 < tie.low < tie.high < 0.05
    assert {p.label: p.standing for p in loose.points} == {"L1": "frontier", "L2": "tied", "L3": "dominated"}
    assert not loose.best["val_loss"].surely
    margins = {"val_loss": 0.05, "tokens_per_s": 0.02}
    said = " ".join(noise_sentences(loose, margins))
    assert "Tied within the stated margin of 0.05 nats, though told apart: L1 and L2." in said
    assert "faster by less than 2% at best" in said
    assert "nor one in loss below 0.05 nats" in tied_means(margins)
    assert frontier_json(close(margins))["margins"] == margins


def test_an_interval_that_reaches_over_the_margin_is_no_tie():
    one = close({"val_loss": 0.0301, "tokens_per_s": 0.0}).frontiers[0]
    assert not one.ties
    assert one.best["val_loss"].surely
