"""Predicted memory against what torch.compile keeps, counted on its graphs of CUDA's path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sweeper.model.compile import forget_compiled
from sweeper.model.loss import make_loss
from sweeper.model.shape import derive
from sweeper.model.transformer import Head
from sweeper.planning.estimates import head_bytes, memory_bytes

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))  # as a script sees its folder

import activation_memory
from activation_memory import SEQ_LEN, SEQUENCES, SHAPES, bytes_per_token, kept_by_head, kept_by_layer

CLOSE = 0.05


def of_a_layer(fields, precision, **fp8):
    """Predicted bytes per token of one layer: what another layer adds, beside its weights, from one batch to two."""

    def needed(layers, sequences):
        shape = derive({**fields, "n_layers": layers})
        return memory_bytes(shape, precision=precision, batch_size=sequences, seq_len=SEQ_LEN, **fp8)

    return (needed(3, 2) - needed(3, 1) - needed(2, 2) + needed(2, 1)) / SEQ_LEN


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_layer_keeps_what_is_predicted(name, precision):
    counted = bytes_per_token(kept_by_layer(derive(SHAPES[name]), precision))
    assert of_a_layer(SHAPES[name], precision) == pytest.approx(counted, rel=CLOSE)


@pytest.mark.parametrize("layer_filter", ["auto", "none"])
@pytest.mark.parametrize("name", ["current", "wide-shallow"])
def test_a_layer_keeps_what_is_predicted_under_fp8(name, layer_filter):
    """The filter keeps half of the first one's matmuls in bf16; of the second's, whose FFN isn't aligned, most."""
    counted = bytes_per_token(kept_by_layer(derive(SHAPES[name]), "fp8", layer_filter=layer_filter))
    predicted = of_a_layer(SHAPES[name], "fp8", fp8_backend="torchao", fp8_filter=layer_filter)
    assert predicted == pytest.approx(counted, rel=CLOSE)


@pytest.mark.parametrize(
    ("precision", "operator"),
    [
        ("bf16", "aten._scaled_dot_product_flash_attention.default"),
        ("fp32", "aten._scaled_dot_product_efficient_attention.default"),
    ],
)
def test_attention_is_the_one_operator_that_cuda_runs(precision, operator):
    """Its output, its log-sum-exp and its random state are kept, and no tensor of T × T scores is."""
    shape = derive(SHAPES["current"])
    kept = kept_by_layer(shape, precision)
    by_attention = sorted(one.bytes for one in kept if one.made_by == operator)
    tokens, width = SEQUENCES * SEQ_LEN, 2 if precision == "bf16" else 4
    assert by_attention[-2:] == [tokens * 4 * shape.n_heads, tokens * width * shape.d_model]
    assert sum(by_attention[:-2]) <= 32
    assert max(one.bytes for one in kept) == tokens * width * 2 * shape.ffn_hidden


@pytest.mark.parametrize(("precision", "width"), [("bf16", 2), ("fp32", 4)])
@pytest.mark.parametrize("name", ["current", "256, one KV head"])
def test_the_head_keeps_what_is_predicted(name, precision, width):
    shape, tokens = derive(SHAPES[name]), SEQUENCES * SEQ_LEN
    weight_gradient = width * shape.vocab_size * shape.d_model  # comes with the backward pass
    predicted = head_bytes(shape, width=width, tokens=tokens) - weight_gradient
    assert predicted / tokens == pytest.approx(bytes_per_token(kept_by_head(shape, precision)), rel=CLOSE)


def most_allocated(work):
    """Peak bytes of what `work` allocates, by the profiler's record of each allocation and its end."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    changes = []
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    most = living = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        living += change
        most = max(most, living)
    return most


@pytest.mark.compiler
def test_the_gradient_of_the_logits_takes_their_place():
    """In fp32, where a processor's matmul needs no room of its own; the full loss, as CUDA takes it."""
    forget_compiled()
    shape = derive({"n_layers": 1, "d_model": 64, "head_dim": 32, "vocab_size": 4096, "tie_embeddings": False})
    loss = make_loss(activation_memory.LOSS_ON["cuda"], compiled=True)
    head = Head(shape, nn.Parameter(torch.empty(0)), cross_entropy=loss)
    head.weight = nn.Parameter(torch.randn(shape.vocab_size, shape.d_model) * 0.02)
    head.norm.compile(fullgraph=True, dynamic=False)
    x_BTD = torch.randn(2, 512, shape.d_model, requires_grad=True)
    targets_BT = torch.randint(shape.vocab_size, (2, 512))

    def step():
        head.loss(x_BTD, targets_BT).backward()
        x_BTD.grad = head.weight.grad = head.norm.weight.grad = None

    step()
    stream = x_BTD.numel() * x_BTD.element_size()  # there before
    assert most_allocated(step) + stream == pytest.approx(head_bytes(shape, width=4, tokens=1024), rel=CLOSE)
