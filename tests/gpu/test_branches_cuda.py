"""A branch on a CUDA device: every tensor of its trunk put back, its copy on the host and not on the device."""

from dataclasses import replace

import pytest
import torch
import trial_jobs
from trial_jobs import write_chain

from sweeper.runners.data.dataset import open_data, train_batches
from sweeper.runners.training import branches
from sweeper.runners.training.training import build_training

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("optimizer", [{}, {"name": "muon", "momentum": 0.95}], ids=["adamw", "muon"])
def test_a_training_comes_back_as_it_left(tmp_path, optimizer):
    write_chain(tmp_path / "chain")
    shape = {"n_layers": 2, "d_model": 256, "head_dim": 64, "n_kv_heads": 2, "ffn_hidden": 704}
    plain = trial_jobs.job(
        tmp_path / "chain", shape=shape, compile=True, precision="bf16", optimizer={"lr": 2e-3, **optimizer}
    )
    run, device = replace(plain, device="cuda", shared_ok=True, branch_at=(0.5,)), torch.device("cuda", 0)
    dataset = open_data("chain", run.data_path, 16)
    batches, own = (train_batches(dataset, seed=0, batch_size=8, seq_len=64, device=device, skip=n) for n in (0, 40))
    training = build_training(job=run, device=device, batches=batches)
    training.timed_steps(5)
    ((_, schedule),) = branches.planned_branches(run, training.schedule)
    before = [tensor.clone() for tensor in state(training)]
    held = torch.cuda.memory_allocated()
    with branches.away(training, schedule, own):
        assert torch.cuda.memory_allocated() == held, "the copy lies on the host"
        training.timed_steps(3)
        assert not torch.equal(before[0], next(iter(training.model.parameters())))
    assert training.step_index == 5
    assert all(torch.equal(one, other) for one, other in zip(before, state(training), strict=True))
    batches.close()
    own.close()


def state(training):
    own = [value for values in training.optimizer.state.values() for value in values.values()]
    return [*training.model.parameters(), *own]
