"""Memory and time against sums done by hand, and calibration against records of a known speed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from ledger_lines import as_lines, record_of

from sweeper.ledger.lines import event_record
from sweeper.model.shape import Shape
from sweeper.planning.estimates import Calibration, assumed, calibrate, layer_bytes_per_token, memory_bytes
from sweeper.values.events import Final
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe

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
    # 90,432 parameters; a layer keeps per token 4·64 + 8 + 4·(3·64 + 4·4·16 + 3·128) + 4·4 = 3,608 B in fp32, where
    # keys and values are repeated; the head 4·(256 + 64) + 4·64 + 4 = 1,540 B, and its weight's gradient of 256·64;
    # 2 sequences of 64.
    state = 16 * 90_432
    fp32 = memory_bytes(SHAPE, precision="fp32", batch_size=2, seq_len=64)
    assert fp32 == state + 128 * (2 * 3_608 + 1_540) + 4 * 16_384
    # bf16: 4·64 + 8 + 2·(3·64 + (3·4 + 3·2)·16 + 3·128) + 4·4 = 2,008 B, the head 2·320 + 260 = 900 B; copies of
    # 2·36,864 + 16,384 weights in 2 B. FP8's filter keeps all of this small shape in bf16.
    half = state + 2 * 90_112 + 128 * (2 * 2_008 + 900) + 2 * 16_384
    for precision in ("bf16", "fp8"):
        assert memory_bytes(SHAPE, precision=precision, batch_size=2, seq_len=64) == half
    # All in FP8: 2·(64 + 64 + 128) B less, and the head's weights alone are copied.
    fp8 = partial(memory_bytes, SHAPE, precision="fp8", fp8_filter="none")
    assert fp8(batch_size=2, seq_len=64) == half - 128 * 2 * 512 - 2 * 2 * 36_864
    # Sequences that aren't aligned stay in bf16, and so does what isn't known of the other backend.
    unaligned = memory_bytes(SHAPE, precision="bf16", batch_size=1, seq_len=72)
    assert fp8(batch_size=1, seq_len=72) == unaligned
    assert fp8(batch_size=2, seq_len=64, fp8_backend="transformer_engine") == half


def test_without_grouped_queries_fp32_keeps_what_bf16_keeps_twice_as_wide():
    alone = replace(SHAPE, n_kv_heads=4)
    layers = [
        layer_bytes_per_token(alone, width=width, in_fp8=dict.fromkeys(alone.matmuls(), False)) for width in (2, 4)
    ]
    # 2·(3·64 + 24·16 + 3·128) beside 4·64 + 8 + 4·4.
    assert layers == [280 + 2 * 960, 280 + 4 * 960]


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
        record_of("asked"),
        final(train_s=1.0),
        final(train_s=2.0, set_up=4.0),
        final(train_s=8.0, compile_s=9.0),
        final(train_s=0.1, status="out_of_memory"),
        final(train_s=0.0),
    ]
    speed = calibrate(as_lines(records))
    assert speed is not None
    assert speed.achieved_flops_per_s == pytest.approx(8192 * FLOPS_PER_TOKEN / 2.0)
    assert speed.overhead_s == 6.0
    assert speed.source == "measured: 3 trials of this folder on cpu, 2.62 GFLOP/s and 6.0 s to start"


def test_calibration_is_that_of_the_device_seen_last():
    speed = calibrate(as_lines([final(train_s=1.0, device="H200"), final(train_s=4.0, device="cpu")]))
    assert speed is not None
    assert speed.achieved_flops_per_s == pytest.approx(8192 * FLOPS_PER_TOKEN / 4.0)


def test_steps_for_the_timing_alone_are_overhead_and_old_records_have_none():
    old = final(train_s=1.0)
    del old["seconds"]["timing"]
    speed = calibrate(as_lines([final(train_s=1.0, timing=4.0), old, final(train_s=1.0, timing=7.0)]))
    assert speed is not None
    assert speed.overhead_s == 3.0 + 4.0
    assert speed.achieved_flops_per_s == pytest.approx(8192 * FLOPS_PER_TOKEN)


def test_minutes_take_what_they_say_and_train_what_was_resolved():
    timed = replace(CONFIG, recipe=replace(CONFIG.recipe, steps=None, minutes=1.5))
    speed = Calibration(achieved_flops_per_s=1e9, overhead_s=5.0, source="said")
    assert speed.seconds(timed) == pytest.approx(90 + 5 + 8_192 * FLOPS_PER_TOKEN / 1e9)
    # 90 s at 1e9 ÷ 638,976 = 1,565 tokens/s: 275.1 steps of 512.
    assert speed.tokens(FLOPS_PER_TOKEN, timed.recipe) == 275 * 512
    assert speed.tokens(FLOPS_PER_TOKEN, CONFIG.recipe) == 8192
    job = Job(kind="train", config=timed, execution=Execution(batch_size=8, compile=True))
    record = {**final(train_s=2.0, tokens=300 * 512), "recipe": timed.recipe.to_dict(), "trial_id": job.trial_id}
    measured = calibrate(as_lines([record]))
    assert measured is not None
    assert measured.achieved_flops_per_s == pytest.approx(300 * 512 * FLOPS_PER_TOKEN / 2)


def test_nothing_to_calibrate_from():
    assert calibrate([]) is None
    assert calibrate(as_lines([final(train_s=1.0, status="diverged")])) is None
