"""What branches say: orders against scipy, intervals against a known truth, equal amounts against a power law."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from ledger_lines import as_lines
from rich.console import Console
from scipy.stats import kendalltau

from sweeper.frontier.answer import answer
from sweeper.frontier.frontiers import frontier
from sweeper.frontier.horizons import held_for_longer, horizons, interpolated
from sweeper.report.frontier_json import frontier_json
from sweeper.report.horizons import agreement_sentences
from sweeper.report.page.html import render
from sweeper.report.tables import summary
from tests.unit.frontier_fakes import OBJECTIVES, config, final, plan

DEPTHS = ((1, 1360), (2, 624), (3, 384), (4, 272), (6, 144), (8, 80))
POINTS = plan([config(n, f) for n, f in DEPTHS])
LABELS = {point.config.config_id: f"L{point.config.shape.n_layers}" for point in POINTS}
AT = (0.25, 0.5)
STEPS, PER_STEP = 488, 1024


def ledger(losses, *, seeds=3, noise=0.0, rng=0, points=POINTS, seconds=lambda n, fraction: 20.0 * n * fraction):
    """Records of trials whose cooled losses at 25%, 50% and the end are `losses` [lengths, configs], and noise.

    A trial's noise is in common to its branches, but for a third; a seed shifts all alike at each length.
    """
    draw = np.random.default_rng(rng)
    records = []
    for seed in range(seeds):
        shift = draw.normal(0, 0.05, 3)
        for place, point in enumerate(points):
            own = draw.normal(0, noise) + draw.normal(0, noise / 3, 3) + shift + losses[:, place]
            n = point.config.shape.n_layers
            made = final(point, seed, float(own[2]))
            made["seconds"] = {**made["seconds"], "train": seconds(n, 1.0)}
            made["branches"] = [
                {
                    "fraction": fraction, "tokens": round(fraction * STEPS) * PER_STEP, "val_loss": float(loss),
                    "val_bpb": None, "train_seconds": seconds(n, fraction),
                }
                for fraction, loss in zip(AT, own, strict=False)
            ]  # fmt: skip
            records.append(made)
    return records


CROSSING = np.array(
    [[2.50, 2.40, 2.42, 2.44, 2.60, 2.70], [2.20, 2.12, 2.10, 2.11, 2.15, 2.30], [2.00, 1.90, 1.88, 1.86, 1.80, 1.95]]
)


def test_orders_agree_as_scipys_kendall_says():
    found = horizons(as_lines(ledger(CROSSING)), LABELS)
    assert [one.fraction for one in found.horizons] == [0.25, 0.5, 1.0]
    for place, horizon in enumerate(found.horizons[:2]):
        assert horizon.agreement.tau == pytest.approx(kendalltau(CROSSING[place], CROSSING[2]).statistic)
        assert horizon.agreement.pairs == 15
    assert found.horizons[-1].agreement is None
    ranks = {one.label: one.rank for one in found.horizons[-1].losses}
    assert ranks == {"L6": 1, "L4": 2, "L3": 3, "L2": 4, "L8": 5, "L1": 6}


def test_flips_are_the_pairs_that_change_places_beyond_noise_and_no_others():
    quiet = horizons(as_lines(ledger(CROSSING, noise=0.001)), LABELS).horizons[0].agreement
    gaps = [
        (CROSSING[0, j] - CROSSING[0, i], CROSSING[2, j] - CROSSING[2, i]) for i in range(6) for j in range(i + 1, 6)
    ]
    turned = sum(a * b < 0 for a, b in gaps)
    assert len(quiet.flips) == quiet.reversed == turned == 8
    for flip in quiet.flips:
        assert flip.before > 0 > flip.after
    backwards = horizons(as_lines(ledger(CROSSING, noise=0.001)[::-1]), LABELS).horizons[0].agreement
    assert {(f.labels, round(f.before, 6), round(f.after, 6)) for f in backwards.flips} == {
        (f.labels, round(f.before, 6), round(f.after, 6)) for f in quiet.flips
    }
    assert quiet.flips[0].labels in {("L1", "L6"), ("L2", "L6")}
    loud = horizons(as_lines(ledger(CROSSING, noise=0.5)), LABELS).horizons[0].agreement
    assert loud.flips == ()


def test_of_one_seed_there_is_an_order_and_nothing_is_told_apart():
    one = horizons(as_lines(ledger(CROSSING, seeds=1)), LABELS).horizons[0].agreement
    assert one.tau == pytest.approx(kendalltau(CROSSING[0], CROSSING[2]).statistic)
    assert (one.resolved, one.agree, one.flips) == (None, None, ())
    assert (one.cost.low, one.cost.high) == (None, None)
    assert one.cost.value == pytest.approx(0.1), "L2 is the lowest at a quarter; at the end it's 0.1 above L6"
    assert one.labels == {one.cost.chosen: "L2", one.cost.best: "L6"}
    first, second = agreement_sentences(one, here="at 25%", later="at the end")
    turned = "8 of 15 pairs are the other way round at the end than at 25%"
    assert first == f"{turned}, by the means; nothing is known of the noise."
    assert second == "Choosing at 25% takes L2, which costs 0.100 nats at the end against L6."


def test_of_the_pairs_told_apart_at_the_end_those_in_the_same_order_are_counted():
    quiet = horizons(as_lines(ledger(CROSSING, noise=0.001)), LABELS).horizons[0].agreement
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    same = sum((CROSSING[0, j] - CROSSING[0, i]) * (CROSSING[2, j] - CROSSING[2, i]) > 0 for i, j in pairs)
    assert (quiet.resolved, quiet.agree) == (15, same) == (15, 7)
    assert quiet.cost.low < 0.1 < quiet.cost.high < 0.11
    first, second = agreement_sentences(quiet, here="at 25%", later="at the end")[:2]
    ordered = "Of 15 pairs that are told apart at the end, 7 are so ordered at 25% too"
    assert first == f"{ordered}; 8 are the other way round beyond noise."
    assert second.startswith("Choosing at 25% takes L2, which costs 0.099 nats at the end (95%: 0.")
    loud = horizons(as_lines(ledger(CROSSING, noise=0.9)), LABELS).horizons[0].agreement
    assert (loud.resolved, loud.cost.low) == (0, 0.0)
    assert (
        agreement_sentences(loud, here="at 25%", later="at the end")[0]
        == "No pair of configs is told apart at the end."
    )


def test_the_cost_of_choosing_at_a_branch_is_held_by_its_interval():
    """120 worlds whose order changes between the two lengths: it misses in no more than 5%, 2 standard errors up."""
    draw, held = np.random.default_rng(5), 0
    for world in range(120):
        before = draw.normal(0, 0.03, 6)
        losses = 2 + np.array([before, before, 0.7 * before + draw.normal(0, 0.02, 6)])
        one = horizons(as_lines(ledger(losses, noise=0.02, rng=world)), LABELS).horizons[0].agreement
        place = [one.labels[one.cost.chosen] == LABELS[p.config.config_id] for p in POINTS].index(True)
        held += one.cost.low - 1e-9 <= losses[2, place] - losses[2].min() <= one.cost.high + 1e-9
    assert held >= 109


def test_losses_at_equal_amounts_lie_on_a_power_law_where_all_do():
    """loss = 10·seconds^−0.1 for every config: at equal time all are equal, however fast they are."""
    seconds = np.array([[20.0 * n * fraction for n, _ in DEPTHS] for fraction in (0.25, 0.5, 1.0)])
    losses = 10 * seconds**-0.1
    records = ledger(losses, seeds=1)
    shift = np.random.default_rng(0).normal(0, 0.05, 3)
    for record in records:
        record["val_loss"] -= shift[2]
        for place, branch in enumerate(record["branches"]):
            branch["val_loss"] -= shift[place]
    found = horizons(as_lines(records), LABELS)
    for one in found.equal:
        if one.quantity == "train_seconds":
            known = [loss for loss in one.losses.values() if loss is not None]
            assert known == pytest.approx([10 * one.at**-0.1] * len(known))
    by_time = {one.at: one.losses for one in found.equal if one.quantity == "train_seconds"}
    assert sorted(by_time) == [5.0, 10.0, 20.0]
    of_depth = {label: config_id for config_id, label in LABELS.items()}
    assert by_time[5.0][of_depth["L8"]] is None, "its first branch comes at 40 s"
    assert by_time[20.0][of_depth["L4"]] is not None
    tokens = [one for one in found.equal if one.quantity == "tokens"]
    assert [one.at for one in tokens] == [122 * 1024, 244 * 1024, 488 * 1024]
    assert all(loss is not None for one in tokens for loss in one.losses.values())
    flops = [one for one in found.equal if one.quantity == "train_flops"]
    slowest = min(p.config.shape.train_flops_per_token(256) for p in POINTS)
    assert [one.at for one in flops] == [slowest * one.at for one in tokens]


def test_nothing_is_extrapolated():
    course = [(1.0, 4.0), (4.0, 2.0)]
    assert interpolated(course, 2.0) == pytest.approx(8**0.5)
    assert interpolated(course, 4.0) == pytest.approx(2.0)
    assert interpolated(course, 0.99) is None
    assert interpolated(course, 4.01) is None
    assert interpolated([], 1.0) is None


def test_trials_without_a_branch_are_counted_and_a_lost_loss_is_no_loss():
    records = ledger(CROSSING)
    for record in records[:2]:
        record["branches"] = record["branches"][:1]
    records[3]["branches"][1]["val_loss"] = None
    found = horizons(as_lines(records), LABELS)
    assert (found.trials, found.without) == (18, 2)
    assert sum(one.n for one in found.horizons[1].losses) == 15
    assert sum(one.n for one in found.horizons[2].losses) == 18
    assert horizons(as_lines({**record, "branches": []} for record in records), LABELS) is None


def study(records, points=POINTS, **options):
    return frontier(as_lines(records), study="s", profile="full", planned=points, objectives=OBJECTIVES, **options)


def page(found, records):
    totals = {"most_seeds": 3, "trials": 18, "configs": 6, "seeds": 3, "tokens": 1, "train_flops": 1, "seconds": 1.0}
    planned = {"configs": [], "lattice": {"points": 6, "feasible": 6}, "totals": totals}
    return render(found, plan_json=planned, study={"name": "s"}, records=as_lines(records), command="x")


def printed(found):
    console = Console(width=140, file=io.StringIO())
    console.print(summary(found, details=True))
    return console.file.getvalue()


def test_the_report_shows_them_everywhere():
    records = ledger(CROSSING, noise=0.001)
    found = study(records)
    (plain,) = json.loads(json.dumps(frontier_json(found), allow_nan=False))["frontiers"]
    assert [one["fraction"] for one in plain["horizons"]["horizons"]] == [0.25, 0.5, 1.0]
    for text in (printed(found), page(found, records)):
        assert "Would it hold for longer?" in text
        ordered = "Of 15 pairs that are told apart at the end, 7 are so ordered at 25% of the tokens too"
        assert f"{ordered}; 8 are the other way round beyond noise." in " ".join(text.split())
        assert "5 more such pairs are in frontier.json." in text
    assert [line for line in page(found, records).splitlines() if line.startswith("<tr><td>L6 f144") and "± " in line]


def test_without_branches_the_answer_says_for_how_long_it_holds():
    records = [{**record, "branches": []} for record in ledger(CROSSING)]
    bare = study(records)
    assert bare.frontiers[0].horizons is None
    assert answer(bare)[0].endswith(" at 500k tokens, shown against all 5 others.")
    assert answer(bare)[-1].startswith("Holds for 407k to 441k parameters at 1.13 to 1.23 tokens per parameter on ")
    assert "Would it hold" not in printed(bare) + page(bare, records)
    assert answer(study(ledger(CROSSING)))[0].endswith(" of training, shown against all 5 others.")


def test_a_study_that_asks_for_branches_has_trials_without_them_to_do():
    records = ledger(CROSSING, seeds=1)
    for record in records[:2]:
        record["branches"] = []
    asking = [replace(point, branch_at=AT) for point in POINTS]
    assert study(records, seeds=1).to_do == 0
    found = study(records, asking, seeds=1)
    assert found.to_do == 2
    assert len(found.frontiers[0].points) == 6, "what is known of them counts meanwhile"


def test_what_was_trained_longer_is_laid_beside_the_same_seeds():
    """The study's third seed turns the means of the two; those that were trained longer don't have it."""
    study = [final(POINTS[0], s, 2.0 + 0.01 * s) for s in range(3)]
    study += [final(POINTS[1], s, 2.1 + 0.01 * s - (s == 2)) for s in range(3)]
    longer = [config(n, f, steps=4 * STEPS) for n, f in DEPTHS[:2]]
    originals = {one.config_id: point.config.config_id for one, point in zip(longer, POINTS, strict=False)}
    after = [final(point, s, 1.0 + n / 10 + 0.01 * s) for n, point in enumerate(plan(longer)) for s in range(2)]
    found = held_for_longer(as_lines(study), as_lines(after), originals, LABELS)
    assert [(one.label, one.rank, one.n) for one in found.before] == [("L1", 1, 2), ("L2", 2, 2)]
    assert [one.mean for one in found.before] == pytest.approx([2.005, 2.105])
    assert found.agreement.tau == 1
    assert found.agreement.reversed == 0
