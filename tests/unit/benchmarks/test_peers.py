"""What a compiled peer does beside what it's compared for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers

from sweeper.model.compile import forget_compiled
from sweeper.model.shape import derive

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))  # as a script sees its folder

from gpu_steps import aims, rivals
from peers import FULL_ATTENTION, Task, attends_in_full
from plain_model import PlainModel

FIELDS = {"n_layers": 1, "d_model": 16, "head_dim": 8, "n_kv_heads": 1, "ffn_hidden": 16, "vocab_size": 32,
          "tie_embeddings": False}  # fmt: skip
TOKENS = torch.zeros(1, 16, dtype=torch.int64)


def graphs(function, *inputs, **named):
    """What Dynamo captures of a call."""
    forget_compiled()
    found = []

    def keep(graph, _):
        found.append(graph)
        return graph

    torch.compile(function, backend=keep)(*inputs, **named)
    return found


@pytest.mark.compiler
def test_compiled_hugging_face_attends_in_full_before_torch_2_14_and_the_plain_loop_never():
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=16, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    found = graphs(transformers.LlamaForCausalLM(config), input_ids=TOKENS, labels=TOKENS, shift_labels=TOKENS)
    assert any(map(attends_in_full, found)) == (torch.__version__ < "2.14")
    assert not any(map(attends_in_full, graphs(PlainModel(derive(FIELDS), 16), TOKENS, TOKENS)))


class Still:
    """A contestant that takes a second a step."""

    def __init__(self, **facts):
        self.start = {"params": derive(FIELDS).params.total, **facts}

    def seconds(self, steps):
        return float(steps)

    def peak_memory_bytes(self):
        return 1


def test_the_row_says_who_computes_the_hidden_half_and_no_aim_is_a_ratio_to_it():
    task = Task(
        shape=FIELDS, shards="", seq_len=16, batch_size=1, grad_accum_steps=1, precision="bf16", device="cpu"
    )  # fmt: skip
    running = {"sweeper": Still(), "huggingface": Still(attention=FULL_ATTENTION), "plain": Still()}
    row = rivals._side_by_side(running, task, windows=3)
    assert row["attention"] == {"huggingface": FULL_ATTENTION}
    assert row["sweeper_to_huggingface"] == row["sweeper_to_plain"] == 1
    found = aims.summary({"peers": {"status": "done", "rows": {"side by side": row}}}, device_type="cuda")
    assert found["flagship"]["to_plain"]["met"]
    assert "to_huggingface" not in found["flagship"]
