"""`sweeper run` as a user meets it: whole, again, edited, on other data. Real training, real Ray, real MLflow."""

import json
import shutil
from collections import Counter

import pytest
from ledger_lines import as_line, plain_lines
from tiny_study import finals, folder, ledger, mlflow_runs, sweeper, write_study

from sweeper.measurements.speeds import speed_of


def test_a_study_is_run_once_and_leaves_all_it_promises(place):
    shutil.rmtree(place / "runs")  # it makes MLflow's store itself
    write_study(place)
    said = sweeper(place, "run", "tiny.yaml")
    assert "8 jobs to do" in said
    for name in ("study.yaml", "plan.json", "ledger.jsonl", "frontier.json", "frontier.png", "report.html"):
        assert (folder(place) / name).stat().st_size > 0, name
    records = finals(place)
    assert [record["status"] for record in records] == ["ok"] * 8
    plan = json.loads((folder(place) / "plan.json").read_text())
    assert all(10_000 <= config["params"]["total"] <= 60_000 for config in plan["configs"])
    assert len(list((folder(place) / "logs").iterdir())) == 8
    client, (parent,), children = mlflow_runs(place)
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    by_trial = {run.data.tags["sweeper.trial_id"]: run for run in children}
    for record in records:
        run = by_trial[record["trial_id"]]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["val_loss"] == pytest.approx(record["val_loss"])
        assert run.data.params["n_layers"] == str(record["shape"]["n_layers"])
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"study.yaml", "plan.json", "frontier.json", "frontier.png", "frontier.svg", "report.html"} <= names
    frontier = json.loads((folder(place) / "frontier.json").read_text())
    assert len(frontier["frontiers"][0]["points"]) == 4

    before = (folder(place) / "ledger.jsonl").read_bytes()
    assert "8 kept, 0 to do" in sweeper(place, "run", "tiny.yaml")
    assert (folder(place) / "ledger.jsonl").read_bytes() == before
    _, (again,), same = mlflow_runs(place)
    assert again.info.run_id == parent.info.run_id
    assert {run.info.run_id for run in same} == {run.info.run_id for run in children}

    status = json.loads(sweeper(place, "status", "tiny.yaml", "--json"))
    assert status["jobs"] == {"ok": 8}
    written = json.loads(sweeper(place, "report", str(folder(place)), "--json"))
    assert written["frontiers"][0]["points"] == frontier["frontiers"][0]["points"]


def test_an_edited_study_keeps_what_still_applies(place):
    write_study(place, seeds=1)
    sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    kept = {record["trial_id"] for record in finals(place) if record["shape"]["n_layers"] == 2}
    write_study(place, seeds=1, edit=lambda text: text.replace("n_layers: [1, 2]", "n_layers: [2, 3]"))
    said = sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    assert "2 kept, 2 to do, 2 no longer asked (kept in the ledger)" in said
    counts = Counter(record["trial_id"] for record in finals(place))
    assert set(counts.values()) == {1}
    assert len(counts) == 6
    assert kept < set(counts)
    points = json.loads((folder(place) / "frontier.json").read_text())["frontiers"][0]["points"]
    assert {point["shape"]["n_layers"] for point in points} == {2, 3}
    said = sweeper(place, "run", "tiny.yaml", "--runner", "in-process", "--fresh", "--set", "axes.n_layers=[3]")
    assert "the earlier results are now in" in said
    assert len(finals(place)) == 2
    (aside,) = [path for path in folder(place).parent.iterdir() if path.name.startswith("full.")]
    assert len(plain_lines(aside / "ledger.jsonl")) > 0


def test_micro_batches_as_an_axis_share_one_training(place):
    write_study(place, seeds=1, edit=lambda text: text.replace("  batch_size: 4\n", "").replace(
        "  n_layers: [1, 2]\n", "  n_layers: [1]\n  batch_size: [1, 2]\n"))  # fmt: skip
    sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    kinds = Counter(record["type"] for record in ledger(place) if record["type"] in ("final", "speed"))
    assert kinds == {"final": 2, "speed": 4}
    points = json.loads((folder(place) / "frontier.json").read_text())["frontiers"][0]["points"]
    assert {point["batch_size"] for point in points} == {1, 2}
    losses = {(point["config_id"], point["objectives"]["val_loss"]["mean"]) for point in points}
    assert len(losses) == 2
    assert len({point["objectives"]["tokens_per_s"]["mean"] for point in points}) == 4


def test_micro_batch_precision_and_steps_are_settled_by_probes_once(place):
    write_study(place, seeds=2, edit=lambda text: text.replace("d_model: [32, 48]", "d_model: [32]").replace(
        "n_layers: [1, 2]", "n_layers: [1]").replace("tokens: 5k", "minutes: 0.005").replace(
        "batch_size: 4", "batch_size: {fastest: [2, 4]}").replace("precision: fp32", "precision: auto"))  # fmt: skip
    said = sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    assert "6 jobs to do" in said
    assert "Held equal: time" in sweeper(place, "report", "runs/tiny/full", "--details")
    probes = [record for record in ledger(place) if record["type"] == "speed"]
    assert [(probe["recipe"]["precision"], probe["execution"]["batch_size"]) for probe in probes] == [
        ("bf16", 4), ("bf16", 2), ("fp8", 4), ("fp8", 2),
    ]  # fmt: skip
    best = max(probes, key=lambda probe: probe["speed"]["tokens_per_s"])
    steps = max(1, int(0.3 * best["speed"]["tokens_per_s"] / 256))
    for record in finals(place):
        assert record["recipe"]["precision"] == "auto"
        assert record["resolved"] == {"precision": best["recipe"]["precision"], "steps": steps}
        assert record["execution"] == best["execution"]
        assert record["tokens"] == steps * 256
        assert record["probe_id"] == best["probe_id"]
    (point,) = json.loads((folder(place) / "frontier.json").read_text())["frontiers"][0]["points"]
    assert point["resolved"] == {
        **finals(place)[0]["resolved"],
        "tokens": steps * 256,
        "batch_size": point["batch_size"],
    }
    before = (folder(place) / "ledger.jsonl").read_bytes()
    assert "6 kept, 0 to do" in sweeper(place, "run", "tiny.yaml")
    assert (folder(place) / "ledger.jsonl").read_bytes() == before
    assert json.loads(sweeper(place, "status", "tiny.yaml", "--json"))["jobs"] == {"ok": 6}


def test_results_of_other_data_are_not_added_to(place):
    write_study(place, seeds=1)
    sweeper(place, "run", "tiny.yaml", "--runner", "in-process", "--set", "axes.n_layers=[1]")
    (place / "text" / "3.txt").write_text("other text\n" * 500)
    before = (folder(place) / "ledger.jsonl").read_bytes()
    said = sweeper(place, "run", "tiny.yaml", "--runner", "in-process", expect=2)
    assert "text: the data has changed" in said
    assert "--fresh" in said
    assert (folder(place) / "ledger.jsonl").read_bytes() == before
    assert "axes" in (folder(place) / "study.yaml").read_text()
    assert "n_layers:\n  - 1\n  - 2" not in (folder(place) / "study.yaml").read_text()


def test_a_study_whose_hours_are_spent_ends_with_what_it_has_and_goes_on_with_more(place):
    write_study(
        place, seeds=1, edit=lambda text: text + "search: {method: space_filling, trials: 3, max_gpu_hours: 1e-6}\n"
    )
    said = " ".join(sweeper(place, "run", "tiny.yaml", "--runner", "in-process").split())
    assert "search.max_gpu_hours 1e-06 is spent" in said
    assert "2 jobs weren't run; raise it" in said
    assert len(finals(place)) == 1
    assert "1 kept, 2 to do" in sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    assert len(finals(place)) == 1
    said = sweeper(place, "run", "tiny.yaml", "--runner", "in-process", "--set", "search.max_gpu_hours=1")
    assert "is spent" not in said
    assert len({record["config_id"] for record in finals(place)}) == 3


def test_logs_that_cant_be_written_are_said_before_anything_is_asked(place):
    write_study(place)
    folder(place).mkdir(parents=True)
    (folder(place) / "logs").write_text("in the way")
    said = sweeper(place, "run", "tiny.yaml", "--runner", "in-process", expect=2)
    assert "so results can't be kept in runs/tiny/full: name another folder" in said
    assert ledger(place) == []


def test_a_trial_that_is_asked_for_is_measured_again_and_the_ledger_keeps_both(place):
    write_study(place, seeds=1)
    sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    asked_for = finals(place)[1]["trial_id"]
    said = sweeper(place, "run", "tiny.yaml", "--runner", "in-process", "--again", asked_for)
    assert "3 kept, 1 to do" in said
    counts = Counter(record["trial_id"] for record in finals(place))
    assert counts.pop(asked_for) == 2
    assert set(counts.values()) == {1}
    first, second = (record for record in finals(place) if record["trial_id"] == asked_for)
    assert first["time"] < second["time"]
    speeds = [
        sample["tokens_per_s"]
        for point in json.loads((folder(place) / "frontier.json").read_text())["frontiers"][0]["points"]
        if point["config_id"] == second["config_id"]
        for sample in point["samples"]
    ]
    assert speeds == [speed_of(as_line(second)).speed], "the later one counts"
    assert "4 kept, 0 to do" in sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    said = sweeper(
        place, "run", "tiny.yaml", "--again", "nonesuch", "--runner", "in-process", "--again", "nor", expect=2
    )
    assert "--again nonesuch: no trial of this id has ended in this run folder" in said
    assert "--again nor: " in said
    assert len(finals(place)) == 5
