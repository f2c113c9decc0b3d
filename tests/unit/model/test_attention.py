"""Causal attention against its definition in fp64, on both sides of where a CPU takes it in chunks."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch._subclasses.fake_tensor import FakeTensorMode

from sweeper.model import attention
from sweeper.model.attention import (
    CHUNKS,
    FEWEST_POSITIONS,
    KEYS_AT_A_TIME,
    attention_in_chunks,
    causal_attention,
    fusible_on_cuda,
    in_one_call,
)
from sweeper.model.compile import forget_compiled

CHUNKED = (FEWEST_POSITIONS, 300, KEYS_AT_A_TIME)
WHOLE = (1, 7, FEWEST_POSITIONS - CHUNKS, FEWEST_POSITIONS + 1, KEYS_AT_A_TIME + CHUNKS)


def inputs(T, *, heads=4, kv_heads=2, C=16, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(2, n, T, C, generator=draw, requires_grad=True) for n in (heads, kv_heads, kv_heads)]


def definition(q, k, v):
    """softmax(q k' / √C) v over the positions up to one's own, each KV head for as many query heads in a row."""
    q, k, v = q.double(), *(one.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1) for one in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(later, -math.inf), dim=-1) @ v


@pytest.mark.parametrize("T", CHUNKED + WHOLE)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 1), (2, 2)])
def test_values_and_gradients_are_those_of_the_definition(T, heads, kv_heads):
    qkv = inputs(T, heads=heads, kv_heads=kv_heads)
    outer = torch.randn(2, heads, T, 16, generator=torch.Generator().manual_seed(1))
    exact = definition(*qkv)
    wanted = torch.autograd.grad(exact, qkv, outer.double())
    found = causal_attention(*qkv)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    for own, other in zip(torch.autograd.grad(found, qkv, outer), wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


@pytest.mark.compiler
def test_compiled_it_is_the_same():
    forget_compiled()
    qkv = inputs(FEWEST_POSITIONS)
    outer = torch.randn(2, 4, FEWEST_POSITIONS, 16, generator=torch.Generator().manual_seed(1))
    compiled = torch.compile(causal_attention, fullgraph=True, dynamic=False)(*qkv)
    eager = causal_attention(*qkv)
    torch.testing.assert_close(compiled, eager)
    gradients = [torch.autograd.grad(found, qkv, outer) for found in (compiled, eager)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("T", CHUNKED + WHOLE)
def test_in_bf16_errors_are_those_of_rounding(T):
    qkv = [one.detach().bfloat16() for one in inputs(T)]
    torch.testing.assert_close(causal_attention(*qkv).double(), definition(*qkv), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("T", CHUNKED + WHOLE)
def test_a_later_key_or_value_changes_nothing_before_it(T):
    q, k, v = inputs(T)
    at = T // 2
    k_after, v_after = k.clone(), v.clone()
    k_after[:, :, at] += 1
    v_after[:, :, at] -= 1
    before, after = causal_attention(q, k, v), causal_attention(q, k_after, v_after)
    torch.testing.assert_close(before[:, :, :at], after[:, :, :at])
    assert (before[:, :, at:] - after[:, :, at:]).abs().amax(dim=(0, 1, 3)).min() > 1e-4


@pytest.mark.parametrize("T", CHUNKED + WHOLE)
def test_no_chunk_reads_keys_beyond_its_end(T, monkeypatch):
    scores = []

    def watched(kernel, query, key):
        def call(*arguments, **settings):
            scores.append(arguments[query].shape[2] * arguments[key].shape[2])
            return kernel(*arguments, **settings)

        return call

    monkeypatch.setattr(attention, "_FORWARD", watched(attention._FORWARD, 0, 1))
    monkeypatch.setattr(attention, "_BACKWARD", watched(attention._BACKWARD, 1, 2))
    causal_attention(*inputs(T)).sum().backward()
    assert sum(scores) == (2 * T**2 * (CHUNKS + 1) / (2 * CHUNKS) if T in CHUNKED else 0)
    assert len(scores) == (2 * CHUNKS if T in CHUNKED else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_is_what_it_says_to_the_compiler(dtype):
    qkv = [one.detach().to(dtype).requires_grad_() for one in inputs(FEWEST_POSITIONS)]
    torch.library.opcheck(attention_in_chunks, (*qkv, CHUNKS))


def seen_on_cuda(dtype, *, heads, kv_heads, monkeypatch):
    """What scaled_dot_product_attention is given where q, k and v are a CUDA device's; nothing is computed."""
    calls = []
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v, **settings: calls.append((q, k, v, settings)) or q
    )
    with FakeTensorMode():
        q, k, v = (torch.empty(2, n, 512, 16, device="cuda", dtype=dtype) for n in (heads, kv_heads, kv_heads))
        causal_attention(q, k, v)
    ((q, k, v, settings),) = calls
    return q.shape[1], k.shape[1], v.shape[1], settings["enable_gqa"], settings["is_causal"]


def test_on_cuda_fp32_has_no_grouped_queries(monkeypatch):
    """No fused kernel takes them there: flash and cuDNN need half types, the memory-efficient one as many heads."""
    for kv_heads in (1, 2, 4):
        found = seen_on_cuda(torch.float32, heads=4, kv_heads=kv_heads, monkeypatch=monkeypatch)
        assert found == (4, 4, 4, False, True)
    found = seen_on_cuda(torch.bfloat16, heads=4, kv_heads=2, monkeypatch=monkeypatch)
    assert found == (4, 2, 2, True, True)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 1), (2, 2)])
def test_what_cuda_does_in_fp32_is_grouped_attention(heads, kv_heads):
    q, k, v = inputs(24, heads=heads, kv_heads=kv_heads)
    outer = torch.randn(2, heads, 24, 16, generator=torch.Generator().manual_seed(1))
    exact = definition(q, k, v)
    found = in_one_call(q, *fusible_on_cuda(q, k, v))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(exact, (q, k, v), outer.double())
    for own, other in zip(torch.autograd.grad(found, (q, k, v), outer), wanted, strict=True):
        assert own.shape == other.shape
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
