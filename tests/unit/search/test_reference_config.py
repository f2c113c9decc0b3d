"""Which config of a study is its reference, how a study says how often, and what the driver does with it."""

from pathlib import Path

import pytest

from sweeper.model.shape import Shape
from sweeper.planning.plan import PlannedConfig
from sweeper.planning.resolving import JobSettings, MicroBatches
from sweeper.search.driver import Driver
from sweeper.search.grid import Grid
from sweeper.search.reference import reference_job
from sweeper.study.loader import load
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe, probe_id

SETTINGS = JobSettings(data_path="/data", memory_bytes=2**30, shared_ok=True)
STUDY = """\
name: x
model: {d_model: 64, vocab_size: 256}
axes: {n_layers: [1, 2]}
trial: {data: python-stdlib, tokens: 1M, seq_len: 256}
"""


def planned(n_layers, *, ffn_hidden=128, batch_sizes=(4,), choose="each", precision="fp32"):
    shape = Shape(
        n_layers=n_layers, d_model=64, n_heads=2, n_kv_heads=1, head_dim=32, ffn_hidden=ffn_hidden, vocab_size=256,
        tie_embeddings=True,
    )  # fmt: skip
    recipe = Recipe(
        data="python-stdlib", minutes=3.0, seq_len=256, tokens_per_step=16384, precision=precision,
        optimizer=Optimizer(), eval_tokens=1024, fp8_backend="torchao" if precision == "auto" else None,
    )  # fmt: skip
    return PlannedConfig(
        config=Config(shape=shape, recipe=recipe),
        executions=tuple(Execution(batch_size=size, compile=True) for size in batch_sizes),
        choose=choose, params=shape.params, off_target=None, train_flops_per_token=1, memory_bytes=1, tokens=1,
        branch_tokens=0, seconds=1.0, epochs=None, warnings=(),
    )  # fmt: skip


@pytest.mark.parametrize(("depths", "median"), [((9, 1, 5), 5), ((9, 1, 5, 7), 5), ((3, 8), 3), ((2, 4, 4, 4, 9), 4)])
def test_it_has_the_median_of_parameters(depths, median):
    assert reference_job([planned(n) for n in depths], SETTINGS).config.shape.n_layers == median


def test_of_equal_counts_it_is_the_first():
    wide = planned(2, ffn_hidden=128 + 64)
    recipes = [planned(2), planned(2, precision="bf16"), wide]
    for ordered, first in ((recipes, recipes[0]), (recipes[::-1], recipes[1])):
        assert reference_job(ordered, SETTINGS).probe_id == probe_id(first.config, first.executions[0])


def test_minutes_that_it_sizes_nothing_by_are_no_part_of_it():
    """Its speed is that of the config in minutes, by the same id."""
    job = reference_job([planned(1), planned(2)], SETTINGS)
    assert job.config.recipe.minutes is None
    assert job.steps
    assert job.probe_id == probe_id(planned(1).config, planned(1).executions[0])


def test_it_runs_as_simply_as_it_can():
    job = reference_job([planned(1, batch_sizes=(8, 4, 16), choose="fastest", precision="auto"), planned(2)], SETTINGS)
    assert (job.kind, job.execution.batch_size, job.precision) == ("speed", 4, "bf16")
    assert job.config.recipe.fp8_backend is None
    assert (job.data_path, job.memory_bytes, job.shared_ok) == ("/data", 2**30, True)


def test_a_single_point_has_nothing_to_be_compared_with():
    assert reference_job([planned(1, batch_sizes=(4, 8), choose="fastest")], SETTINGS) is None
    assert reference_job([planned(1, batch_sizes=(4, 8))], SETTINGS) is not None


def test_every_job_brings_it_along_and_no_id_knows():
    one, found = planned(1, batch_sizes=(4, 8), choose="fastest"), {}
    for reference in (None, reference_job([planned(1), planned(2)], SETTINGS)):
        settings = JobSettings(reference=reference, reference_every_s=60.0)
        driver = Driver(
            Grid([one.config]), seeds=2, settings=settings,
            micro_batches=lambda config: MicroBatches(executions=one.executions, choose="fastest"),
        )  # fmt: skip
        assert {job.kind for job in driver.jobs.values()} == {"speed", "train"}
        assert all(job.reference is reference for job in driver.jobs.values())
        found[reference is None] = list(driver.jobs)
        assert all(Job.from_dict(job.to_dict()) == job for job in driver.jobs.values())
    assert found[True] == found[False]


@pytest.mark.parametrize(
    ("resources", "seconds"),
    [("", 1800.0), ("resources: {reference_every: 2h}", 7200.0), ("resources: {reference_every: off}", None)],
)
def test_a_study_says_how_often(tmp_path: Path, resources: str, seconds: float | None):
    (tmp_path / "study.yaml").write_text(f"{STUDY}{resources}\n")
    assert load(tmp_path / "study.yaml").study.resources.reference_every == seconds
    over = load(tmp_path / "study.yaml", overrides=["resources.reference_every=1s"])
    assert over.study.resources.reference_every == 1.0
