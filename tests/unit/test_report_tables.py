"""The terminal's tables and sentences, as they come out at 80 columns and off a terminal."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from frontier_fakes import LOSSES, OBJECTIVES, SPEEDS, asked, config, final, plan, study
from rich.console import Console

from sweeper.frontier import frontier
from sweeper.records import Failed, Job, event_record
from sweeper.report.tables import plan_table, status_json, status_table, summary
from sweeper.report.text import answer, noise_sentences, tie_groups


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
        "totals": {"configs": len(planned), "trials": 3 * len(planned), "seeds": 3, "tokens": 10_500_000,
                   "train_flops": 4.4e13, "seconds": 525.0, "max_epochs": 0.1},
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
        assert line.rstrip().endswith({"frontier": "frontier", "dominated": "dominated"}.get(
            point.standing, "tied" if width == 80 else "tied with frontier"))  # fmt: skip


def test_long_labels_keep_80_columns():
    planned = plan([config(n, 1000 * n, lr=lr) for n in (1, 24) for lr in (1e-3, 3.5e-3)], batch_sizes=(4, 128))
    records = [final(p, s, 1.5 + 0.1 * s * i) for i, p in enumerate(planned) for s in range(3)]
    text = shown(summary(found(planned, records)))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "L24 f24000 lr 0.0035 b128" in text


def test_the_answer_names_the_ends_and_what_cannot_be_told_apart():
    planned, records = study(LOSSES, SPEEDS)
    result = found(planned, records)
    first, second = answer(result)
    one = result.frontiers[0]
    kept = [p for p in one.points if p.standing in ("frontier", "tied")]
    assert first.startswith(f"Of 7 shapes with 407k–441k parameters, {len(kept)} are on the quality/speed frontier")
    assert "from L1 f1360 (" in first
    assert all(name in second for name in ("L3 f384", "L4 f272", "L6 f144", "can't be told apart in loss"))
    assert f"{one.noise['val_loss'].smallest_resolved:.3f} nats are within noise at 3 seeds" in second


def test_tie_groups_hold_exactly_the_tied_pairs():
    planned, records = study(LOSSES, SPEEDS, rng=7)
    one = found(planned, records).frontiers[0]
    pairs = {frozenset((a, b)) for group in tie_groups(one) for a in group for b in group if a != b}
    assert pairs == {frozenset(tie.labels) for tie in one.ties}


def test_the_answer_when_all_is_resolved_when_one_seed_and_when_nothing():
    planned, records = study({1: 1.9, 3: 1.5}, {1: 4e4, 3: 3e4}, noise=0.001)
    assert answer(found(planned, records))[1].startswith("All differences in loss are resolved")
    planned, records = study({1: 1.5, 3: 1.9}, {1: 4e4, 3: 3e4}, noise=0.001)
    assert "one is on the frontier: L1 f1360" in answer(found(planned, records))[0]
    planned, records = study(LOSSES, SPEEDS, seeds=1)
    assert "no difference can be told from noise" in answer(found(planned, records))[1]
    assert answer(found(planned, []))[0].startswith("Nothing is known yet: none of the 7")


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


def test_tables_load_without_the_heavy_libraries():
    """`sweeper plan` starts with these."""
    code = (
        "import sys, sweeper.report.tables; "
        "print([m for m in ('numpy', 'scipy', 'matplotlib', 'jinja2', 'moocore', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
