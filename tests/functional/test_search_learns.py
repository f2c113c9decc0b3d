"""`search.method: tpe` as a user meets it: real training, the ledger, status, an Optuna storage, a resume."""

import json

import optuna
from tiny_study import finals, folder, sweeper, write_study


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
