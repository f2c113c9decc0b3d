"""The terminal's tables and sentences, as they come out at 80 columns and off a terminal."""

from __future__ import annotations

import io
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from frontier_fakes import LOSSES, OBJECTIVES, SPEEDS, asked, config, final, plan, probe, study
from rich.console import Console

from sweeper.frontier.answer import answer
from sweeper.frontier.frontiers import frontier
from sweeper.ledger.lines import event_record
from sweeper.measurements.utilization import Utilization
from sweeper.planning.resolving import MicroBatches
from sweeper.report.facts import MOST_TIES, noise_sentences
from sweeper.report.figures import frontier_svg
from sweeper.report.frontier_json import frontier_json
from sweeper.report.tables import (
    frontier_table,
    loss_interval,
    plan_table,
    speed_interval,
    status_json,
    status_table,
    summary,
)
from sweeper.report.text import resolved_text, tie_groups, utilization_sentence
from sweeper.search.driver import Driver
from sweeper.search.grid import Grid
from sweeper.values.events import Failed
from sweeper.values.labels import short
from sweeper.values.records import Job


def found(planned, records):
    return frontier(records, study="depth-vs-ffn", profile="cpu", planned=planned, objectives=OBJECTIVES)


def shown(*renderables, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(*renderables, sep="\n")
    return console.file.getvalue()


def plan_json(planned):
    return {
        "schema": 1, "study": "depth-vs-ffn", "profile": "cpu",
        "lattice": {"points": 9, "feasible": len(planned), "dropped": {"params: too far off the budget": 2}},
        "configs": [
            {"config_id": p.config.config_id, **p.config.to_dict(), "params": vars(p.config.shape.params),
             "off_target": p.off_target, "train_flops_per_token": p.config.shape.train_flops_per_token(256),
             "memory_bytes": 4e8, "seconds": 25.0,
             "warnings": ["passes over its data 1.3 times"] + ["ffn_hidden 30 is odd"] * (i == 0)}
            for i, p in enumerate(planned)
        ],
        "totals": {"configs": len(planned), "trials": 3 * len(planned), "seeds": 3, "most_seeds": 3,
                   "tokens": 10_500_000, "train_flops": 4.4e13, "seconds": 525.0, "max_epochs": 0.1},
        "messages": {"params: too far off the budget": "L16 would need ffn_hidden 7"},
    }  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
def test_every_point_has_one_line_with_its_standing(width):
    planned, records = study(LOSSES, SPEEDS)
    result = found(planned, records)
    lines = shown(summary(result), width=width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert not any(line.startswith("\x1b") for line in lines), "no escape codes off a terminal"
    table = [line for line in lines if "±" in line and "k ±" in line and "+1.0%" in line]
    assert len(table) == len(result.frontiers[0].points) == 7
    for line, point in zip(table, result.frontiers[0].points, strict=True):
        assert line.strip().startswith(point.label)
        assert line.rstrip().endswith("tied (loss)" if point.standing == "tied" else point.standing)
    assert "tied (loss)" in "\n".join(table)


def test_long_labels_keep_80_columns():
    planned = plan([config(n, 1000 * n, lr=lr) for n in (1, 24) for lr in (1e-3, 3.5e-3)], batch_sizes=(4, 128))
    records = [final(p, s, 1.5 + 0.1 * s * i) for i, p in enumerate(planned) for s in range(3)]
    text = shown(summary(found(planned, records)))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "L24 f24000 lr 0.0035 b128 (" in " ".join(text.split()), "the answer has it whole"


def long_labels(seeds=3):
    """Points with labels like "L12 f2048 T256 tokens 500k lr 0.003 weight_decay 0.1"."""
    varied = [
        replace(c, recipe=replace(c.recipe, optimizer=replace(c.recipe.optimizer, weight_decay=decay)))
        for n, f in ((1, 1360), (12, 2048))
        for decay in (0.01, 0.1)
        for c in (config(n, f, lr=0.001 * n, precision="bf16" if n > 1 else "fp32"),)
    ]
    planned = plan(varied)
    records = [
        final(p, s, 2.5 + 0.1 * i + 0.02 * s * i, 37_060.0 * (1 + 0.1 * i + 0.004 * s * i))
        for i, p in enumerate(planned)
        for s in range(seeds)
    ]
    return planned, records


def test_long_labels_fold_so_that_numbers_and_headers_stay_whole():
    planned, records = long_labels()
    one = found(planned, records).frontiers[0]
    assert all(len(p.label) > 30 for p in one.points)
    status = status_json([*records, asked(planned[0], 3)], planned)
    wanted = {
        frontier_table(one): ("config params off val loss seeds tokens/s standing",
                              [cell for p in one.points for cell in (
                                  loss_interval(p.objectives["val_loss"]), speed_interval(p.objectives["tokens_per_s"]),
                                  short(p.params["total"]), p.standing)]),
        plan_table(plan_json(planned)): ("config params trunk off FLOPs/token memory time/trial",
                                         [cell for c in plan_json(planned)["configs"] for cell in (
                                             short(c["params"]["total"], 4), short(c["params"]["trunk"], 4), "+1.0%",
                                             short(c["train_flops_per_token"]), "381 MiB", "25 s")]),
        status_table(status): ("config done running failed missing why", ["3", "1"]),
    }  # fmt: skip
    for table, (headers, cells) in wanted.items():
        lines = shown(table).splitlines()
        assert all(len(line) <= 80 for line in lines)
        assert " ".join(next(line for line in lines if line.startswith("config")).split()) == headers
        for cell in cells:
            assert f" {cell} " in " ".join(lines) + " ", "whole, on one line"
        for word in one.points[0].label.split():
            assert word in " ".join(lines)


def test_a_tie_says_in_what():
    """b is as good as a in loss and slower; c is far worse in loss and, for all that noise tells, as fast."""
    planned = plan([config(n, 16) for n in (1, 2, 3, 4)])
    noise = ((0.0, 0.0), (0.02, 0.05), (-0.02, -0.05))
    means = ((1.5, 4e4), (1.501, 3e4), (1.8, 3.98e4), (1.501, 3.98e4))
    records = [
        final(p, s, loss + shift * (-1) ** i, speed * (1 + drift * (-1) ** i))
        for i, (p, (loss, speed)) in enumerate(zip(planned, means, strict=True))
        for s, (shift, drift) in enumerate(noise)
    ]
    result = found(planned, records)
    one = result.frontiers[0]
    assert {p.label: p.tied_in for p in one.points} == {
        "L1": (), "L2": ("val_loss",), "L3": ("tokens_per_s",), "L4": ("val_loss", "tokens_per_s"),
    }  # fmt: skip
    table = shown(frontier_table(one))
    assert all(f"tied ({what})" in table for what in ("loss", "speed", "both"))
    text = " ".join(noise_sentences(one))
    assert "L3 is tied with the frontier: L1 and L4 are not shown to beat it in speed." in text
    assert "L1 is not shown to beat it in both loss and speed." in text
    assert "being faster by less than 1% at best counts as no advantage" in text


def test_the_answer_names_the_ends_and_what_cannot_be_told_apart():
    planned, records = study(LOSSES, SPEEDS)
    result = found(planned, records)
    first, second = answer(result)
    one = result.frontiers[0]
    kept = [p for p in one.points if p.standing in ("frontier", "tied")]
    length = "at 500k tokens (1.13–1.23 per parameter)"
    assert first.startswith(f"Of 7 shapes with 407k–441k parameters, {length}, {len(kept)} are on the quality/speed")
    assert "from L1 f1360 (" in first
    assert all(
        name in second for name in ("L3 f384", "L4 f272", "L6 f144", "No shape is shown to reach the lowest loss")
    )
    assert f"{one.noise['val_loss'].smallest_resolved:.3f} nats at 3 seeds" in second


def test_tie_groups_hold_exactly_the_tied_pairs():
    planned, records = study(LOSSES, SPEEDS, rng=7)
    one = found(planned, records).frontiers[0]
    pairs = {frozenset((a, b)) for group in tie_groups(one) for a in group for b in group if a != b}
    assert pairs == {frozenset(tie.labels) for tie in one.ties}


def many(count=16):
    """Configs that differ little from their neighbours, and the frontier that is found of them."""
    planned = plan([config(1 + n, 64) for n in range(count)])
    draw = np.random.default_rng(5)
    records = [
        final(p, seed, 1.5 + 0.02 * n + draw.normal(0, 0.02), 4e4 - 2e3 * abs(n - 3))
        for n, p in enumerate(planned)
        for seed in range(3)
    ]
    return found(planned, records)


def test_of_many_groups_of_ties_the_best_are_listed_and_the_rest_counted():
    one = many().frontiers[0]
    groups = tie_groups(one)
    assert len(groups) > MOST_TIES
    said = next(sentence for sentence in noise_sentences(one) if sentence.startswith("Tied in loss"))
    assert said.count(";") == MOST_TIES
    assert f"and {len(groups) - MOST_TIES} more such group" in said
    assert groups[0][0] in said


def test_of_many_points_only_the_frontier_and_its_ties_are_named_in_the_figure():
    result = many()
    texts = {"".join(e.itertext()) for e in ET.fromstring(frontier_svg(frontier_json(result))).iter("text")}
    named = {p.label for p in result.frontiers[0].points if p.standing in ("frontier", "tied")}
    others = {p.label for p in result.frontiers[0].points} - named
    assert others
    assert len(named) <= 12
    assert named <= texts
    assert not others & texts


def test_the_answer_when_all_is_resolved_when_one_seed_and_when_nothing():
    planned, records = study({1: 1.9, 3: 1.5}, {1: 4e4, 3: 3e4}, noise=0.001)
    assert answer(found(planned, records))[1].startswith(
        "L3 f384 has the lowest loss, shown against each of the others"
    )
    planned, records = study({1: 1.5, 3: 1.9}, {1: 4e4, 3: 3e4}, noise=0.001)
    assert "one is on the frontier: L1 f1360" in answer(found(planned, records))[0]
    planned, records = study(LOSSES, SPEEDS, seeds=1)
    assert "no difference can be told from noise" in answer(found(planned, records))[1]
    nothing = answer(found(planned, []))
    assert nothing[0].startswith("Nothing is known yet: none of the 7")
    assert "`sweeper run` does it" in nothing[1]


def test_where_all_jobs_ended_without_a_result_no_run_is_promised():
    planned = plan([config(n, 16) for n in (1, 2, 3)])
    ends = ("diverged", "diverged", "out_of_memory")
    records = [final(p, 0, None, None, status=end) for p, end in zip(planned, ends, strict=True)]
    result = found(planned, records)
    first, second = answer(result)
    assert first.startswith("Nothing can be ranked: none of the 3 planned points")
    assert second == "All 3 jobs have ended: 2 diverged and 1 out of memory."
    assert not any("`sweeper run` does" in line for line in (first, second, *result.doubts))


def test_the_sentences_give_gap_noise_and_what_was_held_equal():
    planned, records = study(LOSSES, SPEEDS)
    one = found(planned, records).frontiers[0]
    text = " ".join(noise_sentences(one))
    assert f"{one.noise['val_loss'].minimum_detectable:.3f} would be found 8 times in 10" in text
    assert f"{one.gap.difference:.3f} ± {one.gap.standard_error:.3f} nats below L1 f1360" in text
    assert "Held equal: tokens" in text


def test_plan_table_and_notes():
    planned, _ = study(LOSSES, SPEEDS)
    text = shown(plan_table(plan_json(planned)))
    assert all(len(line) <= 80 for line in text.splitlines())
    words = " ".join(text.split())
    for expected in (
        "L12 f32 432.5k",
        "381 MiB",
        "25 s",
        "7 of 9 points of the lattice are feasible.",
        "Dropped 2: params: too far off the budget (such as: L16 would need ffn_hidden 7).",
        "21 trials (7 configs × 3 seeds): 10.5M tokens, 44.0T FLOPs, about 9 min",
        "! passes over its data 1.3 times",
        "! L1 f1360: ffn_hidden 30 is odd",
    ):
        assert expected in words
    assert words.count("passes over its data") == 1


def test_a_long_plan_is_cut_and_says_so():
    planned = plan([config(1, n) for n in range(1, 101)])
    assert "… 40 more" in shown(plan_table(plan_json(planned)))


def test_status_tells_done_running_failed_missing_and_why():
    planned = plan([config(n, 16) for n in (1, 2, 3)])
    a, b, _ = planned
    failure = Failed(job=Job(kind="train", config=b.config, execution=b.execution, seed=1), error="the [disk] is full")
    records = [
        asked(a, 0), final(a, 0, 1.5), asked(a, 1), final(b, 0, None, None, status="diverged"),
        asked(b, 1), event_record(failure),
    ]  # fmt: skip
    lines = shown(status_table(status_json(records, planned))).splitlines()
    cells = {line.split()[0]: line.split()[1:5] for line in lines if line.strip().startswith("L")}
    assert cells == {"L1": ["1", "1", "·", "·"], "L2": ["·", "·", "2", "·"], "L3": ["·", "·", "·", "2"]}
    assert "diverged; the [disk] is full" in "\n".join(lines)


def test_without_a_driver_what_was_asked_is_interrupted():
    planned = plan([config(n, 16) for n in (1, 2)])
    records = [asked(planned[0], 0), final(planned[1], 0, 1.5)]
    live, dead = (status_json(records, planned, live=live) for live in (True, False))
    assert [(row["running"], "interrupted" in row) for row in live["configs"]] == [(1, False), (0, False)]
    assert [(row["interrupted"], "running" in row) for row in dead["configs"]] == [(1, False), (0, False)]
    assert "interrupted" in shown(status_table(dead))
    assert "running" not in shown(status_table(dead))


def test_speed_jobs_are_counted_before_they_are_asked():
    planned = plan([config(1, 16), config(2, 16), config(2, 16, lr=3e-3)], batch_sizes=(4, 8))
    driver = Driver(
        Grid([point.config for point in planned[::2]]), seeds=2,
        micro_batches=lambda _: MicroBatches(executions=tuple(point.execution for point in planned[:2])),
    )  # fmt: skip
    status = status_json([probe(planned[1], 2000.0)], planned, seeds=2)
    assert status["jobs"] == {"ok": 1, "missing": len(driver.jobs) - 1}
    assert [(row["done"], row["missing"]) for row in status["configs"]] == [(1, 3), (0, 4), (0, 2)]
    assert status_json([], plan([config(1, 16)]), seeds=2)["jobs"] == {"missing": 2}, "no speed job of its own"


def test_tables_load_without_the_heavy_libraries():
    """`sweeper plan` starts with these."""
    code = (
        "import sys, sweeper.report.tables; "
        "print([m for m in ('numpy', 'scipy', 'matplotlib', 'jinja2', 'moocore', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_useful_fraction_is_said_in_a_unit_that_fits():
    def said(held_s):
        useful = Utilization(fraction=0.5, useful_s=held_s / 2, held_s=held_s, runs=1, trials=())
        return utilization_sentence(useful).split(": ", 1)[1]

    assert said(90.0).startswith("of 1.5 device-minutes that were held, 0.8 went")
    assert said(30.0).startswith("of 30.0 device-seconds that were held, 15.0 went")
    assert said(7200.0).startswith("of 2.0 device-hours that were held, 1.0 went")
    nothing = Utilization(fraction=None, useful_s=0.0, held_s=0.0, runs=0, trials=())
    assert utilization_sentence(nothing) == ""


def test_what_was_resolved_is_said_in_few_words():
    assert resolved_text({}) == ""
    resolved = {"batch_size": 16, "precision": "fp8", "steps": 1220, "tokens": 99}
    assert resolved_text(resolved) == "batch 16, fp8, 1,220 steps"


def test_what_was_put_last_is_said_with_its_reason():
    from sweeper.report.text import MOST_PUT_LAST, put_last_sentences

    one = {
        "label": "L8 f64", "than_label": "L2 f64", "tokens_per_s": 2100.0, "than_tokens_per_s": 9800.0, "chance": 0.013
    }  # fmt: skip
    planned, records = study({1: 1.0, 2: 1.1}, {1: 100.0, 2: 90.0})
    found = frontier(
        records, study="s", profile="full", planned=planned, objectives=OBJECTIVES,
        put_last=[one, *[{**one, "chance": 1e-6}] * MOST_PUT_LAST],
    )  # fmt: skip
    said = put_last_sentences(found)
    assert said[0] == (
        "L8 f64 was put last: slower than L2 f64 (2.10k against 9.80k tokens/s), and predicted to have a lower loss "
        "with a chance of 1.3%."
    )
    assert said[1].endswith("with a chance of less than 0.1%.")
    assert said[-1] == "1 more was put last for such reasons (frontier.json has them)."
