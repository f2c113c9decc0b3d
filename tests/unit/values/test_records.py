"""Ids don't change between machines and days; every event survives the way through the ledger."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_lines import event_of

from sweeper.ledger.lines import asked_record, event_record, started_record
from sweeper.model.shape import derive
from sweeper.values.events import Failed, Final, Rung, Speed, SpeedSummary, memory_needed
from sweeper.values.records import Base, Config, Execution, Job, Optimizer, Recipe, Resolved, probe_id

SHAPE = derive({"n_layers": 2, "d_model": 64, "vocab_size": 256, "tie_embeddings": True})
RECIPE = Recipe(
    data="python-stdlib", steps=10, seq_len=32, tokens_per_step=128, precision="fp32", optimizer=Optimizer(),
    eval_tokens=1024,
)  # fmt: skip
CONFIG = Config(shape=SHAPE, recipe=RECIPE)
JOB = Job(kind="train", config=CONFIG, execution=Execution(batch_size=2, compile=False), seed=1)


def test_ids_are_what_they_were():
    """A change here means that every ledger in the world stops matching: raise SEMANTICS instead."""
    assert CONFIG.config_id == "9eead4989a78"
    assert JOB.trial_id == CONFIG.config_id + "-s1"
    assert JOB.probe_id == "pb165264ea87a"


def test_quality_ids_ignore_the_execution_and_speed_ids_the_seed_and_length():
    other = replace(JOB, execution=Execution(batch_size=4, compile=True))
    assert other.trial_id == JOB.trial_id
    assert other.probe_id != JOB.probe_id
    longer = replace(JOB, seed=5, config=replace(CONFIG, recipe=replace(RECIPE, steps=99)))
    assert longer.probe_id == JOB.probe_id
    assert longer.trial_id != JOB.trial_id


@pytest.mark.parametrize("field", [f for f in asdict(SHAPE) if f != "tie_embeddings"])
def test_every_shape_field_is_part_of_the_config_id(field):
    changed = replace(CONFIG, shape=replace(SHAPE, **{field: getattr(SHAPE, field) + 1}))
    assert changed.config_id != CONFIG.config_id


def test_accumulation_follows_from_the_micro_batch():
    assert JOB.grad_accum_steps == 2
    assert replace(JOB, execution=Execution(batch_size=4, compile=False)).grad_accum_steps == 1


finite = st.floats(allow_nan=False, allow_infinity=False)
speeds = st.builds(
    SpeedSummary, tokens_per_s=finite, low=finite, high=finite, step_ms=finite,
    windows=st.lists(finite, max_size=5).map(tuple),
)  # fmt: skip
environments = st.dictionaries(st.text(max_size=5), st.text() | st.integers(-9, 9) | st.none(), max_size=3)
seconds = st.dictionaries(st.sampled_from(["set_up", "train"]), finite)
probe_job = replace(JOB, kind="speed", seed=0)
events = st.one_of(
    st.builds(
        Final, job=st.just(JOB), status=st.sampled_from(["ok", "diverged"]), val_loss=finite | st.none(),
        val_bpb=finite | st.none(), curve=st.lists(st.tuples(st.integers(0), finite), max_size=4).map(tuple),
        tokens=st.integers(0), seconds=seconds, speed=speeds | st.none(), peak_memory_bytes=st.integers(0) | st.none(),
        beside_memory_bytes=st.integers(0) | st.none(), environment=environments,
        notes=st.lists(st.text(), max_size=2).map(tuple), type=st.just("final"),
    ),
    st.builds(
        Speed, job=st.just(probe_job), status=st.just("ok"), speed=speeds, peak_memory_bytes=st.none(),
        seconds=seconds, environment=environments, type=st.just("speed"),
    ),
    st.builds(
        Failed, job=st.just(JOB), error=st.text(), traceback=st.text(), environment=environments,
        type=st.just("failed"),
    ),
)  # fmt: skip


@given(event=events)
def test_an_event_survives_the_ledger(event):
    line = json.dumps(event_record(event), allow_nan=False)
    back = event_of(json.loads(line))
    assert event_record(back) == event_record(event)
    assert back.job.job_id == event.job.job_id


def test_an_outcome_from_before_what_lay_beside_its_peak_was_recorded_counts_with_its_peak():
    made = Speed(
        job=probe_job, status="ok", speed=None, peak_memory_bytes=9, seconds={}, environment={}, beside_memory_bytes=2
    )
    line = event_record(made)
    assert line["beside_memory_bytes"] == event_of(line).beside_memory_bytes == 2
    del line["beside_memory_bytes"]
    old = event_of(line)
    assert (old.peak_memory_bytes, old.beside_memory_bytes) == (9, None)
    assert [memory_needed(9, 2), memory_needed(9, None), memory_needed(None, 2)] == [11, 9, None]


def test_asked_and_rung_lines_are_no_outcomes():
    assert event_of(event_record(Rung(job=JOB, tokens=5, loss=1.0))) is None
    assert event_of({"type": "of another time"}) is None


def test_a_job_survives_being_sent():
    full = replace(
        JOB, memory_bytes=2**34, shared_ok=True, device="cuda", data_path="/data", attempt=2,
        resolved=Resolved(steps=7, precision="bf16"),
        config=replace(CONFIG, recipe=replace(IN_MINUTES, optimizer=Optimizer(base=BASE))),
    )  # fmt: skip
    for job in (JOB, full):
        assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job


BASE = Base(n_layers=2, d_model=64, ffn_hidden=128)
IN_MINUTES = replace(RECIPE, steps=None, minutes=2.5, precision="auto", fp8_backend="torchao", fp8_filter="none")


def test_what_does_not_apply_is_no_part_of_an_id():
    """So that ids made before a field was there stay what they were."""
    assert IN_MINUTES.to_dict().keys() - RECIPE.to_dict().keys() == {"minutes", "fp8_backend", "fp8_filter"}
    assert RECIPE.to_dict().keys() - IN_MINUTES.to_dict().keys() == {"steps", "tokens"}
    assert "base" not in RECIPE.to_dict()["optimizer"]
    muon = replace(RECIPE, optimizer=Optimizer(name="muon", momentum=0.9, base=BASE))
    assert Recipe.from_dict(json.loads(json.dumps(muon.to_dict()))) == muon


def test_auto_in_bf16_has_the_speed_of_bf16():
    auto = replace(CONFIG, recipe=IN_MINUTES)
    plain = replace(CONFIG, recipe=replace(RECIPE, precision="bf16"))
    trial = replace(JOB, config=auto, resolved=Resolved(steps=9, precision="bf16"))
    assert auto.at_precision("bf16").recipe.fp8_backend is None
    assert trial.probe_id == replace(JOB, config=plain).probe_id == probe_id(plain, JOB.execution)
    assert (trial.precision, trial.steps) == ("bf16", 9)
    in_fp8 = replace(trial, resolved=Resolved(steps=9, precision="fp8"))
    assert in_fp8.probe_id == probe_id(auto.at_precision("fp8"), JOB.execution) != trial.probe_id
    assert in_fp8.trial_id == trial.trial_id
    with pytest.raises(ValueError, match="has not been resolved"):
        _ = replace(JOB, config=auto).precision


def test_what_was_resolved_survives_the_ledger():
    job = replace(
        JOB, config=replace(CONFIG, recipe=IN_MINUTES), memory_bytes=2**33, resolved=Resolved(steps=9, precision="bf16")
    )
    line = event_record(Failed(job=job, error="boom"))
    assert (line["resolved"], line["memory_bytes"]) == ({"steps": 9, "precision": "bf16"}, 2**33)
    back = event_of(json.loads(json.dumps(line))).job
    assert (back.resolved, back.memory_bytes, back.job_id) == (job.resolved, job.memory_bytes, job.job_id)
    assert not {"resolved", "memory_bytes"} & event_record(Failed(job=JOB, error="boom")).keys()


def test_lines_that_are_no_outcomes():
    started = started_record(devices=4, command="sweeper run s.yaml")
    assert (started["type"], started["devices"], started["command"]) == ("started", 4, "sweeper run s.yaml")
    assert event_of(started) is None
    assert Job.from_dict(asked_record(JOB)["job"]) == JOB
    assert event_of(asked_record(JOB)) is None
