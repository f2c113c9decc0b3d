"""Constraints in the lattice: which points they drop, in which order, and what is said of it."""

from itertools import product

import pytest

from sweeper.model.shape import derive
from sweeper.planning.constraints import quantities
from sweeper.planning.plan import make_plan
from sweeper.study.expressions import QUANTITIES
from sweeper.study.loader import load
from sweeper.values.errors import NothingFeasible, UsageError
from sweeper.values.records import Optimizer, Recipe

STUDY = """\
name: bounded
model: {{vocab_size: 1000, head_dim: 16, n_kv_heads: 1, tie_embeddings: true}}
axes:
  n_layers: [1, 2, 4, 8]
  d_model: [32, 64, 128]
  ffn_hidden: [64, 96, 256]
constraints: {constraints}
budget: {{params: {{max: 400k}}}}
trial: {{data: python-stdlib, tokens: 1M, seq_len: 128, batch_size: 4, precision: fp32}}
"""


def planned(tmp_path, *constraints, edit=lambda text: text):
    path = tmp_path / "bounded.yaml"
    path.write_text(edit(STUDY.format(constraints=list(constraints))))
    return make_plan(load(path), cpus=2)


def shapes():
    for n_layers, d_model, ffn_hidden in product([1, 2, 4, 8], [32, 64, 128], [64, 96, 256]):
        yield derive({"n_layers": n_layers, "d_model": d_model, "ffn_hidden": ffn_hidden, "head_dim": 16,
                      "n_kv_heads": 1, "vocab_size": 1000, "tie_embeddings": True})  # fmt: skip


def test_points_are_dropped_by_the_first_rule_that_they_fail(tmp_path):
    first, second = "n_layers * d_model <= 256", "ffn_hidden % d_model == 0 or aspect_ratio >= 32"
    plan = planned(tmp_path, first, second)
    kept, dropped = [], dict.fromkeys(("budget.params", first, second), 0)
    for shape in shapes():
        if shape.params.total > 400_000:
            dropped["budget.params"] += 1
        elif shape.n_layers * shape.d_model > 256:
            dropped[first] += 1
        elif shape.ffn_hidden % shape.d_model and shape.d_model / shape.n_layers < 32:
            dropped[second] += 1
        else:
            kept.append(shape)
    assert [one.config.shape for one in plan.configs] == kept
    assert plan.lattice.dropped == dropped
    assert all(dropped.values())
    assert plan.lattice.feasible == len(kept)
    message = plan.dropped_examples[first]
    assert message == f"{first} doesn't hold with d_model 128, n_layers 4"


def test_every_quantity_is_what_its_description_says():
    shape = derive({"n_layers": 6, "d_model": 96, "ffn_hidden": 240, "n_heads": 6, "n_kv_heads": 2, "vocab_size": 500,
                    "tie_embeddings": False})  # fmt: skip
    recipe = Recipe(data="x", steps=10, seq_len=64, tokens_per_step=512, precision="fp32",
                    optimizer=Optimizer(lr=1e-3), eval_tokens=64)  # fmt: skip
    found = quantities(shape, seq_len=recipe.seq_len, tokens_per_step=recipe.tokens_per_step)
    assert set(found) == set(QUANTITIES)
    attention = 2 * 96 * 96 + 2 * 96 * 32
    trunk = 6 * (attention + 3 * 96 * 240 + 2 * 96) + 96
    assert found == {
        "n_layers": 6, "d_model": 96, "n_heads": 6, "n_kv_heads": 2, "kv_groups": 3, "head_dim": 16,
        "ffn_hidden": 240, "ffn_ratio": 2.5, "vocab_size": 500, "aspect_ratio": 16.0, "trunk_params": trunk,
        "params": trunk + 2 * 500 * 96,
        "train_flops_per_token": 6 * (6 * (attention + 3 * 96 * 240) + 500 * 96) + 12 * 6 * 96 * 64,
        "kv_bytes_per_token": 6 * 2 * (2 * 16) * 2, "seq_len": 64, "tokens_per_step": 512,
    }  # fmt: skip


def test_with_a_solved_axis_the_solved_value_counts(tmp_path):
    def solved(text):
        text = text.replace("ffn_hidden: [64, 96, 256]", "ffn_hidden: {solve: params, multiple_of: 16}")
        return text.replace("{max: 400k}", "{target: 200k, tolerance: 20%}")

    free = planned(tmp_path, edit=solved)
    bound = planned(tmp_path, "ffn_ratio <= 8", edit=solved)
    ratios = [one.config.shape.ffn_hidden / one.config.shape.d_model for one in free.configs]
    assert any(ratio > 8 for ratio in ratios)
    assert [one.config for one in bound.configs] == [
        one.config for one, ratio in zip(free.configs, ratios, strict=True) if ratio <= 8
    ]


def test_what_cannot_be_computed_is_said_with_the_point(tmp_path):
    with pytest.raises(
        UsageError, match=r"constraints: .*: params / \(n_layers - 4\) divides by zero, with n_layers 4, params"
    ):
        planned(tmp_path, "params / (n_layers - 4) > 1 or n_layers < 4")


def test_where_nothing_is_left_the_condition_is_named(tmp_path):
    with pytest.raises(NothingFeasible, match=r"36 × n_layers > 10: n_layers > 10 doesn't hold with n_layers 1"):
        planned(tmp_path, "n_layers > 10", edit=lambda text: text.replace("{max: 400k}", "{max: 4M}"))
