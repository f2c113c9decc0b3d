"""Ids don't change between machines and days; every event survives the way through the ledger."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.shape import derive
from sweeper.records import (
    Config,
    Execution,
    Failed,
    Final,
    Job,
    Optimizer,
    Recipe,
    Rung,
    Speed,
    SpeedSummary,
    event_from_record,
    event_record,
)

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
        environment=environments, notes=st.lists(st.text(), max_size=2).map(tuple), type=st.just("final"),
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
    back = event_from_record(json.loads(line))
    assert event_record(back) == event_record(event)
    assert back.job.job_id == event.job.job_id


def test_asked_and_rung_lines_are_no_outcomes():
    assert event_from_record(event_record(Rung(job=JOB, tokens=5, loss=1.0))) is None
    assert event_from_record({"type": "asked"}) is None


def test_a_job_survives_being_sent():
    assert Job.from_dict(json.loads(json.dumps(JOB.to_dict()))) == JOB
