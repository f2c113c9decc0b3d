"""Recipes of new kinds against sums by hand: minutes, precision auto, CompleteP, Muon, rescaled learning rates."""

import csv
from math import ceil, sqrt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.planning.estimates import GPU_BESIDE_BYTES, memory_bytes
from sweeper.planning.plan import make_plan, plan_csv, plan_json
from sweeper.planning.tokens import TrialSettings, settle
from sweeper.study.schema import BaseFields, Budget, Ladder, LoadedStudy, OptimizerFields, Search, Study, Trial
from sweeper.values.errors import NothingFeasible
from sweeper.values.labels import gibibytes
from sweeper.values.records import Base, Config

MODEL = {
    "n_layers": 2, "d_model": 64, "head_dim": 16, "n_kv_heads": 2, "ffn_hidden": 128, "vocab_size": 256,
    "tie_embeddings": True,
}  # fmt: skip
BASE = BaseFields(n_layers=4, d_model=96)
RUNGS = Trial(tokens=8192, seq_len=64, tokens_per_step=1024, batch_size=Ladder(fastest=(8, 2, 4)))


def plan(**fields):
    trial, gpus = fields.pop("trial", Trial(tokens=8192, seq_len=64)), fields.pop("gpus", None)
    study = Study(name="s", model=MODEL, trial=trial, **fields)
    return make_plan(LoadedStudy(study=study, profile="full", file=Path("s.yaml"), resolved={}), cpus=2, gpus=gpus)


def recipes(made):
    return [planned.config.recipe for planned in made.configs]


def optimizers(made):
    return [recipe.optimizer for recipe in recipes(made)]


def ids(made):
    return [planned.config.config_id for planned in made.configs]


def test_minutes_are_kept_for_a_probe_to_resolve():
    made = plan(trial=Trial(minutes=2.0, seq_len=64))
    (recipe,), (planned,) = recipes(made), made.configs
    assert (recipe.minutes, recipe.steps, recipe.tokens) == (2.0, None, None)
    # 638,976 FLOPs a token, 8 × 64 = 512 tokens a step, 2 cores of 45 GFLOP/s: 120 s are 33,011.8 steps.
    assert planned.tokens == 33_011 * 512
    assert made.totals.tokens_exact is False
    assert made.totals.train_flops == 33_011 * 512 * 638_976
    # 1,048,576 tokens are evaluated at a third of the FLOPs, and 6 s are assumed to start.
    assert planned.seconds == pytest.approx(120 + 6 + 1_048_576 * 638_976 / 3 / 90e9)
    assert made.totals.probes == 1
    assert any("measured speed" in note for note in made.notes)
    exact = plan().totals
    assert (exact.tokens, exact.tokens_exact, exact.probes) == (8192, True, 0)


def test_less_than_a_step_of_minutes_is_one_step():
    assert plan(trial=Trial(minutes=1e-9, seq_len=64)).configs[0].tokens == 512


def test_the_length_given_is_the_one_that_is_used():
    lengths = plan(trial=Trial(seq_len=64), axes={"minutes": (1.0, 2.0)})
    assert [recipe.minutes for recipe in recipes(lengths)] == [1.0, 2.0]
    assert len(set(ids(lengths))) == 2


@pytest.mark.parametrize(
    ("precision", "backend", "chosen", "wanted"),
    [
        ("fp8", None, None, ("torchao", "auto")),
        ("auto", None, None, ("torchao", "auto")),
        ("fp8", "transformer_engine", "none", ("transformer_engine", "none")),
        ("bf16", "transformer_engine", "none", (None, None)),
        ("fp32", None, None, (None, None)),
    ],
)
def test_fp8_settings_are_filled_in_where_they_apply(precision, backend, chosen, wanted):
    made = plan(trial=Trial(tokens=8192, seq_len=64, precision=precision, fp8_backend=backend, fp8_filter=chosen))
    (recipe,) = recipes(made)
    assert (recipe.fp8_backend, recipe.fp8_filter) == wanted


def test_fp8_settings_as_axes_leave_other_precisions_alone():
    made = plan(axes={"precision": ("bf16", "fp8"), "fp8_filter": ("auto", "none")})
    assert [(r.precision, r.fp8_filter) for r in recipes(made)] == [("bf16", None), ("fp8", "auto"), ("fp8", "none")]
    assert made.lattice.dropped == {"same config as another point": 1}


def test_auto_is_planned_as_bf16_and_probed_in_both():
    made = plan(axes={"precision": ("bf16", "auto", "fp8"), "ffn_hidden": (128, 130)})
    bf16, auto = made.configs[0], made.configs[2]
    assert [p.config.recipe.precision for p in made.configs] == ["bf16", "bf16", "auto", "auto", "fp8", "fp8"]
    assert (auto.memory_bytes, auto.seconds) == (bf16.memory_bytes, bf16.seconds)
    assert made.totals.probes == 4
    assert [bool(p.warnings) for p in made.configs] == [False, False, False, True, False, True]
    assert any("faster of bf16 and fp8" in note for note in made.notes)


def test_a_base_is_recorded_for_completep_alone():
    optimizer = OptimizerFields(parametrization="completep", base=BASE)
    made = plan(trial=Trial(tokens=8192, seq_len=64, optimizer=optimizer))
    # 96 · 8 ÷ 3 = 256
    assert optimizers(made)[0].base == Base(n_layers=4, d_model=96, ffn_hidden=256)
    assert optimizers(made)[0].lr == 2e-3
    given_ffn = optimizer.model_copy(update={"base": BASE.model_copy(update={"ffn_hidden": 64})})
    made = plan(
        trial=Trial(tokens=8192, seq_len=64, optimizer=given_ffn),
        axes={"optimizer.parametrization": ("standard", "completep")},
    )
    assert [one.base for one in optimizers(made)] == [None, Base(n_layers=4, d_model=96, ffn_hidden=64)]
    assert ids(made)[0] == ids(plan())[0]


def test_momentum_is_muons_alone():
    made = plan(axes={"optimizer.name": ("adamw", "muon")})
    assert [(one.name, one.momentum) for one in optimizers(made)] == [("adamw", None), ("muon", 0.95)]
    assert ids(made)[0] == ids(plan())[0]
    both = plan(axes={"optimizer.name": ("adamw", "muon"), "optimizer.momentum": (0.0, 0.9)})
    assert [one.momentum for one in optimizers(both)] == [None, 0.0, 0.9]


def test_muons_points_with_completep_are_dropped():
    made = plan(
        trial=Trial(tokens=8192, seq_len=64, optimizer=OptimizerFields(base=BASE)),
        axes={"optimizer.name": ("adamw", "muon"), "optimizer.parametrization": ("standard", "completep")},
    )
    assert [(one.name, one.base is None) for one in optimizers(made)] == [
        ("adamw", True), ("adamw", False), ("muon", True),
    ]  # fmt: skip
    assert made.lattice.dropped == {"completep with muon": 1}
    assert "AdamW's" in made.dropped_examples["completep with muon"]


def test_lr_and_weight_decay_grow_with_the_root_of_the_step():
    axes = {"tokens_per_step": (1024, 4096, 512, 2048)}
    optimizer = OptimizerFields(lr=1e-3, weight_decay=0.1)
    made = plan(trial=Trial(tokens=8192, seq_len=64, optimizer=optimizer), axes=axes)
    got = [(r.tokens_per_step, r.optimizer.lr, r.optimizer.weight_decay) for r in recipes(made)]
    assert got == [(1024, 1e-3, 0.1), (4096, 2e-3, 0.2), (512, 0.000707107, 0.0707107), (2048, 0.00141421, 0.141421)]
    assert any("multiplied by √(tokens per step ÷ 1,024)" in note for note in made.notes)
    none = optimizer.model_copy(update={"batch_scaling": "none"})
    made = plan(trial=Trial(tokens=8192, seq_len=64, optimizer=none), axes=axes)
    assert {(one.lr, one.weight_decay) for one in optimizers(made)} == {(1e-3, 0.1)}
    assert any("batch_scaling: none" in note for note in made.notes)


def test_the_bases_step_comes_before_the_axis():
    base = BASE.model_copy(update={"tokens_per_step": 4096})
    trial = Trial(tokens=65536, seq_len=64, optimizer=OptimizerFields(lr=2e-3, base=base), tokens_per_step=16384)
    axis = {"optimizer.parametrization": ("standard", "completep")}
    assert [one.lr for one in optimizers(plan(trial=trial, axes=axis))] == [4e-3, 4e-3]
    stepped = trial.model_copy(update={"tokens_per_step": None})
    made = plan(trial=stepped, axes={"tokens_per_step": (1024, 4096)})
    assert [one.lr for one in optimizers(made)] == [1e-3, 2e-3]
    accumulated = trial.model_copy(update={"tokens_per_step": None, "batch_size": 4, "grad_accum_steps": 4})
    assert [one.lr for one in optimizers(plan(trial=accumulated))] == [1e-3]


def test_at_the_reference_nothing_is_rescaled():
    plain = plan(trial=Trial(tokens=8192, seq_len=64, tokens_per_step=1024, optimizer=OptimizerFields(lr=1 / 3)))
    axis = plan(
        trial=Trial(tokens=8192, seq_len=64, optimizer=OptimizerFields(lr=1 / 3)), axes={"tokens_per_step": (1024,)}
    )
    assert ids(plain) == ids(axis)
    assert axis.notes == ()


@given(
    lr=st.floats(1e-6, 1.0),
    weight_decay=st.floats(0.0, 1.0),
    steps=st.integers(1, 4096),
    reference=st.integers(1, 4096),
)
def test_what_the_weights_average_over_stays_the_same_number_of_tokens(lr, weight_decay, steps, reference):
    optimizer = OptimizerFields(lr=lr, weight_decay=weight_decay)
    fields = Trial(tokens=2**40, seq_len=1, batch_size=1, tokens_per_step=steps, optimizer=optimizer).model_dump()
    settings = settle(fields, reference=reference)
    assert isinstance(settings, TrialSettings)
    made = settings.recipe(None).optimizer
    assert made.lr == pytest.approx(lr * sqrt(steps / reference), rel=1e-5)
    per_token = made.lr * made.weight_decay / steps
    assert per_token == pytest.approx(lr * weight_decay / reference, rel=2e-5, abs=1e-300)


def test_a_ladder_is_one_point_with_its_rungs_ascending():
    made = plan(trial=RUNGS, axes={"n_layers": (1, 2)})
    assert (made.lattice.points, made.lattice.feasible) == (2, 2)
    assert [[e.batch_size for e in p.executions] for p in made.configs] == [[2, 4, 8]] * 2
    assert [p.choose for p in made.configs] == ["fastest"] * 2
    smallest = plan(trial=RUNGS.model_copy(update={"batch_size": 2}), axes={"n_layers": (1, 2)})
    assert ids(made) == ids(smallest)
    assert [p.memory_bytes for p in made.configs] == [p.memory_bytes for p in smallest.configs]
    assert [p.choose for p in smallest.configs] == ["each"] * 2
    assert made.notes[0].startswith("The micro-batch is the fastest of 2, 4, 8")


@pytest.mark.parametrize(
    ("changes", "axes", "probes"),
    [
        ({}, {"n_layers": (1, 2)}, 6),
        ({"precision": "auto"}, {"n_layers": (1, 2)}, 12),
        ({"seeds": 5}, {"n_layers": (1, 2)}, 6),
        ({}, {"n_layers": (1, 2), "optimizer.lr": (1e-3, 2e-3), "tokens": (8192, 16384)}, 6),
        ({}, {"n_layers": (1, 2), "optimizer.name": ("adamw", "muon")}, 12),
        ({}, {"n_layers": (1, 2), "precision": ("bf16", "auto", "fp8")}, 12),
        ({"batch_size": 2}, {"n_layers": (1, 2)}, 0),
        ({"batch_size": Ladder(fastest=(4,))}, {"n_layers": (1, 2)}, 0),
        ({"batch_size": 2, "precision": "auto"}, {"n_layers": (1, 2)}, 4),
        ({"batch_size": 2, "tokens": None, "minutes": 1.0}, {"n_layers": (1, 2), "optimizer.lr": (1e-3, 2e-3)}, 2),
    ],
)
def test_probes_are_shared_by_what_speed_does_not_depend_on(changes, axes, probes):
    trial = RUNGS.model_copy(update=changes)
    trial = trial.model_copy(update={"tokens": None}) if "tokens" in axes else trial
    assert plan(trial=trial, axes=axes).totals.probes == probes


def test_probes_of_a_random_search_are_those_of_an_average_config():
    made = plan(trial=RUNGS, axes={"n_layers": (1, 2, 3, 4)}, search=Search(method="random", trials=3))
    assert made.totals.probes == 9


def test_a_rung_that_does_not_divide_a_step_of_two_axes_drops_the_point():
    made = plan(
        trial=RUNGS.model_copy(update={"tokens_per_step": None, "seq_len": 1024}),
        axes={"tokens_per_step": (1024, 1536), "seq_len": (64, 128)},
    )
    assert [(r.tokens_per_step, r.seq_len) for r in recipes(made)] == [(1024, 64), (1024, 128), (1536, 64)]
    assert "1536 is not a multiple of batch_size 8 × seq_len 128" in "".join(made.dropped_examples.values())


def needed(batch_size, **changes):
    config = Config(shape=plan().configs[0].config.shape, recipe=recipes(plan())[0])
    fields = {"precision": "bf16", "seq_len": 64, **changes}
    return memory_bytes(config.shape, batch_size=batch_size, **fields)


def test_micro_batches_above_the_memory_are_dropped():
    trial = Trial(tokens=8192, seq_len=64, tokens_per_step=4096)
    cap = Budget(memory=needed(16))
    made = plan(trial=trial, axes={"batch_size": (64, 16, 32, 8)}, budget=cap)
    assert [e.batch_size for e in made.configs[0].executions] == [16, 8]
    assert made.lattice.dropped == {"budget.memory": 2}
    assert made.lattice.feasible == 2
    (message,) = made.dropped_examples.values()
    assert message == (
        f"n_layers 2, d_model 64, ffn_hidden 128 needs about {gibibytes(needed(64))} at batch_size 64, the budget "
        f"allows {gibibytes(needed(16))}: batch_size 16 ({gibibytes(needed(16))}) or "
        f"memory: {ceil(needed(64) / 2**20)}MiB would fit"
    )


def test_the_hint_of_memory_is_a_micro_batch_that_divides_the_step():
    trial = Trial(tokens=8192, seq_len=64, tokens_per_step=64 * 14, batch_size=14)
    with pytest.raises(NothingFeasible, match=r"batch_size 7 \(") as caught:
        plan(trial=trial, budget=Budget(memory=needed(12)))
    assert caught.value.exit_code == 3
    with pytest.raises(NothingFeasible, match=r"the budget allows 1 MiB: memory: \d+MiB would fit"):
        plan(trial=trial, budget=Budget(memory=2**20))


def test_memory_comes_after_the_parameters():
    made = plan(axes={"n_layers": (1, 2, 200)}, budget=Budget(memory=needed(8), params={"max": 100_000}))
    assert made.lattice.dropped == {"budget.params": 1}


def test_a_ladder_keeps_rungs_up_to_half_above_the_memory():
    trial = RUNGS.model_copy(update={"batch_size": Ladder(fastest=(2, 4, 8, 16)), "tokens_per_step": 4096})
    cap = int(needed(8) / 1.5) + 1
    assert needed(2) <= cap < needed(8) <= 1.5 * cap < needed(16)
    made = plan(trial=trial, budget=Budget(memory=cap))
    assert [e.batch_size for e in made.configs[0].executions] == [2, 4, 8]
    assert made.totals.probes == 3
    assert f"1 of 1 configs leave out micro-batches predicted above 1.5 × {gibibytes(cap)}" in made.notes[0]
    with pytest.raises(NothingFeasible, match="at batch_size 2, the budget allows"):
        plan(trial=trial, budget=Budget(memory=needed(2) - 1))


def test_on_a_gpu_the_memory_also_has_to_hold_what_lies_beside_the_tensors():
    """The same lattice, with a cap and predictions that are larger by one context."""
    trial = Trial(tokens=8192, seq_len=64, tokens_per_step=4096)
    axes = {"batch_size": (64, 16, 32, 8)}
    on_cpu, beside = plan(trial=trial, axes=axes, budget=Budget(memory=needed(16))), GPU_BESIDE_BYTES
    on_gpu = plan(trial=trial, axes=axes, budget=Budget(memory=needed(16) + beside), gpus=1)
    assert [e.batch_size for e in on_gpu.configs[0].executions] == [16, 8]
    assert on_gpu.lattice == on_cpu.lattice
    assert on_gpu.configs[0].memory_bytes == on_cpu.configs[0].memory_bytes + beside
    (message,) = on_gpu.dropped_examples.values()
    assert f"needs about {gibibytes(needed(64) + beside)} at batch_size 64" in message
    assert f"batch_size 16 ({gibibytes(needed(16) + beside)})" in message
    with pytest.raises(NothingFeasible, match="would fit"):
        plan(trial=trial, axes=axes, budget=Budget(memory=needed(8)), gpus=1)
    large = next(size for size in (2**n for n in range(16)) if needed(size) > 0.6 * beside)
    assert needed(large) < 1.5 * beside < needed(large) + beside
    ladder = RUNGS.model_copy(
        update={"batch_size": Ladder(fastest=(2, 8, large)), "tokens_per_step": 64 * large, "tokens": 64 * large}
    )
    made = plan(trial=ladder, budget=Budget(memory=beside + needed(8)), gpus=1)
    assert [e.batch_size for e in made.configs[0].executions] == [2, 8]
    assert "1 of 1 configs leave out micro-batches" in made.notes[0]


def test_muon_is_predicted_to_need_less_memory():
    # One of two fp32 moments less for the 2 · 36,864 weights of the blocks.
    assert needed(8) - needed(8, optimizer="muon") == 4 * 2 * 36_864
    made = plan(axes={"optimizer.name": ("adamw", "muon")})
    assert [p.memory_bytes for p in made.configs] == [needed(8), needed(8, optimizer="muon")]


def test_json_and_csv_show_every_kind_of_recipe(tmp_path):
    made = plan(
        trial=RUNGS.model_copy(update={"tokens": None, "optimizer": OptimizerFields(base=BASE)}),
        axes={
            "minutes": (1.0, 2.0),
            "precision": ("bf16", "auto"),
            "optimizer.name": ("adamw", "muon"),
            "optimizer.parametrization": ("standard", "completep"),
        },
    )
    plain = plan_json(made)
    assert [Config.from_dict(config).config_id for config in plain["configs"]] == ids(made)
    assert {config["choose"] for config in plain["configs"]} == {"fastest"}
    assert plain["notes"] == list(made.notes)
    with open(tmp_path / "plan.csv", "w+", encoding="utf-8") as file:
        plan_csv(made, file)
        file.seek(0)
        rows = list(csv.DictReader(file))
    assert [row["config_id"] for row in rows] == ids(made)
    assert {row["optimizer_base_ffn_hidden"] for row in rows} == {"", "256"}
    assert {row["optimizer_momentum"] for row in rows} == {"", "0.95"}
    assert {row["fp8_backend"] for row in rows} == {"", "torchao"}
    assert {(row["minutes"], row["steps"]) for row in rows} == {("1.0", ""), ("2.0", "")}
    assert {(row["batch_sizes"], row["choose"]) for row in rows} == {("2 4 8", "fastest")}
