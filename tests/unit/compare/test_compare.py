"""Results side by side: differences in pairs, ratios of speeds, orders; each against a count of its own."""

from __future__ import annotations

import io
import itertools
import json
import math

import numpy as np
import pytest
from frontier_fakes import LOSSES, OBJECTIVES, PROXY, SPEEDS, config, environment, final, plan, probe
from ledger_lines import as_lines
from rich.console import Console
from scipy import stats

from sweeper.compare.comparison import compare, comparison_json, sides_of
from sweeper.frontier.frontiers import frontier
from sweeper.report.comparison import comparison_tables, page_pairs, pair_sentences
from sweeper.values.records import Resolved

POINTS = plan([config(n, f) for n, f in PROXY[:4]])


def records(points, losses, speeds, *, seeds=(0, 1, 2), **changes):
    """Finals; `losses` and `speeds` [points, seeds]."""
    return [
        final(point, seed, float(losses[i][j]), float(speeds[i][j]), **changes)
        for i, point in enumerate(points)
        for j, seed in enumerate(seeds)
    ]


def on(device, lines):
    return [{**line, "device": device, "environment": {**line["environment"], "device": device}} for line in lines]


def sides(planned, lines, *, seeds=9, folder="x"):
    lines = as_lines(lines)
    found = frontier(lines, study="s", profile="full", planned=planned, objectives=OBJECTIVES, seeds=seeds)
    return sides_of(found, lines, planned, seeds, folder=folder)


def pair_of(a, b, planned=POINTS, of_b=None):
    (pair,) = compare([*sides(planned, a), *sides(of_b or planned, b)]).pairs
    return pair


def drawn(rng=0, *, points=POINTS, n=3, shift=0.0, factor=1.0, noise=0.01):
    """Losses and speeds of both sides: what a seed brings is common, what is added is not."""
    draw = np.random.default_rng(rng)
    common = draw.normal(2.0, 0.3, (len(points), n))
    speed = np.array([40_000 / (i + 1) for i in range(len(points))])[:, None]
    a = common, speed * np.exp(draw.normal(0, 0.02, common.shape))
    b = (
        common + shift + draw.normal(0, noise, common.shape),
        factor * speed * np.exp(draw.normal(0, 0.05, common.shape)),
    )
    return a, b


def shown(found, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(comparison_tables(found))
    return console.file.getvalue()


def test_one_configs_difference_is_the_paired_t_interval():
    one = POINTS[:1]
    a, b = drawn(points=one, n=5, shift=0.02)
    seeds = range(5)
    (row,) = pair_of(records(one, *a, seeds=seeds), records(one, *b, seeds=seeds), one).rows
    wanted = stats.ttest_rel(b[0][0], a[0][0]).confidence_interval(0.95)
    assert (row.val_loss.low, row.val_loss.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert row.val_loss.difference == pytest.approx(np.mean(b[0] - a[0]), abs=1e-9)
    assert row.val_loss.means == pytest.approx((a[0].mean(), b[0].mean()))
    assert row.val_loss.seeds == (0, 1, 2, 3, 4)
    assert row.val_loss.paired


def test_noise_of_the_differences_is_pooled_over_configs():
    a, b = drawn(shift=np.array([[0.0], [0.03], [0.002], [-0.03]]))
    pair = pair_of(records(POINTS, *a), records(POINTS, *b))
    d = b[0] - a[0]
    sd = math.sqrt(d.var(axis=1, ddof=1).mean())  # all have three seeds
    half = stats.t.ppf(0.975, 2 * len(POINTS)) * sd / math.sqrt(3)
    by_id = {row.config_id: row for row in pair.rows}
    for point, own in zip(POINTS, d, strict=True):
        loss = by_id[point.config.config_id].val_loss
        assert (loss.low, loss.high) == pytest.approx((own.mean() - half, own.mean() + half), abs=1e-9)
        assert loss.tie == (abs(own.mean()) <= half)
    assert {row.val_loss.tie for row in pair.rows} == {True, False}, "both kinds are looked at"


def test_pairs_see_what_the_seeds_luck_would_hide():
    """Seeds differ by 0.3, the sides by 0.05 ± 0.001: unpaired, that would be a tie."""
    a, b = drawn(shift=0.05, noise=0.001)
    pair = pair_of(records(POINTS, *a), records(POINTS, *b))
    assert [row.val_loss.tie for row in pair.rows] == [False] * 4
    assert stats.ttest_ind(b[0][0], a[0][0]).pvalue > 0.5


def test_only_common_seeds_are_paired():
    one = POINTS[:1]
    a = records(one, [[2.0, 2.1, 2.3]], [[100.0] * 3], seeds=(0, 1, 2))
    b = records(one, [[2.2, 2.4, 9.0]], [[100.0] * 3], seeds=(1, 2, 3))
    (row,) = pair_of(a, b, one).rows
    assert row.val_loss.seeds == (1, 2)
    assert row.val_loss.means == pytest.approx((2.2, 2.3))
    assert row.val_loss.difference == pytest.approx(0.1)
    assert row.tokens_per_s.n == (3, 3), "a speed has no seed"


def test_without_a_common_seed_it_is_two_samples_and_said():
    one = POINTS[:1]
    x, y = [2.0, 2.1, 2.3], [2.2, 2.4, 2.35]
    a = records(one, [x], [[100.0] * 3])
    b = records(one, [y], [[100.0] * 3], seeds=(3, 4, 5))
    found = compare([*sides(one, a), *sides(one, b)])
    ((row,),) = (pair.rows for pair in found.pairs)
    wanted = stats.ttest_ind(y, x).confidence_interval(0.95)
    assert (row.val_loss.low, row.val_loss.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert not row.val_loss.paired
    assert "*: no seed in common, so not paired." in " ".join(shown(found, 80).split())


def test_one_configs_ratio_is_welchs_interval_of_the_logarithms():
    one = POINTS[:1]
    a, b = drawn(3, points=one, n=4, factor=8.0)
    seeds = range(4)
    (row,) = pair_of(records(one, *a, seeds=seeds), records(one, *b, seeds=seeds), one).rows
    x, y = np.log(a[1][0]), np.log(b[1][0])
    wanted = stats.ttest_ind(y, x, equal_var=False).confidence_interval(0.95)
    speed = row.tokens_per_s
    assert (speed.low, speed.high) == pytest.approx((math.exp(wanted.low), math.exp(wanted.high)), rel=1e-9)
    assert speed.ratio == pytest.approx(math.exp(y.mean() - x.mean()))
    assert speed.means == pytest.approx((math.exp(x.mean()), math.exp(y.mean())))
    assert speed.tie is False


def test_probes_count_for_speeds_and_points_of_one_config_share_its_loss():
    """Micro-batches as an axis: the one that trials don't use is known from a probe alone."""
    planned = plan([config(1), config(2, 624)], batch_sizes=(4, 8))
    trained = [point for point in planned if point.execution.batch_size == 4]

    def lines(factor):
        losses, speeds = [[2.0, 2.1, 2.2], [1.9, 2.0, 2.1]], [[100 * factor] * 3, [80 * factor] * 3]
        probes = [probe(p, 50.0 * factor) for p in planned if p.execution.batch_size == 8]
        return records(trained, losses, speeds) + probes

    pair = pair_of(lines(1), lines(3), planned)
    assert [(row.label, row.batch_size) for row in pair.rows] == [
        ("L1 f1360 b4", (4, 4)), ("L2 f624 b4", (4, 4)), ("L1 f1360 b8", (8, 8)), ("L2 f624 b8", (8, 8)),
    ]  # fmt: skip
    assert [row.tokens_per_s.ratio for row in pair.rows] == pytest.approx([3.0] * 4)
    assert [row.tokens_per_s.n for row in pair.rows] == [(3, 3), (3, 3), (1, 1), (1, 1)]
    assert pair.kendall_tau["val_loss"].n == 2
    assert pair.kendall_tau["tokens_per_s"].n == 4


def test_a_probe_that_won_over_others_is_left_out_as_in_the_frontier():
    """Precision auto: fp8 was chosen for its probe, which reads too high; the trials' speeds count alone."""
    planned = plan([config(1, precision="auto")])
    trials = [final(planned[0], seed, 2.0, 100.0 + seed, resolved=Resolved(precision="fp8")) for seed in range(3)]
    lines = [probe(planned[0], 50.0, "bf16"), probe(planned[0], 500.0, "fp8"), *trials]
    (row,) = pair_of(lines, trials, planned).rows
    assert row.tokens_per_s.n == (3, 3)
    assert row.tokens_per_s.ratio == pytest.approx(1)


def brute_tau(x, y):
    signs = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in itertools.combinations(zip(x, y, strict=True), 2)]
    untied = [sum(s[i] != 0 for s in signs) for i in (0, 1)]
    return sum(s * t for s, t in signs) / math.sqrt(untied[0] * untied[1])


@pytest.mark.parametrize("rng", range(4))
def test_tau_is_that_of_all_pairs_counted(rng):
    points = plan([config(n, f) for n, f in PROXY])
    draw = np.random.default_rng(rng)
    losses = [draw.choice([2.0, 2.1, 2.2, 2.3, 2.4], len(points)) for _ in range(2)]  # with ties
    speeds = [draw.permutation(len(points)) + 1.0 for _ in range(2)]
    a, b = ([[value] for value in one] for one in losses)
    s, t = ([[value] for value in one] for one in speeds)
    pair = pair_of(records(points, a, s, seeds=(0,)), records(points, b, t, seeds=(0,)), points)
    assert pair.kendall_tau["val_loss"].tau == pytest.approx(brute_tau(*losses))
    assert pair.kendall_tau["tokens_per_s"].tau == pytest.approx(brute_tau(*speeds))
    assert {row.val_loss.tie for row in pair.rows} == {None}, "a seed each tells nothing of noise"
    assert "7 unknown (“?”" in pair_sentences(pair)[0]


def test_an_order_of_one_place_has_no_tau():
    one = POINTS[:1]
    pair = pair_of(records(one, [[2.0]], [[1.0]], seeds=(0,)), records(one, [[2.0]], [[1.0]], seeds=(0,)), one)
    assert pair.kendall_tau["val_loss"].tau is None
    assert "too few to compare their order" in pair_sentences(pair)[0]


def test_the_same_results_are_ties_throughout():
    a, _ = drawn()
    pair = pair_of(records(POINTS, *a), records(POINTS, *a))
    for row in pair.rows:
        assert (row.val_loss.difference, row.val_loss.low, row.val_loss.high, row.val_loss.tie) == (0, 0, 0, True)
        assert row.tokens_per_s.ratio == 1
        assert row.tokens_per_s.tie
    assert pair.kendall_tau["val_loss"].tau == pytest.approx(1)
    assert pair.notes == ()


def test_losses_on_other_data_are_not_compared_speeds_are():
    a, b = drawn(factor=2.0)
    pair = pair_of(records(POINTS, *a), records(POINTS, *b, environment=environment(data_fingerprint="beef")))
    assert [row.val_loss for row in pair.rows] == [None] * 4
    assert all(row.tokens_per_s.ratio == pytest.approx(2, rel=0.2) for row in pair.rows)
    assert (pair.kendall_tau["val_loss"].tau, pair.kendall_tau["val_loss"].n) == (None, 0)
    assert pair.notes == (
        "Losses on python-stdlib aren't compared: it isn't the same data in both (fingerprint f00d in A, beef in B).",
    )
    assert not any("Loss: of" in sentence for sentence in pair_sentences(pair))


def test_data_without_a_fingerprint_is_taken_by_its_name():
    a, b = drawn()
    pair = pair_of(records(POINTS, *a), records(POINTS, *b, environment=environment(data_fingerprint=None)))
    assert None not in [row.val_loss for row in pair.rows]


def test_configs_of_one_side_alone_are_counted_and_another_torch_is_said():
    a, b = drawn()
    other = records(POINTS[2:3], b[0][2:], b[1][2:], environment=environment(versions={"torch": "2.14.0"}))
    pair = pair_of(records(POINTS, *a), other)
    assert [row.label for row in pair.rows] == ["L3 f384"]
    assert pair.only == (3, 0)
    assert pair.notes == ("torch isn't the same in both: 2.13.0 in A, 2.14.0 in B.",)
    assert "With results in A alone: 3 configs; in B alone: 0." in pair_sentences(pair)


def test_nothing_in_common_is_said():
    a, b = drawn()
    found = compare([*sides(POINTS, records(POINTS[:2], *a)), *sides(POINTS, records(POINTS[2:], *b))])
    assert found.pairs[0].rows == ()
    assert "No config has results in both." in shown(found, 80)
    assert "95% intervals" not in shown(found, 80)
    assert page_pairs(found)[0]["tables"] == []


def test_labels_of_two_studies_name_what_differs_among_the_shared():
    """One study varies depth and FFN, the other depth and learning rate."""
    shared = [config(1, 1360), config(2, 624)]
    one, two = plan([*shared, config(2, 1360)]), plan([*shared, config(1, 1360, lr=1e-3)])
    a = records(one, [[2.0], [2.1], [2.2]], [[3.0], [2.0], [1.0]], seeds=(0,))
    b = records(two, [[2.0], [2.1], [2.2]], [[3.0], [2.0], [1.0]], seeds=(0,))
    pair = pair_of(a, b, one, of_b=two)
    assert [row.label for row in pair.rows] == ["L1 f1360", "L2 f624"]
    assert pair.only == (1, 1)


def test_what_was_resolved_differently_is_compared_and_said():
    planned = plan([config(1, precision="auto")])
    a, b = ([final(planned[0], seed, 2.0 + seed / 10, 100.0, resolved=Resolved(precision=p)) for seed in range(2)]
            for p in ("bf16", "fp8"))  # fmt: skip
    pair = pair_of(a, b, planned)
    assert pair.rows[0].val_loss.tie
    assert pair_sentences(pair)[-1].startswith("Resolved differently: ")
    assert "(bf16 in A, fp8 in B)" in pair_sentences(pair)[-1]


def test_kinds_of_device_of_one_ledger_are_sides_and_the_first_is_compared_with_each():
    a, b = drawn()
    lines = [*on("CPU", records(POINTS, *a)), *on("H100", records(POINTS, *b)), *on("H200", records(POINTS, *b))]
    found = compare(sides(POINTS, lines, folder=""))
    assert [(side.name, side.found.device) for side in found.sides] == [("A", "CPU"), ("B", "H100"), ("C", "H200")]
    assert [(pair.a, pair.b) for pair in found.pairs] == [("A", "B"), ("A", "C")]
    assert "A  CPU · 4 configs · seeds 0, 1 and 2\n" in shown(found, 120)


def two_studies():
    points = plan([config(n, f) for n, f in PROXY])
    draw = np.random.default_rng(1)
    values = [LOSSES[n] for n, _ in PROXY], [SPEEDS[n] for n, _ in PROXY]
    a, b = ([np.array(v)[:, None] * np.exp(draw.normal(0, 0.01, (7, 3))) for v in values] for _ in range(2))
    faster = np.array([0.5, 2, 1, 1, 2, 0.5, 2])[:, None]
    return compare(
        [*sides(points, records(points, *a)), *sides(points, on("H100", records(points, b[0], b[1] * faster)))]
    )


@pytest.mark.parametrize(("width", "tables"), [(80, 2), (120, 1)])
def test_every_config_has_a_line_within_the_width(width, tables):
    found = two_studies()
    lines = shown(found, width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert sum(line.startswith("config ") for line in lines) == tables
    for row in found.pairs[0].rows:
        assert sum(line.startswith(f"{row.label} ") for line in lines) == tables


def test_cells_are_the_numbers():
    found = two_studies()
    row = found.pairs[0].rows[0]
    losses, speeds = (dict(zip([h for h, _ in table["headers"]], table["rows"][0], strict=True))
                      for table in page_pairs(found)[0]["tables"])  # fmt: skip
    loss, speed = row.val_loss, row.tokens_per_s
    assert losses["B − A"] == f"{loss.difference:+.3f} ± {loss.high - loss.difference:.3f}"
    assert losses["lower"] == ("tie" if loss.tie else "B" if loss.difference < 0 else "A")
    assert speeds["B ÷ A"] == f"{speed.ratio:.2f} ({speed.low:.2f}–{speed.high:.2f})"
    assert speeds["faster"] == ("tie" if speed.tie else "B" if speed.ratio > 1 else "A")
    assert [line[4] for line in page_pairs(found)[0]["tables"][1]["rows"]] == ["A", "B", "tie", "tie", "B", "A", "B"]
    assert losses["config"] == speeds["config"] == row.label
    assert ("A" in speeds["frontier"]) == (row.standing[0] in ("frontier", "tied"))


def test_the_better_side_is_named():
    better, worse = [[1.0, 1.1], [1.0, 1.12]], [[2.0, 2.1], [2.0, 2.11]]
    fast, slow = [[200.0, 201.0]] * 2, [[100.0, 101.0]] * 2
    pair = pair_of(records(POINTS[:2], better, slow, seeds=(0, 1)), records(POINTS[:2], worse, fast, seeds=(0, 1)))
    assert pair_sentences(pair)[0].startswith("Loss: of 2 configs, 2 lower in A; Kendall's tau of the two orders is ")
    assert pair_sentences(pair)[1].startswith("Speed: of 2 configs, 2 faster in B; ")


def test_json_is_plain_and_whole():
    found = two_studies()
    plain = comparison_json(found, frontier={"schema": 1}, notes=["x"])
    assert json.loads(json.dumps(plain, allow_nan=False)) == json.loads(json.dumps(plain))
    assert list(plain) == ["schema", "confidence", "sources", "notes", "frontier", "pairs", "comparison"]
    assert plain["sources"][1] == {
        "name": "B", "folder": "x", "study": "s", "profile": "full", "device": "H100", "seeds": [0, 1, 2], "configs": 7,
    }  # fmt: skip
    assert len(plain["comparison"]) == 7
    assert {(row["a"], row["b"]) for row in plain["comparison"]} == {("A", "B")}
    assert "rows" not in plain["pairs"][0]
