"""Memory and time against sums done by hand, and calibration against records of a known speed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model.shape import Shape
from sweeper.lines import event_record
from sweeper.planning.estimates import Calibration, assumed, calibrate, memory_bytes
from sweeper.records import Config, Execution, Final, Job, Optimizer, Recipe

SHAPE = Shape(
    n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, head_dim=16, ffn_hidden=128, vocab_size=256, tie_embeddings=True
)
CONFIG = Config(
    shape=SHAPE,
    recipe=Recipe(
        data="python-stdlib", steps=16, seq_len=64, tokens_per_step=512, precision="fp32", optimizer=Optimizer(),
        eval_tokens=3 * 8192,
    ),
)  # fmt: skip
FLOPS_PER_TOKEN = 638_976


def test_memory_by_hand():
    # 90,432 parameters; a layer keeps per token 8·64 + 4·(2·64 + 12·16 + 4·128) + 4·4 = 3,856 B in fp32;
    # the head 256·8 = 2,048 B; 2 sequences of 64.
    state = 16 * 90_432
    fp32 = memory_bytes(SHAPE, precision="fp32", batch_size=2, seq_len=64)
    assert fp32 == state + 128 * (2 * 3_856 + 2_048)
    # bf16: 8·64 + 2·832 + 16 = 2,192 B, the head 256·4; copies of 2·36,864 + 16,384 weights in 2 B.
    for precision in ("bf16", "fp8"):
        half = memory_bytes(SHAPE, precision=precision, batch_size=2, seq_len=64)
        assert half == state + 2 * 90_112 + 128 * (2 * 2_192 + 1_024)


def test_time_by_hand():
    speed = Calibration(achieved_flops_per_s=1e9, overhead_s=5.0, source="said")
    # 8,192 training tokens, and three times as many to evaluate at a third of the cost.
    assert speed.seconds(CONFIG) == pytest.approx(5 + 2 * 8_192 * FLOPS_PER_TOKEN / 1e9)


def test_assumed_speeds():
    assert assumed(gpus=0, cpus=2).achieved_flops_per_s == 90e9
    assert assumed(gpus=0, cpus=1).overhead_s == 6
    assert assumed(gpus=1, cpus=8).achieved_flops_per_s == 300e12
    assert assumed(gpus=1, cpus=8).overhead_s == 60


def final(*, train_s, status="ok", device="cpu", set_up=1.0, compile_s=2.0, tokens=8192, timing=0.0):
    job = Job(kind="train", config=CONFIG, execution=Execution(batch_size=8, compile=True))
    return event_record(
        Final(
            job=job, status=status, val_loss=1.0, val_bpb=None, curve=(), tokens=tokens, speed=None,
            seconds={"set_up": set_up, "compile": compile_s, "train": train_s, "evaluate": 1.0, "timing": timing},
            peak_memory_bytes=None, environment={"device": device},
        )
    )  # fmt: skip


def test_calibration_takes_medians_of_finished_trials():
    records = [
        {"type": "asked"},
        final(train_s=1.0),
        final(train_s=2.0, set_up=4.0),
        final(train_s=8.0, compile_s=9.0),
        final(train_s=0.1, status="out_of_memory"),
        final(train_s=0.0),
    ]
    speed = calibrate(records)
    assert speed is not None
    assert speed.achieved_flops_per_s == pytest.approx(8192 * FLOPS_PER_TOKEN / 2.0)
    assert speed.overhead_s == 6.0
    assert speed.source == "measured: 3 trials of this folder on cpu, 2.62 GFLOP/s and 6.0 s to start"


def test_calibration_is_that_of_the_device_seen_last():
    speed = calibrate([final(train_s=1.0, device="H200"), final(train_s=4.0, device="cpu")])
    assert speed is not None
    assert speed.achieved_flops_per_s == pytest.approx(8192 * FLOPS_PER_TOKEN / 4.0)


def test_steps_for_the_timing_alone_are_overhead_and_old_records_have_none():
    old = final(train_s=1.0)
    del old["seconds"]["timing"]
    speed = calibrate([final(train_s=1.0, timing=4.0), old, final(train_s=1.0, timing=7.0)])
    assert speed is not None
    assert speed.overhead_s == 3.0 + 4.0
    assert speed.achieved_flops_per_s == pytest.approx(8192 * FLOPS_PER_TOKEN)


def test_minutes_take_what_they_say_and_train_what_was_resolved():
    timed = replace(CONFIG, recipe=replace(CONFIG.recipe, steps=None, minutes=1.5))
    speed = Calibration(achieved_flops_per_s=1e9, overhead_s=5.0, source="said")
    assert speed.seconds(timed) == pytest.approx(90 + 5 + 8_192 * FLOPS_PER_TOKEN / 1e9)
    # 90 s at 1e9 ÷ 638,976 = 1,565 tokens/s: 275.1 steps of 512.
    assert speed.tokens(timed) == 275 * 512
    assert speed.tokens(CONFIG) == 8192
    job = Job(kind="train", config=timed, execution=Execution(batch_size=8, compile=True))
    record = {**final(train_s=2.0, tokens=300 * 512), "recipe": timed.recipe.to_dict(), "trial_id": job.trial_id}
    measured = calibrate([record])
    assert measured is not None
    assert measured.achieved_flops_per_s == pytest.approx(300 * 512 * FLOPS_PER_TOKEN / 2)


def test_nothing_to_calibrate_from():
    assert calibrate([]) is None
    assert calibrate([final(train_s=1.0, status="diverged")]) is None
