"""A training on a CUDA device goes on from its checkpoint: every tensor back, on the device it was on."""

from dataclasses import replace

import pytest
import torch
import trial_jobs
from trial_jobs import write_chain

from sweeper.runners.data.dataset import open_data, train_batches
from sweeper.runners.training.checkpoint import Checkpoints
from sweeper.runners.training.training import build_training
from sweeper.runners.training.trial import run_job

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("optimizer", [{}, {"name": "muon", "momentum": 0.95}], ids=["adamw", "muon"])
def test_a_training_goes_on(tmp_path, optimizer):
    write_chain(tmp_path / "chain")
    shape = {"n_layers": 2, "d_model": 256, "head_dim": 64, "n_kv_heads": 2, "ffn_hidden": 704}
    plain = trial_jobs.job(
        tmp_path / "chain", shape=shape, compile=True, precision="bf16", optimizer={"lr": 2e-3, **optimizer}
    )
    run = replace(plain, device="cuda", shared_ok=True)
    *_, whole = run_job(run)
    checkpoints = Checkpoints(folder=tmp_path / "checkpoints", every=20)
    events = run_job(run, checkpoints=checkpoints)
    while next(events).tokens < 45 * 512:
        pass
    events.close()

    resumed = replace(checkpoints, resume=True)
    dataset = open_data("chain", run.data_path, 16)
    saved = resumed.last(run, data_fingerprint=dataset.fingerprint)
    assert saved.header.step == 40
    device = torch.device("cuda", 0)
    batches = train_batches(dataset, seed=0, batch_size=8, seq_len=64, device=device)
    training = build_training(job=run, device=device, batches=batches)
    saved.load_into(training)
    states = [tensor for state in training.optimizer.state.values() for tensor in state.values()]
    assert {tensor.device for tensor in states} == {device}
    batches.close()

    *_, outcome = run_job(run, checkpoints=resumed)
    assert outcome.environment["resumed"]["step"] == 40
    assert len(outcome.curve) == len(whole.curve)
    # Attention's backward pass adds in no fixed order on CUDA, so losses agree closely, not to the bit.
    assert outcome.val_loss == pytest.approx(whole.val_loss, rel=0.01)
