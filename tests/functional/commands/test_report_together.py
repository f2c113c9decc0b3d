"""`sweeper report A B`: merged where it is one study, side by side in any case, nothing written without --out."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from sweeper.commands.main import main

RECORDED = Path(__file__).parents[3] / "benchmarks" / "results" / "first"
RATIO = {1: 9.0, 2: 14.0, 4: 16.0}
"""Of the altered copy's speeds to the recorded ones, by depth: another order, as L2 becomes the fastest."""
SHIFT = {1: 0.03, 2: -0.02, 4: 0.0}
"""What the altered copy's losses have more."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def said(place, capsys):
    def run(*arguments, code=0):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        return out + err

    return run


def same(record):
    return record


def elsewhere(record):
    """The record as from an H100 with other losses and speeds; seeds differ from each other a little."""
    record = {**record, "device": record.get("device") and "H100"}
    if record["type"] == "final":
        depth, wobble = record["shape"]["n_layers"], 0.002 * (record["seed"] - 1)
        record["environment"] = {**record["environment"], "device": "H100"}
        record["val_loss"] += SHIFT[depth] + wobble
        speed = record["speed"]
        record["speed"] = {
            **speed,
            **{name: speed[name] * RATIO[depth] * (1 + wobble) for name in ("tokens_per_s", "low", "high")},
        }
    return record


def on_other_data(record):
    record = elsewhere(record)
    if record["type"] == "final":
        record["environment"]["data_fingerprint"] = "beef"
    return record


def folder(name, change=same, /, **study):
    """A copy of the README's recorded run; `study` replaces top keys of its study.yaml."""
    root = Path(name)
    shutil.copytree(RECORDED, root)
    (root / "frontier.json").unlink()
    records = [json.loads(line) for line in (RECORDED / "ledger.jsonl").read_text().splitlines()]
    (root / "ledger.jsonl").write_text("".join(json.dumps(change(record)) + "\n" for record in records))
    if study:
        own = yaml.safe_load((root / "study.yaml").read_text())
        (root / "study.yaml").write_text(yaml.safe_dump(own | study))
    return root


def trial(**changes):
    return {**yaml.safe_load((RECORDED / "study.yaml").read_text())["trial"], **changes}


def contents(root):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.iterdir()}


def test_two_devices_are_one_study_and_side_by_side(said, place):
    a, b = folder("a"), folder("b", elsewhere)
    before = contents(a), contents(b)
    text = said("report", "a", "b")
    assert (contents(a), contents(b)) == before
    assert sorted(path.name for path in place.iterdir()) == ["a", "b"]
    assert all(len(line) <= 80 for line in text.splitlines())
    lines = text.splitlines()
    for line in ("a: 9 trials, on AMD EPYC, 2 threads", "b: 9 trials, on H100", "Side by side"):
        assert line in lines
    assert [line.split("  ")[0] for line in lines if "P  standing" in line] == ["config", "config"]
    rows = [line.split() for line in lines if line.startswith(("L1 f960", "L2 f432", "L4 f176"))][-6:]
    assert [row[:5] + row[-1:] for row in rows[:3]] == [
        ["L1", "f960", "2.085", "2.115", "+0.030", "A"],
        ["L2", "f432", "2.101", "2.081", "-0.020", "B"],
        ["L4", "f176", "2.197", "2.197", "+0.000", "tie"],
    ]
    # 9, 14 and 16 times the medians of windows, against what the CPU's uncontended speed is.
    assert [row[4] for row in rows[3:]] == ["8.97", "13.99", "15.65"]
    flat = " ".join(text.split())
    assert "Loss: of 3 configs, 1 lower in A, 1 lower in B and 1 tied" in flat
    assert "Nothing was written: --out DIR writes this as report.html; `sweeper merge a b --out DIR` makes" in flat


def test_json_has_the_merged_frontier_and_the_rows(said):
    folder("a"), folder("b", elsewhere)
    found = json.loads(said("report", "a", "b", "--json"))
    assert found["schema"] == 1
    assert [(one["name"], one["folder"], one["device"]) for one in found["sources"]] == [
        ("A", "a", "AMD EPYC, 2 threads"), ("B", "b", "H100"),
    ]  # fmt: skip
    said("merge", "a", "b", "--out", "c")
    assert found["frontier"] == json.loads(Path("c/frontier.json").read_text())
    assert {row["label"]: row["val_loss"]["tie"] for row in found["comparison"]} == {
        "L1 f960": False, "L2 f432": False, "L4 f176": True,
    }  # fmt: skip
    speeds = {row["label"]: row["tokens_per_s"]["means"] for row in found["comparison"]}
    orders = [sorted(speeds, key=lambda label, side=side: -speeds[label][side]) for side in (0, 1)]
    assert orders == [["L1 f960", "L2 f432", "L4 f176"], ["L2 f432", "L1 f960", "L4 f176"]]
    assert found["pairs"][0]["kendall_tau"]["tokens_per_s"] == {"tau": pytest.approx(1 / 3), "n": 3}
    for row in found["comparison"]:
        points = [
            {p["config_id"]: p for p in one["points"]}[row["config_id"]] for one in found["frontier"]["frontiers"]
        ]
        for objective in ("val_loss", "tokens_per_s"):
            means = [point["objectives"][objective]["mean"] for point in points]
            assert row[objective]["means"] == pytest.approx(means), "the numbers of the frontiers' own tables"
        assert row["on_frontier"] == [point["on_frontier"] for point in points]


def test_out_takes_the_reports_files_and_no_ledger(said):
    folder("a"), folder("b", elsewhere)
    assert "report: c/report.html" in said("report", "a", "b", "--out", "c")
    assert sorted(contents(Path("c"))) == [
        "comparison.json",
        "frontier.json",
        "frontier.png",
        "frontier.svg",
        "report.html",
    ]
    page = Path("c/report.html").read_text()
    for words in ("Side by side", "Frontier on H100", "<td>+0.000 ± ", "<strong>B</strong> b · H100",
                  "sweeper run first.yaml --profile full\nsweeper report a b --out c"):  # fmt: skip
        assert words in page
    assert said("report", "a", "b", "--out", "c"), "an earlier report there is replaced"
    assert json.loads(said("report", "a", "b", "--json")) == json.loads(Path("c/comparison.json").read_text())


def test_a_merged_folder_shows_its_devices_side_by_side(said):
    folder("a"), folder("b", elsewhere)
    assert "A  AMD EPYC, 2 threads · 3 configs · seeds 0, 1 and 2\n" in said("merge", "a", "b", "--out", "c")
    assert "B  H100 · 3 configs" in said("report", "c")
    assert "Side by side" in Path("c/report.html").read_text()
    assert "Side by side" not in said("report", "a")
    assert "Side by side" not in Path("a/report.html").read_text()


def test_different_studies_are_compared_alone(said):
    folder("a")
    axes = {"n_layers": [1, 2, 4, 6], "ffn_hidden": {"solve": "params", "multiple_of": 16}}
    ledger = folder("d", elsewhere, name="second", axes=axes, trial=trial(seeds=2)) / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"H100"', '"<b>H100</b>"'))
    text = " ".join(said("report", "a", "d", "--out", "c").split())
    assert (
        "d is another study than a, so nothing is merged: they differ in axes.n_layers ([1, 2, 4] and [1, 2, 4, 6]) "
        "and trial.seeds (3 and 2)." in text
    )
    assert "standing" not in text, "no frontier of both"
    assert sorted(contents(Path("c"))) == ["comparison.json", "report.html"]
    page = Path("c/report.html").read_text()
    assert "<h1>first and second</h1>" in page
    assert "&lt;b&gt;H100&lt;/b&gt;" in page
    assert "<b>" not in page
    found = json.loads(Path("c/comparison.json").read_text())
    assert found["frontier"] is None
    assert {tuple(row["val_loss"]["seeds"]) for row in found["comparison"]} == {(0, 1)}, "those that both ask for"
    assert "merge" not in said("report", "a", "d").split("Nothing was written")[1]


def test_different_studies_on_other_data_compare_speeds_alone(said):
    folder("a"), folder("e", on_other_data, question="Or is it?")
    text = " ".join(said("report", "a", "e").split())
    assert "they differ in question alone" in text
    assert "Losses on python-stdlib aren't compared" in text
    assert "loss A" not in text
    found = json.loads(said("report", "a", "e", "--json"))
    assert [row["val_loss"] for row in found["comparison"]] == [None] * 3
    assert all(math.isfinite(row["tokens_per_s"]["low"]) for row in found["comparison"])


def test_one_study_on_other_data_is_refused_as_by_merge(said):
    folder("a"), folder("e", on_other_data)
    text = said("report", "a", "e", code=2)
    assert text == said("merge", "a", "e", "--out", "c", code=2)
    assert text.startswith("python-stdlib isn't the same data everywhere")


def test_studies_that_share_nothing_are_refused_with_what_would_do(said):
    folder("a"), folder("g", elsewhere, trial=trial(tokens="0.6M"))
    text = " ".join(said("report", "a", "g", code=2).split())
    assert "a and g are different studies that share no config" in text
    assert "3 shapes are in both, with other recipes. They differ in trial.tokens (0.3M and 0.6M)." in text
    assert "Configs of the same shape and the same recipe" in text


def test_studies_whose_shared_configs_have_not_run_are_told_apart(said):
    folder("a"), folder("d", elsewhere, trial=trial(seeds=5))
    Path("d/ledger.jsonl").write_text("")
    text = said("report", "a", "d", code=2)
    assert "3 are planned in both, and can be compared once both have run. d has no results yet." in text


def test_a_folder_without_results_leaves_the_others_report(said):
    folder("a"), folder("b")
    Path("b/ledger.jsonl").write_text("")
    text = said("report", "a", "b")
    assert "b has no results yet." in text
    assert "L1 f960" in text
    assert "Side by side" not in text
    Path("a/ledger.jsonl").write_text("")
    assert "a and b: nothing was run yet" in said("report", "a", "b", code=2)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ("a nothing", "nothing is no run folder, it lacks study.yaml or ledger.jsonl"),
        ("a/study.yaml b", "a/study.yaml is no run folder"),
        ("a b a", "a is named twice"),
        ("a ./b/../a", "a is named twice"),
        ("a link", "link is named twice"),
        ("a b --profile cpu", "leave --profile out"),
        ("a b --set trial.seeds=1", "leave --set out"),
        ("a b --out b", "b is a run folder, with a report of its own"),
        ("a b --out a/study.yaml", "can't be kept in a/study.yaml"),
    ],
)
def test_wrong_folders_are_exit_code_2(said, arguments, wrong):
    a, b = folder("a"), folder("b", elsewhere)
    Path("link").symlink_to("a")
    before = contents(a), contents(b)
    assert wrong in said("report", *arguments.split(), code=2)
    assert (contents(a), contents(b)) == before
