"""FP8: what is converted is counted, what isn't is named, and its numerics are those of rounded operands."""

import pytest
import torch

from model import precision
from model.shape import derive
from model.transformer import build

CPU = torch.device("cpu")


def model_of(**changed):
    fields = {"n_layers": 2, "d_model": 64, "head_dim": 16, "n_kv_heads": 2, "ffn_hidden": 160, "vocab_size": 64,
              "tie_embeddings": True, **changed}  # fmt: skip
    return build(derive(fields), seq_len=16, seed=0, device=CPU)


def test_every_aligned_matmul_of_the_blocks_is_converted():
    report = precision.apply(model_of(), name="fp8", device=CPU)
    assert (report.converted, report.total, report.kept_out) == (8, 8, ())
    assert report.emulated


def test_what_is_not_aligned_stays_and_is_named():
    model = model_of(ffn_hidden=170)
    report = precision.apply(model, name="fp8", device=CPU)
    assert (report.converted, report.total) == (4, 8)
    assert len(report.kept_out) == 4
    assert any("ffn.down: 170 × 64" in line for line in report.kept_out)
    warned = model.shape.fp8_warnings()
    assert "gate and up, down stay in bf16" in warned[0]


def test_other_precisions_convert_nothing():
    for name in ("fp32", "bf16"):
        report = precision.apply(model_of(), name=name, device=CPU)
        assert (report.converted, report.total, report.emulated) == (0, 8, False)


def test_fp8_differs_from_bf16_by_rounding_only():
    tokens = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(0))
    losses = {}
    gradients = {}
    for name in ("fp32", "bf16", "fp8"):
        model = model_of()
        precision.apply(model, name=name, device=CPU)
        with precision.autocast(name=name, device=CPU):
            loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        losses[name] = loss.item()
        gradients[name] = model.blocks[0].ffn.down.weight.grad.flatten()
        assert model.blocks[0].ffn.down.weight.dtype == torch.float32
    assert losses["fp8"] == pytest.approx(losses["fp32"], rel=0.01)
    assert losses["fp8"] != losses["bf16"]
    agreement = torch.nn.functional.cosine_similarity(gradients["fp8"], gradients["fp32"], dim=0)
    assert 0.98 < agreement < 0.99999


def test_converting_says_nothing_to_the_user(capfd):
    precision.apply(model_of(), name="fp8", device=CPU)
    assert capfd.readouterr() == ("", "")
