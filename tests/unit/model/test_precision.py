"""FP8: what is converted is counted, what isn't is named, and its numerics are those of rounded operands."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from sweeper.model import precision
from sweeper.model.shape import derive
from sweeper.model.transformer import Transformer, build_model

CPU = torch.device("cpu")
SMALL = {"n_layers": 2, "d_model": 64, "head_dim": 16, "n_kv_heads": 2, "ffn_hidden": 160, "vocab_size": 64,
         "tie_embeddings": True}  # fmt: skip


def model_of(*, seq_len=16, **changed):
    return build_model(derive({**SMALL, **changed}), seq_len=seq_len, seed=0, device=CPU)


def applied(model, layer_filter="none"):
    return precision.apply(model, name="fp8", device=CPU, layer_filter=layer_filter)


def test_without_a_filter_every_aligned_matmul_of_the_blocks_is_converted():
    report = applied(model_of())
    assert (report.converted, report.total, report.kept_out) == (8, 8, ())
    assert (report.emulated, report.backend, report.layer_filter, report.eager) == (True, "torchao", "none", None)


def test_what_is_not_aligned_stays_and_is_named_once_for_all_blocks():
    model = model_of(ffn_hidden=170)
    report = applied(model)
    assert (report.converted, report.total) == (4, 8)
    assert report.kept_out == (
        "blocks 0–1: ffn.gate_up: N 340 no multiple of 16",
        "blocks 0–1: ffn.down: K 170 no multiple of 16",
    )
    assert type(model.blocks[1].ffn.down) is nn.Linear
    assert type(model.blocks[1].attention.out) is not nn.Linear
    assert "gate and up, down stay in bf16" in model.shape.fp8_warnings()[0]


def test_one_block_is_called_by_its_own_name():
    report = applied(model_of(n_layers=1, ffn_hidden=170))
    assert report.kept_out[0].startswith("block 0: ffn.gate_up: ")


def test_a_sequence_length_that_is_not_aligned_keeps_everything_out():
    """The weight's gradient sums over tokens, and a trial's numerics must not depend on its micro-batch."""
    report = applied(model_of(seq_len=100))
    assert (report.converted, report.total) == (0, 8)
    assert report.kept_out == (
        "blocks 0–1: attention.qkv, attention.out, ffn.gate_up, ffn.down: sequence length 100 no multiple of 16",
    )


def test_the_automatic_filter_is_torchaos_own():
    """Every combination of sizes around both thresholds, against the filter inside the installed torchao."""
    from torchao.float8.float8_linear_utils import _auto_filter_for_recipe

    theirs = _auto_filter_for_recipe("tensorwise", filter_fqns=[])
    sizes = (16, 1000, 1008, 1024, 1040, 2048, 4080, 4096, 4112, 8192)
    verdicts = set()
    for k, n in itertools.product(sizes, sizes):
        linear = nn.Linear(k, n, bias=False, device="meta")
        converts = precision._reason(linear, 1024, "auto") is None
        assert converts == theirs(linear, ""), (k, n)
        verdicts.add(converts)
    assert verdicts == {True, False}


def test_the_guides_shape_converts_half_its_matmuls_and_says_why_not_the_rest():
    fields = {"n_layers": 32, "d_model": 768, "n_heads": 12, "n_kv_heads": 4, "vocab_size": 64, "tie_embeddings": True}
    with torch.device("meta"):
        model = Transformer(derive(fields), seq_len=1024)
    report = applied(model, "auto")
    assert (report.converted, report.total) == (64, 128)
    assert report.kept_out == (
        "blocks 0–31: attention.out: K 768 ≤ 4096 and N 768 ≤ 1024 (FP8 slower than bf16 there)",
        "blocks 0–31: ffn.down: K 2048 ≤ 4096 and N 768 ≤ 1024 (FP8 slower than bf16 there)",
    )


def test_other_precisions_convert_nothing():
    for name in ("fp32", "bf16"):
        report = precision.apply(model_of(), name=name, device=CPU)
        assert report == precision.PrecisionReport(name=name, converted=0, total=8)


def rounded(tensor, dtype):
    """The nearest values that `dtype` has at the scale max ÷ max|tensor|, in fp64."""
    scale = torch.finfo(dtype).max / tensor.abs().max()
    return (tensor * scale).to(dtype).double() / scale.double()


def test_all_three_products_are_those_of_operands_rounded_by_hand():
    generator = torch.Generator().manual_seed(1)
    model = model_of()
    applied(model)
    down = model.blocks[0].ffn.down
    x = torch.randn(48, 160, generator=generator, requires_grad=True)
    g = torch.randn(48, 64, generator=generator)
    y = down(x)
    y.backward(g)
    rx, rw = rounded(x.detach(), torch.float8_e4m3fn), rounded(down.weight.detach(), torch.float8_e4m3fn)
    rg = rounded(g, torch.float8_e5m2)
    for ours, by_hand in ((y, rx @ rw.T), (x.grad, rg @ rw), (down.weight.grad, rg.T @ rx)):
        torch.testing.assert_close(ours.double(), by_hand, rtol=1e-4, atol=1e-5 * by_hand.abs().max().item())


def trained_once(name):
    """A model's loss after a forward and a backward pass at a precision, without a filter; the model has gradients."""
    tokens = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(0))
    model = model_of()
    precision.apply(model, name=name, device=CPU, layer_filter="none")
    with precision.autocast(name=name, device=CPU):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    return loss.item(), model


def test_fp8_differs_from_bf16_by_rounding_only():
    losses, gradients = {}, {}
    for name in ("fp32", "bf16", "fp8"):
        losses[name], model = trained_once(name)
        gradients[name] = model.blocks[0].ffn.down.weight.grad.flatten()
        assert model.blocks[0].ffn.down.weight.dtype == torch.float32
    assert losses["fp8"] == pytest.approx(losses["fp32"], rel=0.01)
    assert losses["fp8"] != losses["bf16"]
    agreement = torch.nn.functional.cosine_similarity(gradients["fp8"], gradients["fp32"], dim=0)
    assert 0.98 < agreement < 0.99999


@pytest.fixture
def _cudas_autocast(monkeypatch):
    """torchao asks for CUDA's autocast alone; without a device torch wouldn't switch it on."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        yield


@pytest.mark.usefixtures("_cudas_autocast")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.compiler
def test_the_products_of_bf16_operands_and_fp32_weights_are_those_rounded_by_hand(compile):
    """As on CUDA: x comes in bf16, the weight stays fp32, each keeps a scale of its own; products are bf16.

    Compiled, x is rounded to FP8 from fp32, and what ends in fp32 is exact: the compiler leaves out bf16 between.
    """
    generator = torch.Generator().manual_seed(1)
    model = model_of()
    applied(model)
    down = model.blocks[0].ffn.down
    if compile:
        down.compile(fullgraph=True, dynamic=False)
    x = torch.randn(48, 160, generator=generator, requires_grad=True)
    g = torch.randn(48, 64, generator=generator).bfloat16()
    y = down(x)
    y.backward(g)
    rx = rounded(x.detach().bfloat16().float(), torch.float8_e4m3fn)
    rw, rg = rounded(down.weight.detach(), torch.float8_e4m3fn), rounded(g.float(), torch.float8_e5m2)
    assert (y.dtype, x.grad.dtype, down.weight.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    for ours, by_hand in ((y, rx @ rw.T), (x.grad, rg @ rw), (down.weight.grad, rg.T @ rx)):
        error = torch.linalg.norm(ours.double() - by_hand) / torch.linalg.norm(by_hand)
        assert error < (0.03 if compile else 2**-8)
        assert compile or torch.equal(ours, ours.bfloat16().to(ours.dtype))


@pytest.mark.usefixtures("_cudas_autocast")
def test_under_cudas_autocast_fp8_differs_from_bf16_by_rounding_only():
    losses, gradients = {}, {}
    for name in ("bf16", "fp8"):
        losses[name], model = trained_once(name)
        gradients[name] = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        assert gradients[name].dtype == torch.float32
    assert losses["fp8"] == pytest.approx(losses["bf16"], rel=0.01)
    assert losses["fp8"] != losses["bf16"]
    assert 0.98 < torch.nn.functional.cosine_similarity(gradients["fp8"], gradients["bf16"], dim=0) < 0.99999


def test_a_scale_spans_the_micro_batch():
    """So under FP8 alone a sequence's result depends a little on those beside it."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 16, 160, generator=generator) * torch.tensor([1.0, 300.0])[:, None, None]
    found = {}
    for name in ("fp32", "fp8"):
        model = model_of()
        precision.apply(model, name=name, device=CPU, layer_filter="none")
        down = model.blocks[0].ffn.down
        with torch.no_grad():
            found[name] = (down(x)[:1] - down(x[:1])).abs().max() / down(x[:1]).abs().max()
    assert found["fp32"] < 1e-5
    assert 1e-3 < found["fp8"] < 0.1


def test_conversion_keeps_the_parameters_under_their_names():
    model = model_of()
    before = dict(model.named_parameters())
    applied(model)
    after = dict(model.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)


def test_a_missing_torchao_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(RuntimeError, match="needs torchao, which isn't installed: pip install torchao"):
        applied(model_of())
    assert precision.apply(model_of(), name="bf16", device=CPU).converted == 0


CONVERT_AND_COMPILE = """
import torch
from sweeper.model import precision
from sweeper.model.shape import derive
from sweeper.model.transformer import build_model
shape = derive({"n_layers": 1, "d_model": 16, "head_dim": 16, "n_kv_heads": 1, "ffn_hidden": 16, "vocab_size": 16,
                "tie_embeddings": True})
model = build_model(shape, seq_len=16, seed=0, device=torch.device("cpu"))
assert precision.apply(model, name="fp8", device=torch.device("cpu"), layer_filter="none").converted == 4
down = model.blocks[0].ffn.down
down.compile(fullgraph=True, dynamic=False)
with torch.no_grad():
    down(torch.ones(16, 16))
"""


@pytest.mark.compiler
def test_converting_and_compiling_say_nothing_to_the_user(tmp_path):
    """In a fresh process, with Inductor's worker processes at work and nothing in its cache."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", CONVERT_AND_COMPILE], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert any(tmp_path.rglob("*.so"))
