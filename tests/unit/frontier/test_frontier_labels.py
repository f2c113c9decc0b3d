"""Labels say what differs and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from frontier_fakes import config

from sweeper.values.labels import labels, listed, short
from sweeper.values.records import Base, Optimizer


def rows(*configs, batch_sizes=(None,)):
    return [{**c.to_dict(), "batch_size": b} for c in configs for b in batch_sizes]


def test_shape_fields_that_vary():
    assert labels(rows(config(1, 1360), config(6, 352))) == ["L1 f1360", "L6 f352"]


def test_a_field_that_follows_from_the_width_is_left_out():
    wide = config(8, 16)
    wide = replace(wide, shape=replace(wide.shape, d_model=512, n_heads=16, n_kv_heads=4))
    assert labels(rows(config(1, 16), wide)) == ["d96 L1", "d512 L8"]


def test_heads_are_shown_where_nothing_else_differs():
    other = config(1, 16)
    other = replace(other, shape=replace(other.shape, n_kv_heads=3))
    assert labels(rows(config(1, 16), other)) == ["kv1", "kv3"]


def test_recipe_fields_and_micro_batches():
    assert labels(rows(config(1, 16), config(1, 16, lr=3e-3))) == ["lr 0.002", "lr 0.003"]
    assert labels(rows(config(1, 16), batch_sizes=(4, 16))) == ["b4", "b16"]
    assert labels(rows(config(1, 16), config(1, 16, precision="bf16"))) == ["fp32", "bf16"]
    assert labels(rows(config(1, 16), config(1, 16, steps=100))) == ["tokens 500k", "tokens 102k"]


def test_a_single_point_is_named_by_its_shape():
    assert labels(rows(config(6, 352))) == ["d96 L6 f352"]
    assert labels([]) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1.23M"), (38200, "38.2k"), (999.6, "1.00k"), (0, "0"), (7, "7"), (0.01234, "0.0123"),
     (2.5e9, "2.50G"), (180e6, "180M"), (-4200, "-4.20k")],
)  # fmt: skip
def test_short_numbers(value, text):
    assert short(value) == text


def test_lists_read_as_prose():
    assert [listed(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["none", "a", "a and b", "a, b and c"]
    assert listed(list("abcdefgh"), most=4) == "a, b, c and 5 others"


def with_optimizer(*optimizers, **recipe):
    base = config(1, 16)
    return [
        replace(base, recipe=replace(base.recipe, **recipe, optimizer=Optimizer(**one))).to_dict() for one in optimizers
    ]


def test_what_only_some_points_have_is_left_out_of_the_others_labels():
    muon = {"name": "muon", "momentum": 0.95}
    assert labels(with_optimizer({}, muon)) == ["adamw", "muon"]
    assert labels(with_optimizer({}, muon, {**muon, "momentum": 0.9})) == [
        "adamw", "muon momentum 0.95", "muon momentum 0.9",
    ]  # fmt: skip
    base = Base(n_layers=1, d_model=96, ffn_hidden=16)
    assert labels(with_optimizer({}, {"base": base})) == ["standard", "completep"]


def test_a_length_in_minutes_and_a_precision_are_read_as_written():
    rows = [config(1, 16, steps=None, minutes=m).to_dict() for m in (2.5, 10.0)]
    assert labels(rows) == ["2.5 min", "10 min"]
    by_precision = [
        config(1, 16, precision=p, fp8_backend=b).to_dict()
        for p, b in (("bf16", None), ("fp8", "torchao"), ("auto", "torchao"))
    ]
    assert labels(by_precision) == ["bf16", "fp8", "auto"]


def test_rates_that_follow_from_tokens_per_step_are_not_shown_beside_them():
    scaled = [config(1, 16, lr=1e-3 * k**0.5, tokens_per_step=1024 * k, steps=400 // k).to_dict() for k in (1, 4)]
    assert labels(scaled) == ["tokens_per_step 1.02k", "tokens_per_step 4.10k"]
    crossed = [
        config(1, 16, lr=lr * k**0.5, tokens_per_step=1024 * k, steps=400 // k).to_dict()
        for k in (1, 4) for lr in (1e-3, 3e-3)
    ]  # fmt: skip
    assert len(set(labels(crossed))) == 4
    assert all("lr" in label for label in labels(crossed))
