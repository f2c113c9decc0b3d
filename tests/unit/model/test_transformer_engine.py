"""The transformer-engine backend against a stand-in for its API.

The stand-in has the names and signatures of transformer-engine 2.20.2 (te.Linear, te.autocast, Float8CurrentScaling)
and multiplies in bf16: it shows that they are called as they want to be, and nothing about FP8. The real check needs
CUDA: tests/gpu/test_trial_cuda.py.
"""

import sys
import types

import pytest
import torch
from torch import nn
from trial_jobs import job, write_chain

from sweeper.model import compile as compilation
from sweeper.model import precision
from sweeper.model.shape import derive
from sweeper.model.transformer import build_model
from sweeper.runners.training.trial import run_job

CPU = torch.device("cpu")
SMALL = {"n_layers": 2, "d_model": 64, "head_dim": 16, "n_kv_heads": 2, "ffn_hidden": 160, "vocab_size": 64,
         "tie_embeddings": True}  # fmt: skip


class Autocast:
    """The stand-in's te.autocast; `active` is the recipe in force, `entered` all that ever were."""

    active = None
    entered = ()

    def __init__(self, enabled=True, calibrating=False, recipe=None, amax_reduction_group=None):
        assert enabled
        self.recipe = recipe

    def __enter__(self):
        Autocast.active = self.recipe
        Autocast.entered += (self.recipe,)

    def __exit__(self, *_):
        Autocast.active = None


class Linear(nn.Module):
    """The stand-in's te.Linear: no nn.Linear, its compute dtype autocast's, its input's last dimension aligned."""

    def __init__(self, in_features, out_features, bias=True, params_dtype=None, device="cuda"):
        super().__init__()
        assert not bias
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=params_dtype, device=device))

    def forward(self, x):
        assert isinstance(Autocast.active, Float8CurrentScaling)
        assert torch.is_autocast_enabled("cpu")
        assert x.shape[-1] % 16 == 0
        return nn.functional.linear(x, self.weight)


class Float8CurrentScaling:
    """The stand-in's recipe."""


@pytest.fixture
def te(monkeypatch):
    modules = {
        "transformer_engine": {"__version__": "2.20.2", "__path__": []},
        "transformer_engine.pytorch": {"Linear": Linear, "autocast": Autocast},
        "transformer_engine.common": {"__path__": []},
        "transformer_engine.common.recipe": {"Float8CurrentScaling": Float8CurrentScaling},
    }
    for name, members in modules.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(precision, "_has_fp8", lambda device: True)
    monkeypatch.setattr(Autocast, "entered", ())
    precision._current_scaling.cache_clear()
    yield
    precision._current_scaling.cache_clear()


def model_of(**changed):
    return build_model(derive({**SMALL, **changed}), seq_len=16, seed=0, device=CPU)


def applied(model, layer_filter="none"):
    return precision.apply(model, name="fp8", device=CPU, backend="transformer_engine", layer_filter=layer_filter)


def backend_autocast():
    return precision.autocast(name="fp8", device=CPU, backend="transformer_engine")


def test_every_matmul_becomes_a_te_linear_around_the_same_parameter(te):
    model = model_of()
    before = dict(model.named_parameters())
    report = applied(model)
    after = dict(model.named_parameters())
    assert (report.converted, report.total, report.kept_out) == (8, 8, ())
    assert (report.backend, report.emulated) == ("transformer_engine", False)
    assert sum(isinstance(module, Linear) for module in model.modules()) == 8
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    assert {parameter.dtype for parameter in after.values()} == {torch.float32}


def test_the_filter_and_its_reasons_are_those_of_torchao(te):
    ours, theirs = applied(model_of(), "auto"), precision.apply(model_of(), name="fp8", device=CPU)
    assert (ours.converted, ours.kept_out) == (theirs.converted, theirs.kept_out)
    assert ours.converted == 0
    assert ours.eager is None


def test_forward_passes_run_under_both_autocasts_with_one_recipe(te):
    tokens = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(0))
    plain, converted = model_of(), model_of()
    applied(converted)
    for _ in range(2):
        with backend_autocast():
            loss = converted.loss(tokens[:, :-1], tokens[:, 1:])
        assert Autocast.active is None
    with precision.autocast(name="bf16", device=CPU):
        expected = plain.loss(tokens[:, :-1], tokens[:, 1:])
    assert loss.item() == expected.item()
    assert len(Autocast.entered) == 2
    assert Autocast.entered[0] is Autocast.entered[1]


@pytest.mark.compiler
def test_below_torch_2_14_the_norms_alone_are_compiled_and_the_report_says_so(te):
    model = model_of()
    report = applied(model)
    assert report.eager == (
        f"te.Linear compiles from transformer-engine 2.20 with torch 2.14 on; these are 2.20.2 and {torch.__version__}"
    )
    compilation.compile_blocks(model, whole=report.eager is None)
    compiled = [name for name, module in model.named_modules() if module._compiled_call_impl is not None]
    assert compiled == [
        f"blocks.{block}.{norm}" for block in (0, 1) for norm in ("attention_norm", "ffn_norm")
    ] + ["head.norm"]  # fmt: skip


@pytest.mark.parametrize(("torch_from", "te_from", "compiles"), [("2.9", "2.9", True), ("2.9", "2.21", False)])
def test_both_versions_decide_whether_blocks_are_compiled(te, monkeypatch, torch_from, te_from, compiles):
    monkeypatch.setattr(precision, "COMPILES_FROM", {"torch": torch_from, "transformer_engine": te_from})
    assert (applied(model_of()).eager is None) == compiles


@pytest.mark.compiler
def test_a_trial_trains_and_evaluates_with_it_and_records_that_its_blocks_ran_eager(te, tmp_path):
    write_chain(tmp_path, train=20_000, held_out=9_000)
    run = job(tmp_path, steps=3, compile=True, precision="fp8", fp8_backend="transformer_engine", fp8_filter="none")
    *_, outcome = run_job(run)
    assert outcome.status == "ok"
    report = outcome.environment["precision"]
    assert (report["converted"], report["total"], report["backend"]) == (4, 4, "transformer_engine")
    assert "torch 2.14" in report["eager"]
    assert outcome.environment["graph_breaks"] == 0


def test_a_device_without_fp8_is_refused_with_the_alternative():
    with pytest.raises(RuntimeError, match=r"needs a CUDA device of capability 8\.9 or above, not cpu: .* torchao"):
        applied(model_of())


def test_a_missing_transformer_engine_is_named_with_its_extra(te, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", None)
    with pytest.raises(RuntimeError, match=r"which isn't installed: on a CUDA machine, .*'\.\[transformer-engine\]'"):
        applied(model_of())


def test_a_transformer_engine_that_does_not_load_says_what_went_wrong(te, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "transformer_engine.pytorch":
                raise OSError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "transformer_engine.pytorch")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(RuntimeError, match=r"fails to import \(libcudnn"):
        applied(model_of())
