"""Plans against numbers worked out by hand from the design's formula and the guide's table."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeper.planning import plan as planning
from sweeper.planning.plan import make_plan, plan_csv, plan_json
from sweeper.planning.train_tokens import TrainTokens
from sweeper.study.schema import (
    Budget,
    LoadedStudy,
    OptimizerFields,
    ParamsBudget,
    Resources,
    Search,
    Solve,
    Study,
    Trial,
)
from sweeper.values.errors import NothingFeasible, UsageError
from sweeper.values.records import Config, Execution

GUIDE = {"vocab_size": 32768, "d_model": 768, "head_dim": 64, "n_kv_heads": 4, "tie_embeddings": True}
SMALL = {
    "n_layers": 2, "d_model": 64, "head_dim": 16, "n_kv_heads": 2, "ffn_hidden": 128, "vocab_size": 256,
    "tie_embeddings": True,
}  # fmt: skip
BUDGET = Budget(params=ParamsBudget(target=180_000_000, tolerance=0.02))


def plan(*, model=SMALL, trial=None, data_path=None, cpus=2, **fields):
    study = Study(name="s", model=model, trial=trial or Trial(tokens=8192, seq_len=64), **fields)
    loaded = LoadedStudy(study=study, profile="full", file=Path("s.yaml"), resolved={}, data_path=data_path)
    return make_plan(loaded, cpus=cpus)


def shapes(made):
    return [planned.config.shape for planned in made.configs]


def recipes(made):
    return [planned.config.recipe for planned in made.configs]


def depth_vs_ffn():
    return plan(
        model=GUIDE,
        axes={"n_layers": (12, 16, 20, 24, 28, 32, 40), "ffn_hidden": Solve(solve="params", multiple_of=64)},
        budget=BUDGET,
        trial=Trial(tokens=60_000_000, tokens_per_step=98304, precision="fp8", seeds=3),
    )


def test_depth_vs_ffn_lists_seven_depths_on_the_budget():
    made = depth_vs_ffn()
    # Tied table 32768·768 = 25,165,824 and final norm 768; a layer 2·768² + 2·768·256 + 2·768 = 1,574,400 without
    # its FFN, of which one row is 3·768 = 2,304. L=12: (180,000,000 − 25,166,592) ÷ 12 = 12,902,784.0, less
    # 1,574,400 is 11,328,384 ÷ 2,304 = 4,916.8 rows; multiples of 64 near it: 4,864 and 4,928 (nearer).
    # L=40: 3,870,835 − 1,574,400 = 2,296,435 ÷ 2,304 = 996.7: 960 (36.7 off) and 1,024 (27.3 off).
    assert [(s.n_layers, s.ffn_hidden, s.params.total) for s in shapes(made)] == [
        (12, 4928, 25_166_592 + 12 * (1_574_400 + 2_304 * 4928)),
        (16, 3520, 25_166_592 + 16 * (1_574_400 + 2_304 * 3520)),
        (20, 2688, 25_166_592 + 20 * (1_574_400 + 2_304 * 2688)),
        (24, 2112, 25_166_592 + 24 * (1_574_400 + 2_304 * 2112)),
        (28, 1728, 25_166_592 + 28 * (1_574_400 + 2_304 * 1728)),
        (32, 1408, 25_166_592 + 32 * (1_574_400 + 2_304 * 1408)),
        (40, 1024, 25_166_592 + 40 * (1_574_400 + 2_304 * 1024)),
    ]
    assert made.configs[0].params.total == 180_308_736
    assert made.configs[0].off_target == pytest.approx(308_736 / 180e6)
    assert made.configs[3].off_target == pytest.approx(-262_656 / 180e6)
    assert made.lattice.points == made.lattice.feasible == 7
    assert all(s.n_heads == 12 for s in shapes(made))
    # 60,000,000 ÷ 98,304 = 610.4
    assert {recipe.steps for recipe in recipes(made)} == {610}
    assert made.totals.trials == 21
    assert made.totals.tokens == 21 * 610 * 98304


@pytest.mark.parametrize(
    ("n_layers", "ffn_hidden", "untied", "tied"),
    [
        (12, 2560, 140_004_096, 114_838_272),
        (16, 2304, 160_457_472, 135_291_648),
        (20, 2304, 187_988_736, 162_822_912),
        (24, 2048, 201_364_224, 176_198_400),
        (32, 2048, 251_708_160, 226_542_336),
        (40, 1792, 278_459_136, 253_293_312),
    ],
)
def test_the_rows_of_the_guides_table(n_layers, ffn_hidden, untied, tied):
    row = {"n_layers": n_layers, "ffn_hidden": ffn_hidden}
    made = plan(model=GUIDE, shapes=({**row, "tie_embeddings": False}, row))
    assert [planned.params.total for planned in made.configs] == [untied, tied]


def test_the_guides_presets_as_shapes():
    rows = [(768, 12, 12, 2560), (768, 32, 12, 2048), (768, 20, 12, 2304), (1024, 12, 16, 2730), (1024, 24, 16, 4096)]
    listed = tuple({"d_model": d, "n_layers": n, "n_heads": h, "n_kv_heads": 4, "ffn_hidden": f} for d, n, h, f in rows)
    made = plan(model={"vocab_size": 32768, "tie_embeddings": False}, shapes=listed)
    assert [planned.params.total for planned in made.configs] == [
        140_004_096, 251_708_160, 187_988_736, 199_230_464, 432_063_488,
    ]  # fmt: skip


def test_axes_are_crossed_in_their_order_under_each_shape():
    made = plan(
        axes={"n_layers": (1, 2), "optimizer.lr": (1e-3, 2e-3)},
        shapes=({"ffn_hidden": 64}, {"ffn_hidden": 32}),
    )
    got = [(c.shape.ffn_hidden, c.shape.n_layers, c.recipe.optimizer.lr) for c in (p.config for p in made.configs)]
    assert got == [
        (64, 1, 1e-3), (64, 1, 2e-3), (64, 2, 1e-3), (64, 2, 2e-3),
        (32, 1, 1e-3), (32, 1, 2e-3), (32, 2, 1e-3), (32, 2, 2e-3),
    ]  # fmt: skip
    assert made.lattice.points == 8


def test_a_field_of_the_optimizer_keeps_the_others():
    trial = Trial(tokens=8192, seq_len=64, optimizer=OptimizerFields(weight_decay=0.3, betas=(0.8, 0.9)))
    made = plan(trial=trial, axes={"optimizer.lr": (1e-3,), "precision": ("fp32",)})
    optimizer = recipes(made)[0].optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.betas) == (1e-3, 0.3, (0.8, 0.9))
    assert recipes(made)[0].precision == "fp32"


def test_a_shape_from_a_preset_brings_its_batch():
    made = plan(
        shapes=({"n_layers": 1, "batch_size": 4, "grad_accum_steps": 3}, {"n_layers": 3}),
        trial=Trial(tokens=8192, seq_len=64, batch_size=2),
    )
    assert [recipe.tokens_per_step for recipe in recipes(made)] == [4 * 3 * 64, 2 * 64]
    assert [planned.executions[0].batch_size for planned in made.configs] == [4, 2]


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ({"tokens": 1000}, 2),  # 1000 ÷ 512 = 1.95
        ({"tokens": 768}, 2),  # a half goes up
        ({"tokens": 767}, 1),
        ({"tokens": 512}, 1),
        # A layer 2·64² + 2·64·32 + 3·64·128 + 2·64 = 36,992; ·2 + 64 + 16,384 = 90,432 parameters, a tenth 9,043.2.
        ({"tokens_per_param": 0.1}, 18),  # 9,043.2 ÷ 512 = 17.66
        ({"tokens_per_param": 1e-9}, 1),
        # matmul 2·36,864 + 16,384 = 90,112; 6·90,112 + 12·2·64·64 = 638,976 FLOPs a token, 327,155,712 a step
        ({"flops": 327_155_712 * 7.4}, 7),
        ({"flops": 1.0}, 1),
    ],
)
def test_length_becomes_whole_steps(asked, steps):
    made = plan(trial=Trial(seq_len=64, batch_size=4, grad_accum_steps=2, **asked))
    recipe = recipes(made)[0]
    assert (recipe.steps, recipe.tokens_per_step, recipe.tokens) == (steps, 512, steps * 512)


def test_hand_counted_flops_and_parameters():
    planned = plan(trial=Trial(seq_len=64, tokens=8192)).configs[0]
    assert planned.params.total == 90_432
    assert planned.train_flops_per_token == 638_976


def test_length_is_resolved_before_the_id():
    one, other = (plan(trial=Trial(seq_len=64, tokens=n)).configs[0].config.config_id for n in (8192, 8200))
    assert one == other


@pytest.mark.parametrize(
    ("given", "tokens_per_step", "batch_size"),
    [
        ({}, 8 * 64, 8),
        ({"batch_size": 4}, 4 * 64, 4),
        ({"batch_size": 4, "grad_accum_steps": 3}, 4 * 3 * 64, 4),
        ({"tokens_per_step": 1024}, 1024, 8),
        ({"tokens_per_step": 1024, "batch_size": 2, "grad_accum_steps": 3}, 1024, 2),
    ],
)
def test_tokens_per_step(given, tokens_per_step, batch_size):
    made = plan(trial=Trial(tokens=8192, seq_len=64, **given))
    assert recipes(made)[0].tokens_per_step == tokens_per_step
    assert made.configs[0].executions == (Execution(batch_size=batch_size, compile=True),)


def test_micro_batches_share_a_config():
    made = plan(
        trial=Trial(tokens=8192, seq_len=64, tokens_per_step=1024, compile=False),
        axes={"batch_size": (8, 2, 3, 16), "n_layers": (1, 2)},
    )
    assert [[e.batch_size for e in planned.executions] for planned in made.configs] == [[8, 2, 16]] * 2
    assert all(not e.compile for planned in made.configs for e in planned.executions)
    largest = plan(trial=Trial(tokens=8192, seq_len=64, tokens_per_step=1024, batch_size=16), axes={"n_layers": (1, 2)})
    assert [p.memory_bytes for p in made.configs] == [p.memory_bytes for p in largest.configs]
    assert (made.lattice.points, made.lattice.feasible) == (8, 6)
    assert made.lattice.dropped == {"tokens_per_step % (batch_size * seq_len)": 2}
    text = made.dropped_examples["tokens_per_step % (batch_size * seq_len)"]
    assert "1024 is not a multiple of batch_size 3 × seq_len 64 = 192" in text
    assert "tokens_per_step 960 or 1152, or batch_size 2" in text
    assert made.totals.configs == made.totals.trials == 2


def test_micro_batches_without_tokens_per_step_are_different_configs():
    made = plan(axes={"batch_size": (4, 8)})
    assert [recipe.tokens_per_step for recipe in recipes(made)] == [256, 512]


def test_equal_configs_are_planned_once():
    made = plan(shapes=({"n_heads": 4, "head_dim": None}, {}, {"ffn_hidden": 128}, {"ffn_hidden": 64}))
    assert [s.ffn_hidden for s in shapes(made)] == [128, 64]
    assert made.lattice.dropped == {"same config as another point": 2}
    assert made.lattice.feasible == 2


def test_a_point_is_dropped_for_the_first_rule_that_it_fails():
    # d_model 72: head rule, whatever else; seq_len 40: token arithmetic; ffn_hidden 4096 alone: the budget.
    made = plan(
        axes={"d_model": (64, 72), "seq_len": (64, 40), "ffn_hidden": (128, 4096)},
        trial=Trial(tokens=8192, tokens_per_step=1024, batch_size=8),
        budget=Budget(params=ParamsBudget(max=200_000)),
    )
    assert made.lattice.dropped == {
        "d_model % head_dim": 4,
        "tokens_per_step % (batch_size * seq_len)": 2,
        "budget.params": 1,
    }
    assert made.lattice.feasible == 1


def test_too_few_tokens_come_before_a_solve_that_misses():
    with pytest.raises(NothingFeasible, match="tokens < tokens_per_step: tokens 100 are fewer") as caught:
        plan(
            axes={"ffn_hidden": Solve(solve="params", multiple_of=999)},
            budget=Budget(params=ParamsBudget(target=90_000)),
            trial=Trial(tokens=100, seq_len=64, batch_size=2),
        )
    assert "solve" not in str(caught.value)
    assert "at least 128 tokens" in str(caught.value)


def test_nothing_feasible_names_what_would_be():
    with pytest.raises(NothingFeasible) as caught:
        plan(
            axes={"n_layers": (1, 2, 3), "head_dim": (16, 20)},
            budget=Budget(params=ParamsBudget(target=500_000)),
        )
    assert caught.value.exit_code == 3
    lines = str(caught.value).splitlines()
    assert lines[0] == "nothing is feasible in any of the 6 points of s (profile full):"
    reasons = {line.split(":")[0].strip(): line for line in lines[1:]}
    assert set(reasons) == {"3 × budget.params", "3 × d_model % head_dim"}
    # 16,448 + 36,992·L: 13 layers have 497,344. One FFN row of the one layer is 192: (500,000 − 28,864) ÷ 192 = 2,453.8
    assert "n_layers 13 (497,344) or ffn_hidden 2448 (498,880) would fit" in reasons["3 × budget.params"]
    assert "nearest are d_model 60 or 80" in reasons["3 × d_model % head_dim"]


def test_budget_bounds_are_inclusive():
    exact = Budget(params=ParamsBudget(min=90_432, max=90_432))
    made = plan(budget=exact)
    assert made.configs[0].off_target is None
    trunk = Budget(params=ParamsBudget(target=90_432 - 16_384, tolerance=0.0, count="trunk"))
    assert plan(budget=trunk).configs[0].off_target == 0.0
    with pytest.raises(NothingFeasible):
        plan(budget=Budget(params=ParamsBudget(target=90_431, tolerance=0.0)))


def test_tolerance_is_exact_where_floats_are_not():
    # 16 + 6 + 4 + 2 = 28 parameters in the trunk, 2 for each row of the table: 258. Its distance from 200 is 29%
    # to the last one, though 0.29 · 200 in floats is 57.99999999999999.
    model = {
        "n_layers": 1,
        "d_model": 2,
        "n_heads": 1,
        "n_kv_heads": 1,
        "ffn_hidden": 1,
        "vocab_size": 115,
        "tie_embeddings": True,
    }
    made = plan(model=model, budget=Budget(params=ParamsBudget(target=200, tolerance=0.29)))
    assert made.configs[0].params.total == 258
    with pytest.raises(NothingFeasible):
        plan(model=model, budget=Budget(params=ParamsBudget(target=200, tolerance=0.28999)))


def test_random_search_counts_only_its_trials():
    fields = {"axes": {"n_layers": (1, 2, 3, 4)}, "trial": Trial(tokens=8192, seq_len=64, seeds=2)}
    made = plan(search=Search(method="random", trials=3), **fields)
    assert len(made.configs) == 4
    assert (made.totals.configs, made.totals.trials, made.totals.seeds) == (3, 6, 2)
    assert made.totals.tokens == 6 * 8192
    every = plan(search=Search(method="random", trials=9), **fields).totals
    assert (every.configs, every.trials) == (4, 8)
    grid = plan(**fields)
    assert grid.totals.seconds == pytest.approx(2 * sum(planned.seconds for planned in grid.configs))
    assert grid.totals.train_flops == 2 * sum(8192 * planned.train_flops_per_token for planned in grid.configs)


def test_more_than_one_pass_over_the_data_is_said():
    asked = []

    def train_tokens(data, vocab_size):
        asked.append((data, vocab_size))
        return None if data == "python-packages" else TrainTokens(tokens=10_240, exact=False, source="counted")

    study = Study(
        name="s",
        model=SMALL,
        axes={"n_layers": (1, 2), "data": ("python-stdlib", "python-packages"), "tokens": (17_408, 10_240)},
        trial=Trial(seq_len=64),
    )
    loaded = LoadedStudy(study=study, profile="cpu", file=Path("s.yaml"), resolved={}, data_path=Path("/data/x"))
    made = make_plan(loaded, cpus=2, train_tokens=train_tokens)
    warned = [planned for planned in made.configs if planned.warnings]
    assert [(p.config.recipe.data, p.config.recipe.tokens) for p in warned] == [("python-stdlib", 17_408)] * 2
    assert warned[0].warnings == ("passes over its data about 1.7 times (17,408 of about 10,240 tokens)",)
    assert made.totals.max_epochs == pytest.approx(1.7)
    assert sorted(asked) == [("python-packages", 256), ("python-stdlib", 256)]
    assert made.data_path == "/data/x"
    assert plan().totals.max_epochs is None


def test_fp8_alignment_is_a_warning():
    made = plan(axes={"precision": ("fp8", "bf16"), "ffn_hidden": (128, 130)})
    warned = {(p.config.recipe.precision, p.config.shape.ffn_hidden): p.warnings for p in made.configs}
    assert [key for key, warnings in warned.items() if warnings] == [("fp8", 130)]
    assert "ffn_hidden 130 is not a multiple of 16" in warned["fp8", 130][0]


def test_missing_shape_fields_are_a_users_mistake():
    with pytest.raises(UsageError, match=r"model\.d_model: missing"):
        plan(model={"n_layers": 2, "vocab_size": 256})


def test_json_has_the_designs_keys_and_rebuilds_the_configs():
    made = depth_vs_ffn()
    plain = json.loads(json.dumps(plan_json(made)))
    assert plain["schema"] == 1
    assert (plain["study"], plain["profile"], plain["cut"]) == ("s", "full", False)
    assert plain["lattice"] == {"points": 7, "feasible": 7, "dropped": {}}
    first = plain["configs"][0]
    assert {"config_id", "shape", "recipe", "params", "off_target", "train_flops_per_token", "memory_bytes",
            "seconds"} <= set(first)  # fmt: skip
    assert first["params"] == {
        "total": 180_308_736, "trunk": 155_142_912, "embedding": 25_165_824, "head": 0,
    }  # fmt: skip
    assert [Config.from_dict(c).config_id for c in plain["configs"]] == [c["config_id"] for c in plain["configs"]]
    assert first["executions"] == [{"batch_size": 8, "compile": True}]
    assert {"configs", "trials", "tokens", "train_flops", "seconds", "seeds"} <= set(plain["totals"])
    assert "assumed" in plain["estimate"]["source"]


def test_a_long_list_is_cut_in_json_and_whole_in_csv(monkeypatch):
    monkeypatch.setattr(planning, "MAX_LISTED", 3)
    made = plan(axes={"n_layers": (1, 2, 3, 4)}, trial=Trial(tokens=8192, seq_len=64, precision="fp8"))
    plain = plan_json(made)
    assert plain["cut"] is True
    assert len(plain["configs"]) == 3
    file = io.StringIO()
    plan_csv(made, file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert [row["n_layers"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["config_id"] for row in rows] == [planned.config.config_id for planned in made.configs]
    assert rows[0]["params_total"] == str(made.configs[0].params.total)
    assert (rows[0]["optimizer_betas"], rows[0]["batch_sizes"]) == ("0.9 0.95", "8")


def test_speed_is_assumed_by_kind_of_device():
    assert "2 cores" in plan().calibration.source
    assert "3 cores" in plan(resources=Resources(cpus=3)).calibration.source
    assert "GPU" in plan(resources=Resources(gpus=1)).calibration.source


def test_a_hundred_thousand_points_are_planned_in_seconds():
    started = time.process_time()
    made = plan(
        axes={
            "n_layers": tuple(range(1, 101)),
            "ffn_hidden": tuple(range(16, 1616, 16)),
            "optimizer.lr": tuple(n * 1e-4 for n in range(1, 11)),
        }
    )
    assert time.process_time() - started < 6
    assert made.lattice.points == len(made.configs) == 100_000


def test_planning_loads_nothing_heavy():
    code = (
        "import sys, sweeper.planning.plan; "
        "sys.exit(' '.join({'torch', 'ray', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
