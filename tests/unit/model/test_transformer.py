"""The model against Hugging Face's Llama: the same count for any shape, the same logits for the same weights."""

import random

import pytest
import torch
import transformers

from sweeper.model.shape import derive
from sweeper.model.transformer import Transformer, build_model, rotary_tables
from tests.examples import examples

CPU = torch.device("cpu")


def random_shape(rng, *, most=1):
    n_heads = rng.choice([1, 2, 3, 4, 5, 6, 8, 9, 12, 15, 16])
    kv = rng.choice([k for k in range(1, n_heads + 1) if n_heads % k == 0])
    return derive(
        {
            "n_layers": rng.randint(1, 6 * most),
            "d_model": n_heads * 2 * rng.randint(1, 16 * most),
            "n_heads": n_heads,
            "n_kv_heads": kv,
            "ffn_hidden": rng.randint(1, 300 * most),
            "vocab_size": rng.randint(2, 500 * most),
            "tie_embeddings": rng.random() < 0.5,
        }
    )


def llama_config(shape):
    return transformers.LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.d_model, intermediate_size=shape.ffn_hidden,
        num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads, head_dim=shape.head_dim, tie_word_embeddings=shape.tie_embeddings,
        max_position_embeddings=256, rms_norm_eps=1e-6, attention_bias=False, mlp_bias=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip


def load_from_llama(model, llama):
    state = llama.state_dict()
    with torch.no_grad():
        model.embedding.weight.copy_(state["model.embed_tokens.weight"])
        model.head.norm.weight.copy_(state["model.norm.weight"])
        if not model.shape.tie_embeddings:
            model.head.weight.copy_(state["lm_head.weight"])
        for index, block in enumerate(model.blocks):
            own = {
                name.split(f"layers.{index}.")[1]: value for name, value in state.items() if f"layers.{index}." in name
            }
            attention = [own[f"self_attn.{name}_proj.weight"] for name in "qkv"]
            block.attention.qkv.weight.copy_(torch.cat(attention))
            block.attention.out.weight.copy_(own["self_attn.o_proj.weight"])
            block.ffn.gate_up.weight.copy_(torch.cat([own["mlp.gate_proj.weight"], own["mlp.up_proj.weight"]]))
            block.ffn.down.weight.copy_(own["mlp.down_proj.weight"])
            block.attention_norm.weight.copy_(own["input_layernorm.weight"])
            block.ffn_norm.weight.copy_(own["post_attention_layernorm.weight"])


def test_random_shapes_count_what_llama_counts():
    rng = random.Random(0)
    for _ in range(examples(400)):
        shape = random_shape(rng, most=4)
        with torch.device("meta"):
            llama = transformers.LlamaForCausalLM(llama_config(shape))
            ours = Transformer(shape, seq_len=8)
        theirs = sum(parameter.numel() for parameter in llama.parameters())
        assert shape.params.total == theirs, shape
        assert sum(parameter.numel() for parameter in ours.parameters()) == theirs, shape


@pytest.mark.parametrize("seed", range(12))
def test_logits_equal_llamas_with_the_same_weights(seed):
    rng = random.Random(100 + seed)
    shape = random_shape(rng)
    torch.manual_seed(seed)
    llama = transformers.LlamaForCausalLM(llama_config(shape)).eval()
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model = build_model(shape, seq_len=64, seed=0, device=CPU)
    load_from_llama(model, llama)
    tokens = torch.randint(0, shape.vocab_size, (2, 48))
    with torch.no_grad():
        ours, theirs = model(tokens), llama(tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_gradients_equal_llamas():
    shape = random_shape(random.Random(7))
    llama = transformers.LlamaForCausalLM(llama_config(shape))
    model = build_model(shape, seq_len=64, seed=0, device=CPU)
    load_from_llama(model, llama)
    tokens = torch.randint(0, shape.vocab_size, (2, 33))
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    logits = llama(tokens[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for ours, theirs in (
        (model.embedding.weight, llama.model.embed_tokens.weight),
        (model.blocks[0].ffn.down.weight, llama.model.layers[0].mlp.down_proj.weight),
        (model.blocks[-1].attention.out.weight, llama.model.layers[-1].self_attn.o_proj.weight),
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_no_position_sees_a_later_token():
    shape = random_shape(random.Random(3))
    model = build_model(shape, seq_len=32, seed=1, device=CPU)
    tokens = torch.randint(0, shape.vocab_size, (1, 32))
    changed = tokens.clone()
    changed[0, 20] = (changed[0, 20] + 1) % shape.vocab_size
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20], after[:, 20])


def test_the_seed_alone_fixes_initialisation():
    shape = random_shape(random.Random(5))
    torch.manual_seed(1)
    first = build_model(shape, seq_len=8, seed=3, device=CPU)
    torch.manual_seed(2)
    again, other = (build_model(shape, seq_len=8, seed=seed, device=CPU) for seed in (3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_a_wrong_count_never_runs(monkeypatch):
    shape = random_shape(random.Random(5))
    monkeypatch.setattr(
        "sweeper.model.transformer.Transformer",
        lambda _shape, **settings: Transformer(random_shape(random.Random(6)), **settings),
    )
    with pytest.raises(RuntimeError, match="as built"):
        build_model(shape, seq_len=8, seed=0, device=CPU)


def test_rotary_tables_are_rotations():
    cos_TC, sin_TC = rotary_tables(16, 8)
    torch.testing.assert_close(cos_TC**2 + sin_TC**2, torch.ones(16, 8))
    assert cos_TC[1, 0].item() == pytest.approx(torch.cos(torch.tensor(1.0)).item())
