"""A training's parts fit each other: the optimizer moves what the model computes with, by the loss of its device."""

import pytest
import torch

from sweeper.model.loss import LOSS_ON, ChunkedLoss, full_loss
from sweeper.model.shape import derive
from sweeper.runners.training.training import build_training
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe

CPU = torch.device("cpu")
FP8 = {"precision": "fp8", "fp8_backend": "torchao", "fp8_filter": "none"}


def job_of(**recipe):
    fields = {"n_layers": 2, "d_model": 32, "head_dim": 16, "ffn_hidden": 64, "vocab_size": 16, "tie_embeddings": True}
    settings = {"precision": "fp32", "optimizer": Optimizer(lr=1e-2), "steps": 3, **recipe}
    return Job(
        kind="train",
        config=Config(
            shape=derive(fields), recipe=Recipe(data="x", seq_len=16, tokens_per_step=64, eval_tokens=64, **settings)
        ),
        execution=Execution(batch_size=4, compile=False),
    )


def batches(count):
    tokens = torch.randint(0, 16, (4, 16), generator=torch.Generator().manual_seed(0))
    return iter([(tokens, tokens)] * count)


@pytest.mark.parametrize("recipe", [{}, {"optimizer": Optimizer(name="muon", lr=1e-2, momentum=0.9)}, FP8])
def test_every_parameter_of_the_model_as_built_is_moved_by_its_optimizer(recipe):
    training = build_training(job=job_of(**recipe), device=CPU, batches=batches(2))
    parameters = dict(training.model.named_parameters())
    owned = [id(one) for group in training.optimizer.param_groups for one in group["params"]]
    assert sorted(owned) == sorted(map(id, parameters.values()))
    before = {name: one.detach().clone() for name, one in parameters.items()}
    training.step()
    training.step()
    assert [name for name, one in training.model.named_parameters() if torch.equal(one, before[name])] == []


@pytest.mark.parametrize(("variant", "kind"), [("chunked", ChunkedLoss), ("full", type(full_loss))])
def test_the_head_has_the_loss_of_its_device_from_the_start(monkeypatch, variant, kind):
    monkeypatch.setitem(LOSS_ON, "cpu", variant)
    training = build_training(job=job_of(), device=CPU, batches=batches(0))
    assert isinstance(training.model.head.cross_entropy, kind)
