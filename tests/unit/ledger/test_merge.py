"""Ledgers put together: each line once, of one study and one data alone, nothing written where it can't be."""

import json
import shutil
from pathlib import Path

import pytest
from ledger_lines import plain_lines

from sweeper.commands.main import main
from sweeper.ledger.merge import merge
from sweeper.values.errors import UsageError
from sweeper.values.records import Resolved
from tests.unit.frontier_fakes import config, environment, final, plan

ROOT = Path(__file__).parents[3]
STUDY = "name: s\ntrial: {tokens: 1M}\n"
POINTS = plan([config(1, 1360), config(2, 624)])


def run_folder(tmp_path, name, records, *, study=STUDY, profile="full"):
    root = tmp_path / name
    root.mkdir()
    (root / "study.yaml").write_text(study)
    (root / "plan.json").write_text(json.dumps({"profile": profile}))
    (root / "ledger.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


def records(*seeds, device="2-core CPU", **changes):
    made = [final(point, seed, 2.0 + seed / 10, environment=environment(device=device), **changes)
            for seed in seeds for point in POINTS]  # fmt: skip
    return [{**record, "device": device} for record in made]


def test_seeds_of_two_people_are_one_study(tmp_path):
    a = run_folder(tmp_path, "a", records(0, 1))
    b = run_folder(tmp_path, "b", records(1, 2))
    merged = merge([a, b], tmp_path / "c")
    found = plain_lines(merged.folder.ledger)
    assert {record["trial_id"] for record in found} == {record["trial_id"] for record in records(0, 1, 2)}
    assert len(found) == 6
    assert (tmp_path / "c" / "study.yaml").read_text() == STUDY
    assert "2 lines are in several of them, and count once" in merged.said
    assert not any("several results" in line for line in merged.said)


def test_a_trial_with_two_results_is_said(tmp_path):
    again = [{**record, "val_loss": 9.0} for record in records(0)]
    a, b = run_folder(tmp_path, "a", records(0)), run_folder(tmp_path, "b", again)
    assert "2 trials have several results: of one device type the last counts" in merge([a, b], tmp_path / "c").said


def test_what_was_resolved_differently_is_said(tmp_path):
    a = run_folder(tmp_path, "a", records(0, resolved=Resolved(precision="bf16")))
    b = run_folder(tmp_path, "b", records(1, device="H100", resolved=Resolved(precision="fp8")))
    said = merge([a, b], tmp_path / "c").said
    assert said[-1].startswith("2 configs were resolved differently")
    assert said[1].endswith("b: 2 trials, on H100")


@pytest.mark.parametrize(
    ("other", "wrong"),
    [
        ({"study": "name: s\ntrial: {tokens: 2M}\n"}, "different studies, in trial: run the same study"),
        ({"profile": "cpu"}, "is of profile full"),
    ],
)
def test_other_studies_and_profiles_are_refused(tmp_path, other, wrong):
    a, b = run_folder(tmp_path, "a", records(0)), run_folder(tmp_path, "b", records(1), **other)
    with pytest.raises(UsageError, match=wrong):
        merge([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_other_data_is_refused(tmp_path):
    a = run_folder(tmp_path, "a", records(0))
    other = [{**record, "environment": environment(data_fingerprint="beef")} for record in records(1)]
    with pytest.raises(UsageError, match="python-stdlib isn't the same data everywhere"):
        merge([a, run_folder(tmp_path, "b", other)], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_the_command_merges_reports_and_refuses(tmp_path, monkeypatch, capsys):
    """With the README's recorded study: its ledger once whole, once without the last seed."""
    monkeypatch.chdir(tmp_path)
    recorded = ROOT / "benchmarks" / "results" / "first"
    for name in ("a", "b"):
        shutil.copytree(recorded, tmp_path / name)
    lines = (recorded / "ledger.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "ledger.jsonl").write_text("".join(line for line in lines if '"seed": 2' not in line))
    assert main(["merge", "a", "b", "--out", "c"]) == 0
    said = capsys.readouterr().out
    assert "a: 9 trials" in said
    assert "b: 6 trials" in said
    assert "count once" in said
    assert "report: c/report.html" in said
    assert (tmp_path / "c" / "ledger.jsonl").read_text() == "".join(dict.fromkeys(lines))
    for name in ("frontier.json", "frontier.png", "report.html", "study.yaml"):
        assert (tmp_path / "c" / name).stat().st_size > 0
    assert main(["merge", "a", "b", "--out", "c"]) == 2
    assert "isn't empty" in capsys.readouterr().err


def test_a_folder_that_is_none_and_one_that_is_taken(tmp_path):
    a = run_folder(tmp_path, "a", records(0))
    with pytest.raises(UsageError, match="is no run folder"):
        merge([a, tmp_path / "nothing"], tmp_path / "c")
    with pytest.raises(UsageError, match="isn't empty"):
        merge([a, a], a)
