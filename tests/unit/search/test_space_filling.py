"""The spread of `space_filling` against brute force, and features against what they stand for."""

import math
from itertools import combinations

import numpy as np
import pytest

from sweeper.model.shape import derive
from sweeper.planning.axes import value_on
from sweeper.search import make_strategy
from sweeper.search.features import features
from sweeper.study.layers import AXES
from sweeper.values.records import Base, Config, Optimizer, Recipe

AXES_HERE = ("n_layers", "ffn_hidden")


def config(*, lr=1e-3, base=None, precision="fp32", **shape):
    fields = {"n_layers": 2, "d_model": 64, "ffn_hidden": 128, "vocab_size": 256, "tie_embeddings": True, **shape}
    recipe = Recipe(data="x", steps=10, seq_len=32, tokens_per_step=128, precision=precision,
                    optimizer=Optimizer(lr=lr, base=base), eval_tokens=1024)  # fmt: skip
    return Config(shape=derive(fields), recipe=recipe)


def chosen(configs, trials, seed=0, axes=AXES_HERE):
    strategy = make_strategy("space_filling", configs, trials=trials, seed=seed, axes=axes, objectives={})
    return [strategy.propose() for _ in range(trials)]


def radius(points, centres):
    """How far the farthest point lies from its nearest centre."""
    return max(min(math.dist(point, points[centre]) for centre in centres) for point in points)


@pytest.mark.parametrize("seed", range(6))
def test_no_config_is_farther_than_twice_the_best_that_so_many_could_do(seed):
    draw = np.random.default_rng(seed)
    sizes = {(int(n), int(f)) for n, f in zip(draw.integers(1, 40, 14), 16 * draw.integers(1, 90, 14), strict=True)}
    configs = [config(n_layers=n, ffn_hidden=f) for n, f in sorted(sizes)]
    points = features(configs, AXES_HERE)
    places = {one.config_id: place for place, one in enumerate(configs)}
    for trials in (1, 2, 3, 4):
        own = radius(points, [places[one.config_id] for one in chosen(configs, trials, seed)])
        best = min(radius(points, centres) for centres in combinations(range(len(configs)), trials))
        assert own <= 2 * best + 1e-6


def test_the_ends_of_the_ranges_come_early():
    configs = [config(n_layers=n, ffn_hidden=f) for n in range(1, 13) for f in range(64, 1025, 64)]
    corners = {(n, f) for n in (1, 12) for f in (64, 1024)}
    found = {(one.shape.n_layers, one.shape.ffn_hidden) for one in chosen(configs, 8)}
    assert corners <= found


def test_more_trials_begin_with_the_same():
    configs = [config(n_layers=n, ffn_hidden=f) for n in range(1, 9) for f in (32, 64, 96)]
    assert chosen(configs, 20)[:5] == chosen(configs, 5)


def test_configs_that_differ_on_no_axis_are_still_proposed_once_each():
    configs = [config(n_layers=n, ffn_hidden=f) for n in (1, 2) for f in (32, 64, 96)]
    for axes in (("n_layers",), ()):
        found = chosen(configs, 6, axes=axes)
        assert sorted(one.config_id for one in found) == sorted(one.config_id for one in configs)
    first_two = chosen(configs, 2, axes=("n_layers",))
    assert {one.shape.n_layers for one in first_two} == {1, 2}


def test_features_are_logarithms_of_numbers_and_words_stand_apart():
    configs = [config(n_layers=1, lr=1e-4), config(n_layers=4, lr=1e-2), config(n_layers=2, precision="bf16")]
    found = features(configs, ("n_layers", "optimizer.lr", "precision", "d_model"))
    half = math.sqrt(0.5)
    wanted = [[0, 0, 0, half], [1, 1, 0, half], [0.5, 0.5, half, 0]]
    assert found == pytest.approx(np.array(wanted), abs=1e-8)
    assert math.dist(found[0], found[2]) == pytest.approx(math.sqrt(0.25 + 0.25 + 1))


def test_what_follows_from_an_axis_counts_for_nothing():
    configs = [config(d_model=64 * n, ffn_hidden=128 * n, base=None) for n in (1, 2, 4)]
    assert features(configs, ("d_model",)).shape == (3, 1)


def test_every_axis_of_a_study_is_a_place_of_its_configs():
    plain, scaled = config(), config(base=Base(n_layers=2, d_model=64, ffn_hidden=128))
    values = {axis: value_on(axis, plain) for axis in AXES}
    assert {name: values[name] for name in ("n_heads", "seq_len", "tokens", "flops", "grad_accum_steps", "data")} == {
        "n_heads": 1, "seq_len": 32, "tokens": 1280, "flops": 10, "grad_accum_steps": 128, "data": "x",
    }  # fmt: skip
    assert values["optimizer.lr"] == 1e-3
    assert (value_on("optimizer.parametrization", plain), value_on("optimizer.parametrization", scaled)) == (
        "standard",
        "completep",
    )
    assert value_on("kv_groups", config(n_heads=4, n_kv_heads=2)) == 2
    assert value_on("ffn_ratio", plain) == 2.0
