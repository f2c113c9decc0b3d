"""`search.method: tpe` as a user meets it: real training, the ledger, status, an Optuna storage, a resume."""

import json
from collections import Counter

import optuna
from tiny_study import finals, folder, ledger, sweeper, write_study


def test_a_study_that_learns_is_run_shown_stored_and_lengthened(place):
    uri = f"sqlite:///{place / 'study.db'}"
    more = f"search: {{method: tpe, trials: 2, storage: '{uri}'}}\n"
    write_study(place, seeds=1, edit=lambda text: text + more)
    said = sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    assert "2 jobs to do" in said
    assert "2/2" in said
    assert len(finals(place)) == 2
    status = json.loads(sweeper(place, "status", "tiny.yaml", "--json", "--set", "search.trials=3"))
    assert (status["jobs"], status["to_propose"]) == ({"ok": 2}, 1)
    said = sweeper(place, "run", "tiny.yaml", "--runner", "in-process", "--set", "search.trials=3")
    assert "2 kept, 1 to do" in said
    records = finals(place)
    assert len({record["trial_id"] for record in records}) == len(records) == 3
    points = json.loads((folder(place) / "frontier.json").read_text())["frontiers"][0]["points"]
    assert len(points) == 3
    study = optuna.load_study(study_name="tiny/full", storage=uri)
    assert {tuple(trial.values) for trial in study.trials} == {
        (record["val_loss"], record["speed"]["tokens_per_s"]) for record in records
    }


def test_further_seeds_go_to_what_is_open(place):
    write_study(place, seeds="{min: 1, max: 3}")
    plan = " ".join(sweeper(place, "plan", "tiny.yaml").split())
    assert "4 trials (4 configs × 1 seed)" in plan
    assert "get more, up to 3" in plan
    sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    seeds = Counter(record["config_id"] for record in finals(place))
    assert len(seeds) == 4
    assert set(seeds.values()) <= {1, 2, 3}
    assert sum(seeds.values()) >= 8, "nothing is known of the noise at first, so all four are repeated"
    written = (folder(place) / "ledger.jsonl").read_bytes()
    assert f"{sum(seeds.values())} kept, 0 to do" in sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    assert (folder(place) / "ledger.jsonl").read_bytes() == written
    points = json.loads((folder(place) / "frontier.json").read_text())["frontiers"][0]["points"]
    assert {point["config_id"]: len(point["samples"]) for point in points} == seeds
    for point in points:
        assert seeds[point["config_id"]] == 3 or not 0.05 < point["p_frontier"] < 0.95


def test_with_prune_all_speeds_come_first_and_trials_are_kept(place):
    write_study(place, seeds=1, edit=lambda text: text + "search: {method: random, trials: 3, prune: true}\n")
    assert "At most 4 probes" in sweeper(place, "plan", "tiny.yaml")
    sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    kinds = [record["type"] for record in ledger(place) if record["type"] in ("speed", "final")]
    assert kinds == ["speed"] * 3 + ["final"] * 3
    found = json.loads((folder(place) / "frontier.json").read_text())
    assert found["put_last"] == [], "three losses are too few to predict a fourth"
    assert found["jobs"] == {"ok": 6}
