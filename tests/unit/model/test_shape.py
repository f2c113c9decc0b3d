"""Counts against published models and against a straightforward sum; rules name the nearest shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.model.shape import Shape, ShapeError, derive

SMOL = {"d_model": 576, "n_layers": 30, "n_heads": 9, "n_kv_heads": 3, "ffn_hidden": 1536, "vocab_size": 49152}
LARGER = {"d_model": 960, "n_layers": 32, "n_heads": 15, "n_kv_heads": 5, "ffn_hidden": 2560, "vocab_size": 49152}
PUBLISHED = {
    "SmolLM2-135M": (SMOL, 134_515_008),
    "SmolLM2-360M": (LARGER, 361_821_120),
    "MobileLLM-125M": ({**SMOL, "vocab_size": 32000}, 124_635_456),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    fields, total = PUBLISHED[name]
    assert derive({**fields, "tie_embeddings": True}).params.total == total


def fields(**changed):
    base = {"n_layers": 4, "d_model": 768, "vocab_size": 32768, "tie_embeddings": False}
    return {**base, **changed}


@given(
    n_layers=st.integers(1, 50),
    n_heads=st.integers(1, 40),
    head_dim=st.integers(1, 64).map(lambda half: 2 * half),
    ffn_hidden=st.integers(1, 9000),
    vocab_size=st.integers(2, 200_000),
    tied=st.booleans(),
    data=st.data(),
)
def test_count_equals_the_sum_over_matrices(n_layers, n_heads, head_dim, ffn_hidden, vocab_size, tied, data):
    kv = data.draw(st.sampled_from([k for k in range(1, n_heads + 1) if n_heads % k == 0]))
    d = n_heads * head_dim
    shape = derive(
        fields(
            n_layers=n_layers, d_model=d, n_heads=n_heads, n_kv_heads=kv, ffn_hidden=ffn_hidden,
            vocab_size=vocab_size, tie_embeddings=tied,
        )
    )  # fmt: skip
    matrices = [d * d, d * kv * head_dim, d * kv * head_dim, d * d, d * ffn_hidden, d * ffn_hidden, ffn_hidden * d]
    layer = sum(matrices) + d + d
    params = shape.params
    assert params.trunk == n_layers * layer + d
    assert params.embedding == vocab_size * d
    assert params.head == (0 if tied else vocab_size * d)
    assert params.total == params.trunk + params.embedding + params.head
    matmul = n_layers * sum(matrices) + vocab_size * d
    assert shape.train_flops_per_token(128) == 6 * matmul + 12 * n_layers * d * 128


def test_derived_fields_are_the_guides():
    shape = derive(fields())
    assert (shape.n_heads, shape.head_dim, shape.n_kv_heads, shape.ffn_hidden) == (12, 64, 4, 2048)
    assert derive(fields(d_model=1024)).ffn_hidden == 2730
    assert derive(fields(d_model=1280)).ffn_hidden == 3413


@pytest.mark.parametrize(
    ("n_heads", "expected"),
    [(1, 1), (2, 1), (3, 1), (4, 1), (6, 2), (8, 2), (9, 3), (10, 5), (12, 4), (14, 7), (15, 5), (16, 4)],
)
def test_derived_kv_heads_are_the_divisor_nearest_a_third_by_ratio(n_heads, expected):
    divisors = [k for k in range(1, n_heads + 1) if n_heads % k == 0]
    assert derive(fields(d_model=64 * n_heads, n_heads=n_heads)).n_kv_heads == expected
    best = min(max(k / (n_heads / 3), n_heads / 3 / k) for k in divisors)
    assert max(expected / (n_heads / 3), n_heads / 3 / expected) == pytest.approx(best)


@pytest.mark.parametrize(
    ("changed", "rule", "names"),
    [
        (dict(d_model=640, n_heads=12), "d_model % n_heads", ["10 heads", "d_model 648"]),
        (dict(d_model=640, n_heads=10, n_kv_heads=4), "n_heads % n_kv_heads", ["5 KV heads", "8 or 12 heads"]),
        (dict(d_model=896, n_heads=14, n_kv_heads=4), "n_heads % n_kv_heads", ["2 KV heads", "12 or 16 heads"]),
        (dict(d_model=700), "d_model % head_dim", ["640 or 704"]),
        (dict(d_model=768, n_heads=12, kv_groups=5), "n_heads % kv_groups", ["kv_groups 4"]),
        (dict(d_model=99, head_dim=33), "head_dim % 2", ["32 and 34"]),
        (dict(d_model=36, n_heads=12), "d_model % n_heads", ["9 heads of 4", "d_model 48"]),
    ],
)
def test_a_broken_rule_names_the_nearest_shape_that_keeps_it(changed, rule, names):
    with pytest.raises(ShapeError) as caught:
        derive(fields(**changed))
    assert caught.value.rule == rule
    for name in names:
        assert name in str(caught.value)


@given(d_model=st.integers(1, 2000), n_heads=st.integers(1, 40))
def test_the_named_head_count_does_keep_the_rule(d_model, n_heads):
    try:
        derive(fields(d_model=d_model, n_heads=n_heads))
    except ShapeError as error:
        text = str(error)
        if "nearest are" in text:
            named = int(text.split("nearest are ")[1].split(" heads")[0])
            derive(fields(d_model=d_model, n_heads=named))
        width = int(text.split("d_model ")[-1])
        derive(fields(d_model=width, n_heads=n_heads))


def test_fp8_warning_names_the_neighbours():
    warnings = derive(fields(d_model=1024, ffn_hidden=2730)).fp8_warnings()
    assert len(warnings) == 1
    assert all(text in warnings[0] for text in ("2730", "2720", "2736", "gate and up, down stay in bf16"))
    assert derive(fields()).fp8_warnings() == []
    half = derive(fields(ffn_hidden=2056)).fp8_warnings()
    assert len(half) == 1
    assert "down stay in bf16" in half[0]
    assert "gate" not in half[0]


def test_shape_is_frozen():
    with pytest.raises(AttributeError):
        derive(fields()).d_model = 1  # type: ignore[misc]
    assert isinstance(derive(fields()), Shape)
