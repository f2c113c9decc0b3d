"""`search.storage` by Optuna's own reading: each training once, whatever happens to the storage."""

import optuna
import pytest
from ledger_lines import as_line, record_of

from sweeper.ledger.lines import event_record
from sweeper.model.shape import derive
from sweeper.tracking.optuna_storage import Mirror
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe
from tests.fakes import make_final

AXES = ("n_layers", "optimizer.lr", "precision", "tie_embeddings")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def config(n_layers, lr, precision):
    shape = derive({"n_layers": n_layers, "d_model": 64, "vocab_size": 256, "tie_embeddings": True})
    recipe = Recipe(
        data="x", steps=10, seq_len=32, tokens_per_step=128, precision=precision, optimizer=Optimizer(lr=lr),
        eval_tokens=64,
    )  # fmt: skip
    return Config(shape=shape, recipe=recipe)


CONFIGS = [config(n, lr, p) for n in (1, 2, 4) for lr in (1e-3, 2e-3) for p in ("fp32", "bf16")]


def final(number, seed=0, **changes):
    job = Job(kind="train", config=CONFIGS[number], execution=Execution(batch_size=4, compile=False), seed=seed)
    return as_line({**event_record(make_final(job, **changes)), "time": "2026-11-25T12:00:00.000000+00:00"})


RECORDS = [
    final(0), final(0, seed=1), final(5), final(7, status="diverged", val_loss=None), final(9, speed=None),
    as_line(record_of("rung")), as_line({"type": "started", "devices": 1}),
]  # fmt: skip


@pytest.fixture(params=["study.db", "study.journal"])
def where(request, tmp_path):
    """What the study names, and how Optuna opens it."""
    path = tmp_path / request.param
    if request.param.endswith(".db"):
        return f"sqlite:///{path}", lambda: f"sqlite:///{path}"
    backend = optuna.storages.journal.JournalFileBackend
    return str(path), lambda: optuna.storages.JournalStorage(backend(str(path)))


def mirror(text):
    objectives = {"val_loss": "min", "tokens_per_s": "max"}
    return Mirror(text, name="s/full", objectives=objectives, axes=AXES, configs=CONFIGS)


def trials(opened):
    return optuna.load_study(study_name="s/full", storage=opened()).get_trials()


def test_each_training_is_there_once_with_params_values_and_state(where):
    text, opened = where
    for _ in range(2):
        one = mirror(text)
        one.catch_up(RECORDS)
        one.observe(RECORDS[0])
        assert one.warning is None
    by_trial = {trial.user_attrs["trial_id"]: trial for trial in trials(opened)}
    assert len(by_trial) == len(trials(opened)) == 5
    first = by_trial[RECORDS[0].trial_id]
    assert first.params == {"n_layers": 1, "optimizer.lr": 1e-3, "precision": "fp32"}
    assert first.values == [RECORDS[0].val_loss, RECORDS[0].speed.tokens_per_s]
    assert first.user_attrs["params"] == CONFIGS[0].shape.params.total
    assert first.duration.total_seconds() == pytest.approx(1.2)
    assert [by_trial[record.trial_id].state.name for record in RECORDS[:5]] == [
        "COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "FAIL",
    ]  # fmt: skip
    study = optuna.load_study(study_name="s/full", storage=opened())
    assert study.metric_names == ["val_loss", "tokens_per_s"]
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert {trial.user_attrs["trial_id"] for trial in study.best_trials} <= {r.trial_id for r in RECORDS[:3]}


def test_what_a_lost_storage_lacks_is_caught_up(tmp_path):
    path = tmp_path / "study.db"
    mirror(f"sqlite:///{path}").catch_up(RECORDS[:2])
    path.unlink()
    mirror(f"sqlite:///{path}").catch_up(RECORDS)
    assert len(trials(lambda: f"sqlite:///{path}")) == 5


def test_a_storage_that_cannot_be_written_costs_a_warning(tmp_path):
    one = mirror(f"sqlite:///{tmp_path}")
    one.catch_up(RECORDS)
    assert one.warning.startswith(f"search.storage sqlite:///{tmp_path}: ")
    assert one.warning.endswith("the study goes on without it")
