"""Small training jobs for tests: a Markov chain as token shards, and a job over it."""

import numpy as np

from sweeper.model.shape import derive
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe


def write_chain(folder, *, states=16, train=400_000, held_out=70_000, seed=0):
    """Tokens of an order-1 Markov chain as nanoGPT's train.bin and val.bin; returns its transition matrix."""
    rng = np.random.default_rng(seed)
    matrix = rng.dirichlet(np.full(states, 0.3), size=states)
    cumulative = matrix.cumsum(axis=1)
    tokens = np.empty(train + held_out, dtype=np.uint16)
    state = 0
    for index, draw in enumerate(rng.random(len(tokens))):
        state = min(int(np.searchsorted(cumulative[state], draw)), states - 1)
        tokens[index] = state
    folder.mkdir(parents=True, exist_ok=True)
    tokens[:train].tofile(folder / "train.bin")
    tokens[train:].tofile(folder / "val.bin")
    return matrix


def job(path, *, seed=0, compile=False, batch_size=8, kind="train", shape=None, optimizer=None, **recipe):
    """A job on the shards in `path`: one layer of width 32, 60 steps of 512 tokens unless told otherwise."""
    fields = {"n_layers": 1, "d_model": 32, "head_dim": 16, "n_kv_heads": 1, "ffn_hidden": 64, "vocab_size": 16,
              "tie_embeddings": True, **(shape or {})}  # fmt: skip
    settings = {"data": "chain", "steps": 60, "seq_len": 64, "tokens_per_step": 512, "precision": "fp32",
                "optimizer": Optimizer(**{"lr": 1e-2, **(optimizer or {})}), "eval_tokens": 8192, **recipe}  # fmt: skip
    return Job(
        kind=kind,
        config=Config(shape=derive(fields), recipe=Recipe(**settings)),
        execution=Execution(batch_size=batch_size, compile=compile),
        seed=seed,
        data_path=str(path),
    )
