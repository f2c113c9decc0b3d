"""The held-out loss against that of each window by itself: whatever the micro-batch, at one size, with nothing new."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from trial_jobs import job, write_chain

from sweeper.model.compile import compiled_graphs, forget_compiled
from sweeper.model.loss import LOSS_ON
from sweeper.runners.data.dataset import held_out_batches, open_data
from sweeper.runners.training.evaluation import evaluate
from sweeper.runners.training.training import build_training

CPU = torch.device("cpu")
WINDOWS, SEQ_LEN = 10, 64
FP8 = {"precision": "fp8", "fp8_backend": "torchao", "fp8_filter": "none"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder, train=20_000, held_out=9_000)
    return folder


def held_out(chain, batch_size):
    return held_out_batches(
        open_data("chain", str(chain), 16), eval_tokens=WINDOWS * SEQ_LEN, batch_size=batch_size, seq_len=SEQ_LEN,
        device=CPU,
    )  # fmt: skip


def training_of(chain, **changed):
    inputs, targets = next(held_out(chain, changed["batch_size"]))
    rows = torch.arange(changed["batch_size"]) % len(inputs)
    run = job(chain, **changed)
    run = replace(run, config=replace(run.config, recipe=replace(run.config.recipe, tokens_per_step=rows.numel() * 64)))
    training = build_training(job=run, device=CPU, batches=iter([(inputs[rows], targets[rows])] * 3))
    for _ in range(3):
        training.step()
    return training


def by_windows(training, chain):
    """The mean of each window's loss, by the definition: all logits, uncompiled, in the training's precision."""
    losses = []
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), training.autocast():
        for inputs, targets in held_out(chain, 1):
            logits = training.model(inputs).float()
            losses.append(F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item())
    assert len(losses) == WINDOWS
    return sum(losses) / WINDOWS


@pytest.mark.parametrize(("batch_size", "compile"), [(1, False), (4, False), (10, False), (16, False), (4, True)])
def test_the_loss_is_that_of_the_windows_whatever_the_micro_batch(chain, batch_size, compile):
    forget_compiled()
    training = training_of(chain, batch_size=batch_size, compile=compile)
    seen, graphs = [], compiled_graphs()
    training.model.embedding.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    loss, count = evaluate(training, held_out(chain, batch_size))
    assert count == WINDOWS * SEQ_LEN
    assert seen == [(batch_size, SEQ_LEN)] * -(-WINDOWS // batch_size)
    assert compiled_graphs() == graphs
    assert (graphs > 0) == compile
    assert loss == pytest.approx(by_windows(training, chain), rel=2e-6)


@pytest.mark.parametrize("variant", ["full", "chunked"])
@pytest.mark.parametrize("settings", [{"precision": "bf16"}, FP8], ids=["bf16", "fp8"])
def test_filling_up_a_batch_changes_nothing_in_other_precisions_and_variants(chain, monkeypatch, settings, variant):
    """Under FP8 scales span the batch, so the rows that fill it up are those that it has."""
    monkeypatch.setitem(LOSS_ON, "cpu", variant)
    training = training_of(chain, batch_size=16, shape={"vocab_size": 50, "n_layers": 2}, **settings)
    inputs, targets = next(held_out(chain, 7))
    with training.autocast():
        alone = training.model.loss_value(inputs, targets).item()
    filled, count = evaluate(training, iter([(inputs, targets)]))
    assert count == 7 * SEQ_LEN
    assert filled == pytest.approx(alone, rel=2e-6)
