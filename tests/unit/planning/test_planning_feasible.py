"""All points of a lattice at once against each point by itself, and against a brute force of its own."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeper.planning.estimates import assumed
from sweeper.planning.feasible import DUPLICATE, feasible
from sweeper.planning.lattice import Lattice
from sweeper.planning.plan import make_plan
from sweeper.planning.solver import Drop
from sweeper.study.schema import Budget, Ladder, LoadedStudy, OptimizerFields, ParamsBudget, Solve, Study, Trial
from sweeper.values.errors import NothingFeasible, UsageError
from tests.examples import examples


def planned(study):
    return make_plan(LoadedStudy(study=study, profile="full", file=Path("s.yaml"), resolved={}), cpus=2)


def one_by_one(study):
    """What `make_plan` should find, by `Lattice.at` of every index: micro-batches by config, drops, examples."""
    lattice = Lattice(study)
    batches, dropped, examples = {}, Counter(), {}
    for index in range(lattice.size):
        point = lattice.at(index)
        if isinstance(point, Drop):
            dropped[point.reason] += 1
            if point.reason not in examples:
                examples[point.reason] = point.message()
        elif point.batch_sizes[0] in (sizes := batches.setdefault(point.config, [])):
            dropped[DUPLICATE] += 1
            examples.setdefault(DUPLICATE, None)
        else:
            sizes.extend(point.batch_sizes)
    return batches, dropped, examples


def lists(values, most=3):
    return st.lists(values, min_size=1, max_size=most, unique=True).map(tuple)


SHAPE_AXES = {
    "n_layers": lists(st.integers(1, 6)),
    "d_model": lists(st.sampled_from([8, 12, 16, 24, 32, 48, 64])),
    "n_kv_heads": lists(st.sampled_from([1, 2, 3, 4])),
    "kv_groups": lists(st.sampled_from([1, 2, 4])),
    "n_heads": lists(st.sampled_from([1, 2, 3, 4, 8])),
    "head_dim": lists(st.sampled_from([2, 3, 4, 8, 16])),
    "vocab_size": lists(st.sampled_from([64, 100, 300])),
    "tie_embeddings": lists(st.booleans()),
}
FFN_AXES = {
    "ffn_hidden": lists(st.integers(1, 200), most=12) | lists(st.integers(1, 200), most=12).map(sorted).map(tuple),
    "ffn_ratio": lists(st.sampled_from([0.5, 1.0, 2.5, 2.67, 4.0])),
}
TRIAL_AXES = {
    "seq_len": lists(st.sampled_from([16, 24, 32])),
    "batch_size": lists(st.sampled_from([1, 2, 3, 4])),
    "precision": lists(st.sampled_from(["fp32", "bf16", "auto"])),
    "optimizer.lr": lists(st.sampled_from([1e-3, 2e-3])),
    "tokens_per_step": lists(st.sampled_from([96, 128, 192])),
}
LENGTHS = ({"tokens": 1000}, {"flops": 3e7}, {"tokens_per_param": 0.37}, {"minutes": 0.01}, {"flops": 1e24})
CONSTRAINTS = (
    "n_layers * d_model <= 96", "ffn_hidden % 16 == 0 or ffn_ratio > 2", "aspect_ratio >= 4 and not n_layers == 3",
    "4 <= n_heads * head_dim < 50", "params ** 3 > 10 ** 12", "train_flops_per_token * tokens_per_step <= 40M",
    "kv_bytes_per_token // 7 % 3 != 1", "trunk_params / seq_len > 50.5", "d_model - 64 != 0",
)  # fmt: skip


@st.composite
def studies(draw):
    axes = {name: draw(values) for name, values in SHAPE_AXES.items() if draw(st.booleans()) and draw(st.booleans())}
    if "n_heads" in axes and draw(st.booleans()):
        axes.pop("head_dim", None)
    if "kv_groups" in axes:
        axes.pop("n_kv_heads", None)
    model = {"n_layers": 2, "d_model": 32, "vocab_size": 128, "tie_embeddings": draw(st.booleans())}
    model |= draw(st.sampled_from([{}, {"head_dim": 8}, {"n_heads": 4}, {"multiple_of": 8, "head_dim": 4}]))
    if "kv_groups" not in axes and draw(st.booleans()):
        model["n_kv_heads"] = 2
    ffn = draw(st.sampled_from(["ffn_hidden", "ffn_ratio", "fixed", "left out", "solved", "solved"]))
    solved = draw(st.sampled_from(["ffn_hidden", "n_layers", "d_model"])) if ffn == "solved" else None
    if ffn in FFN_AXES:
        axes[ffn] = draw(FFN_AXES[ffn])
    elif ffn == "fixed" or (solved and solved != "ffn_hidden"):
        model["ffn_hidden"] = 40
    if solved:
        axes[solved] = draw(
            st.builds(Solve, solve=st.just("params"), multiple_of=st.sampled_from([1, 4, 8]),
                      min=st.none() | st.just(3), max=st.none() | st.sampled_from([5, 64, 300]))
        )  # fmt: skip
    trial = {"seq_len": 32, "tokens_per_step": 192, "optimizer": OptimizerFields(name=draw(OPTIMIZERS))}
    axes |= {name: draw(values) for name, values in TRIAL_AXES.items() if draw(st.integers(0, 3)) == 0}
    if "batch_size" not in axes and draw(st.booleans()):
        trial["batch_size"] = Ladder(fastest=(2, 1, 3))
    names = draw(st.permutations(list(axes)))
    shapes = draw(st.sampled_from([(), ({"n_layers": 3}, {"vocab_size": 64}), ({}, {"ffn_hidden": 40}, {})]))
    if ffn == "ffn_ratio":
        shapes = ()
    fixed = st.builds(ParamsBudget, target=st.integers(2000, 60_000), tolerance=st.sampled_from([0.01, 0.1, 0.5]),
                      count=st.sampled_from(["total", "trunk"]))  # fmt: skip
    open_ended = st.builds(ParamsBudget, max=st.integers(2000, 90_000)) | st.none()
    return Study(
        name="s",
        model=model,
        axes={name: axes[name] for name in names},
        shapes=shapes,
        trial=Trial(**{"batch_size": 2, **trial, **draw(st.sampled_from(LENGTHS))}),
        budget=Budget(
            params=draw(fixed if solved else fixed | open_ended),
            memory=draw(st.none() | st.integers(2**20, 3 * 2**20)),
        ),
        constraints=draw(st.lists(st.sampled_from(CONSTRAINTS), max_size=2, unique=True).map(tuple)),
    )


OPTIMIZERS = st.sampled_from(["adamw", "muon"])


@settings(
    max_examples=examples(1000), deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)
@given(studies())
def test_all_at_once_is_each_by_itself(study):
    try:
        batches, dropped, examples = one_by_one(study)
    except UsageError as error:
        with pytest.raises(UsageError, match=re.escape(str(error))):
            planned(study)
        return
    if not batches:
        with pytest.raises(NothingFeasible) as caught:
            planned(study)
        assert all(message in str(caught.value) for message in examples.values() if message)
        return
    made = planned(study)
    assert [one.config for one in made.configs] == list(batches)
    assert [[e.batch_size for e in one.executions] for one in made.configs] == list(batches.values())
    assert list(made.lattice.dropped.items()) == dropped.most_common()
    assert made.lattice.points == made.lattice.feasible + dropped.total()
    assert {reason: said for reason, said in made.dropped_examples.items() if reason != DUPLICATE} == {
        reason: said for reason, said in examples.items() if reason != DUPLICATE
    }
    speed = assumed(gpus=0, cpus=2)
    tokens = [speed.tokens(config.flops_per_token, config.recipe) for config in batches]
    flops = [config.shape.train_flops_per_token(config.recipe.seq_len) for config in batches]
    assert made.totals.tokens == sum(tokens)
    assert made.totals.train_flops == sum(n * each for n, each in zip(tokens, flops, strict=True))
    assert made.totals.seconds == pytest.approx(sum(map(speed.seconds, batches)))


LAYERS, WIDTHS, KV_HEADS = tuple(range(1, 41)), tuple(range(64, 1665, 64)), (1, 2, 4, 8)
ROWS = tuple(range(16, 8016, 16))


def large(**budget):
    return Study(
        name="large",
        model={"vocab_size": 32768, "head_dim": 64, "tie_embeddings": True},
        axes={"n_layers": LAYERS, "d_model": WIDTHS, "ffn_hidden": ROWS, "n_kv_heads": KV_HEADS},
        budget=Budget(params=ParamsBudget(**budget)),
        trial=Trial(tokens=1_000_000, seq_len=1024),
    )


def test_two_million_points_are_those_of_a_brute_force_over_the_whole_grid():
    found = feasible(Lattice(large(target=180_000_000, tolerance=0.02)))
    layers, width, rows, kv = np.meshgrid(LAYERS, WIDTHS, ROWS, KV_HEADS, indexing="ij")
    attention = 2 * width * width + 2 * width * kv * 64
    params = layers * (attention + 3 * width * rows + 2 * width) + width + 32768 * width
    heads = (width // 64) % kv == 0
    within = heads & (abs(params - 180_000_000) <= 3_600_000)
    assert found.points.tolist() == np.flatnonzero(within.ravel()).tolist()
    assert found.tally.points == {
        "n_heads % n_kv_heads": int((~heads).sum()),
        "budget.params": int((heads & ~within).sum()),
    }
    shape = found.groups[0].shapes.shape
    for column, grid in (
        (shape.n_layers, layers), (shape.d_model, width), (shape.ffn_hidden, rows), (shape.n_kv_heads, kv),
        (shape.n_heads, width // 64), (shape.params.total, params),
    ):  # fmt: skip
        assert np.array_equal(column, grid[within])


def test_a_plan_of_more_configs_than_are_listed_is_put_together_as_it_is_looked_at():
    made = planned(large(max=200_000_000))
    assert len(made.configs) == made.lattice.feasible > 100_000
    last = made.configs[-1]
    assert last.params.total <= 200_000_000
    assert [one.config for one in made.configs[5:8]] == [made.configs[n].config for n in (5, 6, 7)]
    with pytest.raises(IndexError):
        made.configs[len(made.configs)]


def test_counts_beyond_64_bits_are_exact():
    study = Study(
        name="huge",
        model={"d_model": 2**20, "vocab_size": 2**24, "head_dim": 64, "tie_embeddings": False},
        axes={"n_layers": (1, 10_000), "ffn_hidden": (2**24,)},
        trial=Trial(tokens=10**12, seq_len=2**22, batch_size=1),
    )
    made = planned(study)
    flops = [one.train_flops_per_token * one.tokens for one in made.configs]
    assert max(flops) > 2**63
    assert made.totals.train_flops == sum(flops)
