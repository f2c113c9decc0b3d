"""What a plan says of its trials beside their shapes: schedules that don't fit, probes, devices."""

from pathlib import Path

import pytest

from sweeper.planning.plan import make_plan, plan_json
from sweeper.study.schema import LoadedStudy, Resources, Search, Study, Trial
from sweeper.values.errors import NothingFeasible

MODEL = {
    "n_layers": 2, "d_model": 64, "head_dim": 16, "n_kv_heads": 2, "ffn_hidden": 128, "vocab_size": 256,
    "tie_embeddings": True,
}  # fmt: skip


def plan(*, gpus=None, **fields):
    trial = fields.pop("trial", Trial(tokens=8192, seq_len=64))
    study = Study(name="s", model=MODEL, trial=trial, **fields)
    return make_plan(LoadedStudy(study=study, profile="full", file=Path("s.yaml"), resolved={}), cpus=2, gpus=gpus)


def test_schedules_longer_than_the_training_are_dropped():
    made = plan(axes={"optimizer.warmup": (0.0, 0.3, 0.6), "optimizer.cooldown": (0.4, 0.7, 0.9)})
    schedules = [(p.config.recipe.optimizer.warmup, p.config.recipe.optimizer.cooldown) for p in made.configs]
    assert schedules == [(0.0, 0.4), (0.0, 0.7), (0.0, 0.9), (0.3, 0.4), (0.3, 0.7), (0.6, 0.4)]
    assert made.lattice.dropped == {"optimizer.warmup + optimizer.cooldown": 3}
    (message,) = made.dropped_examples.values()
    assert message == "warmup 0.3 and cooldown 0.9 are more than the whole schedule: their sum is at most 1"


def test_no_schedule_that_fits_is_nothing_feasible():
    with pytest.raises(NothingFeasible, match="their sum is at most 1"):
        plan(axes={"optimizer.warmup": (0.6, 0.7), "optimizer.cooldown": (0.5,)})


def test_probes_are_counted_where_a_config_has_several_micro_batches():
    assert plan(axes={"n_layers": (1, 2)}).totals.probes == 0
    fields = {
        "axes": {"n_layers": (1, 2, 3), "batch_size": (1, 2, 4)},
        "trial": Trial(tokens=8192, seq_len=64, tokens_per_step=1024, seeds=2),
    }
    made = plan(**fields)
    assert (made.totals.configs, made.totals.trials, made.totals.probes) == (3, 6, 9)
    assert plan_json(made)["totals"]["probes"] == 9
    assert plan(**fields, search=Search(method="random", trials=2)).totals.probes == 6


@pytest.mark.parametrize(
    ("study", "machine", "source"),
    [(None, None, "2 cores"), (None, 0, "2 cores"), (None, 1, "GPU"), (0, 1, "2 cores"), (1, 0, "GPU")],
)
def test_the_estimate_is_for_the_studys_device_else_the_machines(study, machine, source):
    made = plan(gpus=machine, resources=Resources(gpus=study))
    assert source in made.calibration.source
    assert [p.config.config_id for p in made.configs] == [p.config.config_id for p in plan().configs]
