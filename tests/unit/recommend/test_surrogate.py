"""Configs that weren't run: predicted where the surrogate proves itself, refused beyond what was measured."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial import Delaunay
from sklearn.base import clone

from sweeper.planning import plan as planning
from sweeper.planning.candidates import of_plan, rows_of
from sweeper.planning.plan import make_plan
from sweeper.recommend.space import within
from sweeper.recommend.surrogate import surrogate
from sweeper.stats.additive_fit import Observation, fit
from sweeper.stats.gaussian_process import LEAST_KNOWN, fitted, left_out
from sweeper.study.loader import load

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import calibration_surrogate

TRIAL = "trial: {data: python-stdlib, tokens: 1B, seq_len: 1024, batch_size: 8, precision: bf16}\n"
GRID = "axes: {n_layers: [4, 6, 8, 12, 16, 24], d_model: {from: 256, to: 1024, step: 128}, ffn_ratio: [2, 3, 4]}\n"
MODEL = "model: {vocab_size: 4096, head_dim: 64, n_kv_heads: 1, tie_embeddings: true}\n"


def planned(tmp_path, text):
    (tmp_path / "study.yaml").write_text(f"name: s\n{text}")
    loaded = load(tmp_path / "study.yaml")
    return loaded.study, make_plan(loaded, cpus=2)


def points(configs, *, batch_size=8):
    return [
        SimpleNamespace(
            config_id=c.config_id, probe_id=c.config_id, config=c,
            batch_size=batch_size, treatment=lambda metric, c=c: c.config_id,
        )
        for c in configs
    ]  # fmt: skip


def observed(configs, value, *, noise=0.01, seeds=2, rng=0):
    draw = np.random.default_rng(rng)
    return fit(
        [
            Observation(treatment=c.config_id, block=f"{seed}", value=value(c) + seed + draw.normal(0, noise))
            for c in configs
            for seed in range(seeds)
        ]
    )


def smooth(config):
    shape = config.shape
    return 3 - 0.2 * np.log(shape.params.total / 1e6) + 0.1 * np.log(shape.ffn_hidden / shape.d_model / 3) ** 2


def test_a_smooth_surface_is_predicted_between_what_was_measured(tmp_path):
    study, plan = planned(tmp_path, MODEL + GRID + TRIAL)
    configs = [one.config for one in plan.configs]
    measured = [configs[i] for i in np.random.default_rng(1).choice(len(configs), 20, replace=False)]
    found = surrogate(study, points(measured), "val_loss", observed(measured, smooth))
    assert found.believed
    assert found.dimensions == ("depth", "width", "FFN ratio")
    rows = of_plan(plan)[0].without([(c, 8) for c in measured])
    assert len(rows) == len(configs) - 20
    among = found.space.among_measured(rows)
    assert 10 < among.sum() < len(rows)
    truth = np.array([smooth(rows.config(row)) + 0.5 for row in range(len(rows))])  # the mean of two seeds' shifts
    means, deviations = found.predict(rows)
    assert np.abs(means - truth)[among].mean() < 0.02
    assert (np.abs(means - truth) < 2.2 * deviations)[among].mean() > 0.8


def test_noise_is_not_predicted_and_it_is_said_why(tmp_path):
    study, plan = planned(tmp_path, MODEL + GRID + TRIAL)
    measured = [one.config for one in plan.configs][::6]
    found = surrogate(study, points(measured), "val_loss", observed(measured, lambda c: 2.0, noise=0.05))
    assert not found.believed
    assert "left out" in found.doubt
    tuned = surrogate(study.model_copy(update={"nuisance": ("optimizer.lr",)}), points(measured), "val_loss",
                      observed(measured, smooth))  # fmt: skip
    assert "nuisance" in tuned.doubt
    few = surrogate(study, points(measured[:4]), "val_loss", observed(measured[:4], smooth))
    assert f"4 configs are measured, {LEAST_KNOWN} are needed" in few.doubt


def test_the_ffn_of_a_fixed_count_is_no_dimension(tmp_path):
    axes = "axes: {n_layers: [4, 6, 8, 12, 16, 24, 32], ffn_hidden: {solve: params, multiple_of: 16}}\n"
    model = MODEL.replace("vocab_size", "d_model: 512, vocab_size")
    study, plan = planned(tmp_path, model + axes + "budget: {params: {target: 60M, tolerance: 2%}}\n" + TRIAL)
    configs = [one.config for one in plan.configs]
    assert len(configs) == 7
    measured = [*configs[:3], *configs[4:6]]
    found = surrogate(study, points(measured), "val_loss", observed(measured, smooth))
    assert found.dimensions == ("depth",)
    rows = rows_of([(c, 8) for c in configs])
    assert found.space.among_measured(rows).tolist() == [True] * 6 + [False]


def test_words_are_told_apart_and_only_measured_ones_are_known(tmp_path):
    axes = "axes: {d_model: [256, 384, 512, 640], optimizer.lr: [1e-3, 2e-3], optimizer.name: [adamw, muon]}\n"
    study, plan = planned(tmp_path, MODEL.replace("vocab_size", "n_layers: 4, vocab_size") + axes + TRIAL)
    configs = [one.config for one in plan.configs]
    adamw = [c for c in configs if c.recipe.optimizer.name == "adamw"]
    found = surrogate(study, points(adamw), "val_loss", observed(adamw, smooth))
    assert found.dimensions == ("width", "lr")
    both = surrogate(study, points(configs), "val_loss", observed(configs, smooth))
    assert both.dimensions == ("width", "lr", "name")
    some = [c for c in configs if c.recipe.optimizer.name == "adamw" or c.shape.d_model in (384, 512)]
    less = surrogate(study, points(some), "val_loss", observed(some, smooth))
    inside = less.space.among_measured(rows_of([(c, 8) for c in configs]))
    assert {configs[i].config_id for i in np.flatnonzero(inside)} == {c.config_id for c in some}
    speed = surrogate(study, points(configs), "tokens_per_s", observed(configs, smooth))
    assert "lr" not in speed.dimensions


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_hull_is_delaunays(size):
    draw = np.random.default_rng(size)
    known, asked = draw.uniform(size=(12, size)), draw.uniform(size=(500, size))
    expected = Delaunay(known).find_simplex(asked) >= 0
    assert 0 < expected.sum() < 500
    assert (within(known, asked) == expected).all()
    assert within(known, known).all()


def test_without_a_hull_the_box_and_the_nearest_decide():
    draw = np.random.default_rng(0)
    known, asked = draw.uniform(size=(9, 6)), draw.uniform(-0.2, 1.2, size=(400, 6))
    gaps = np.linalg.norm(known[:, None] - known[None], axis=2) + 9 * np.eye(9)
    near = np.linalg.norm(asked[:, None] - known[None], axis=2).min(axis=1) <= gaps.min(axis=1).max()
    box = ((asked >= known.min(axis=0)) & (asked <= known.max(axis=0))).all(axis=1)
    assert (within(known, asked) == (near & box)).all()
    line = np.stack([np.linspace(0, 1, 5)] * 2, axis=1)
    assert within(line, np.array([[0.5, 0.5], [0.9, 0.1]])).tolist() == [True, False]


def test_leaving_out_is_fitting_without():
    draw = np.random.default_rng(3)
    x = draw.uniform(size=(9, 2))
    y = np.sin(3 * x[:, 0]) + x[:, 1]
    y = (y - y.mean()) / y.std()
    noise = draw.uniform(0.001, 0.05, size=9)
    model = fitted(x, y, noise=noise)
    found = left_out(model, y)
    for n in range(9):
        rest = np.arange(9) != n
        again = clone(model).set_params(kernel=model.kernel_, optimizer=None, alpha=noise[rest]).fit(x[rest], y[rest])
        mean, deviation = again.predict(x[[n]], return_std=True)
        assert found.errors[n] == pytest.approx(y[n] - mean[0], abs=1e-6)
        assert found.deviations[n] == pytest.approx(np.sqrt(deviation[0] ** 2 + noise[n]), abs=1e-6)


def test_a_large_lattice_is_the_same_in_columns(tmp_path, monkeypatch):
    text = MODEL + GRID + TRIAL.replace("tokens: 1B", "tokens_per_param: 20")
    small, _ = of_plan(planned(tmp_path, text)[1])
    monkeypatch.setattr(planning, "MAX_LISTED", 10)
    large, unseen = of_plan(planned(tmp_path, text)[1])
    assert unseen == 0
    assert [large.config(n).config_id for n in range(len(large))] == [
        small.config(n).config_id for n in range(len(small))
    ]
    assert (large.memory_bytes == small.memory_bytes).all()
    monkeypatch.setattr("sweeper.planning.candidates.MOST_ROWS", 50)
    some, unseen = of_plan(planned(tmp_path, text)[1])
    assert len(some) <= 50
    assert len(some) + unseen == len(small)


def test_the_intervals_hold_what_they_should():
    """The small form of benchmarks/calibration_surrogate.py, whose recorded run has 120 studies."""
    found = calibration_surrogate.calibrated(6)
    for outcome in found.values():
        assert outcome["believed"] >= 0.8
        assert 0.75 <= outcome["covered"] <= 1.0
        assert outcome["width_of_spread"] < 0.2
