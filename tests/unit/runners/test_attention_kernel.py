"""Which attention kernel the record names, against what torch is told to run."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sweeper.model.shape import derive
from sweeper.runners.training.attention import chosen_kernel

SHAPE = derive({"n_layers": 1, "d_model": 64, "head_dim": 16, "n_kv_heads": 2, "ffn_hidden": 64, "vocab_size": 16,
                "tie_embeddings": True})  # fmt: skip


def named(seq_len=64, dtype=torch.bfloat16):
    return chosen_kernel(SHAPE, seq_len=seq_len, dtype=dtype, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("backend", "name"), [(SDPBackend.FLASH_ATTENTION, "flash_attention"), (SDPBackend.MATH, "math")]
)
def test_the_kernel_is_the_one_that_torch_is_told_to_take(backend, name):
    with sdpa_kernel(backend):
        assert named() == name


def test_the_models_own_operator_is_named_where_it_takes_that():
    assert (named(255, torch.float32), named(256, torch.float32)) == ("flash_attention", "attention_in_chunks")
