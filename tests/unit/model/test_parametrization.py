"""CompleteP against a table worked out by hand, measured gradients, and the standard parametrization at the base."""

import math

import pytest
import torch

from sweeper.model.parametrization import completep, standard
from sweeper.model.shape import derive
from sweeper.model.transformer import Block, RMSNorm, build_model

CPU = torch.device("cpu")


def shape(**changed):
    fields = {"n_layers": 8, "d_model": 64, "head_dim": 16, "n_kv_heads": 1, "ffn_hidden": 96, "vocab_size": 32}
    return derive({**fields, "tie_embeddings": False, **changed})


def test_the_rules_are_those_worked_out_by_hand():
    """Twice as wide, four times as deep, an FFN three times as large: m_D 2, m_N of down 3, m_L 4."""
    made = completep(shape(), n_layers=2, d_model=32, ffn_hidden=32)
    expected = {  # init std, and the factors on learning rate, weight decay and ε
        "embedding.weight": (0.02, 1, 1, 1 / 2),
        "head.weight": (0.02, 1, 1, 1 / 2),
        "head.norm.weight": (None, 1, 0, 1 / 2),
        "blocks.0.attention_norm.weight": (None, 1, 0, 1 / 8),
        "blocks.7.ffn_norm.weight": (None, 1, 0, 1 / 8),
        "blocks.3.attention.qkv.weight": (0.014142136, 1 / 2, 2, 1 / 8),
        "blocks.3.attention.out.weight": (0.007071068, 1 / 2, 2, 1 / 8),  # 0.02 ÷ √(2 · 2) ÷ √2
        "blocks.3.ffn.gate_up.weight": (0.014142136, 1 / 2, 2, 1 / 8),
        "blocks.3.ffn.down.weight": (0.005773503, 1 / 3, 3, 1 / 8),  # 0.02 ÷ √(2 · 2) ÷ √3
    }
    for name, (std, *factors) in expected.items():
        rule = made.rule(name)
        assert rule.init_std == (None if std is None else pytest.approx(std, rel=1e-6)), name
        assert [rule.lr, rule.weight_decay, rule.eps] == pytest.approx(factors), name
    assert (made.branch, made.head_input) == (1 / 4, 1 / 2)


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_has_a_rule_and_every_rule_a_parameter(tied):
    model = build_model(shape(tie_embeddings=tied), seq_len=8, seed=0, device=CPU)
    names = [name for name, _ in model.named_parameters()]
    used = {id(model.parametrization.rule(name)) for name in names}
    assert used == {id(rule) for rule in model.parametrization.rules.values()}
    with pytest.raises(KeyError):
        model.parametrization.rule("blocks.0.attention.bias")


def test_parameters_start_with_the_deviation_that_their_rule_says():
    made = completep(shape(), n_layers=2, d_model=32, ffn_hidden=32)
    model = build_model(shape(), seq_len=8, seed=0, device=CPU, parametrization=made)
    for name, parameter in model.named_parameters():
        std = made.rule(name).init_std
        if std is None:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            assert parameter.std().item() == pytest.approx(std, rel=0.08), name


@pytest.mark.parametrize("tied", [False, True])
def test_at_the_base_itself_both_parametrizations_are_the_same(tied):
    at_base = shape(tie_embeddings=tied)
    made = completep(at_base, n_layers=8, d_model=64, ffn_hidden=96)
    assert made == standard(at_base)


def test_the_same_seed_draws_the_same_values_scaled():
    made = completep(shape(), n_layers=2, d_model=32, ffn_hidden=32)
    ours = build_model(shape(), seq_len=8, seed=3, device=CPU, parametrization=made)
    plain = build_model(shape(), seq_len=8, seed=3, device=CPU)
    for (name, own), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if (std := made.rule(name).init_std) is not None:
            torch.testing.assert_close(own, other * std / plain.parametrization.rule(name).init_std)


def test_branches_and_the_heads_input_are_multiplied():
    """Folded into the weights, the multipliers make a standard model with the same logits."""
    made = completep(shape(), n_layers=2, d_model=32, ffn_hidden=32)
    ours = build_model(shape(), seq_len=16, seed=0, device=CPU, parametrization=made)
    plain = build_model(shape(), seq_len=16, seed=0, device=CPU)
    plain.load_state_dict(ours.state_dict())
    tokens = torch.randint(0, 32, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(ours(tokens), plain(tokens))
        for block in plain.blocks:
            block.attention.out.weight.mul_(1 / 4)
            block.ffn.down.weight.mul_(1 / 4)
        plain.head.norm.weight.mul_(1 / 2)
        torch.testing.assert_close(ours(tokens), plain(tokens))
        torch.testing.assert_close(ours.loss(tokens, tokens), plain.loss(tokens, tokens))


def test_a_multiplier_of_one_changes_no_bit():
    x = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    block, angles = Block(shape()).bfloat16(), (torch.ones(8, 16), torch.zeros(8, 16))
    with torch.no_grad():
        attended = x + block.attention(block.attention_norm(x), *angles)
        assert torch.equal(block(x, *angles), attended + block.ffn(block.ffn_norm(attended)))
        assert torch.equal(RMSNorm(64)(x), RMSNorm(64, scale=1.0)(x))


def gradient_rms(of, base):
    """Each kind of parameter's root mean square gradient at the start, by its name within its block."""
    model = build_model(of, seq_len=32, seed=0, device=CPU, parametrization=completep(of, **base))
    tokens = torch.randint(0, 32, (16, 33), generator=torch.Generator().manual_seed(0))
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    squares = {}
    for name, parameter in model.named_parameters():
        kind = name.split(".", 2)[2] if name.startswith("blocks.") else name
        squares.setdefault(kind, []).append(parameter.grad.square().mean().item())
    return model.parametrization, {kind: math.sqrt(sum(each) / len(each)) for kind, each in squares.items()}


@pytest.mark.parametrize(
    "grown",
    [{"d_model": 256, "ffn_hidden": 384}, {"n_layers": 32}, {"ffn_hidden": 1536}],
    ids=["width", "depth", "ffn"],
)
def test_epsilon_shrinks_as_gradients_do(grown):
    """ε is to stay as small beside the gradients as it is at the base: what the paper derives it from."""
    base = {"n_layers": 8, "d_model": 64, "ffn_hidden": 96}
    _, at_base = gradient_rms(shape(), base)
    made, found = gradient_rms(shape(**grown), base)
    for kind, rms in found.items():
        expected = made.rules[kind].eps
        if kind == "ffn.gate_up.weight" and grown.keys() == {"ffn_hidden"}:
            expected /= 4  # √16: its gradients shrink with the FFN too, which the paper scales with the width alone
        assert rms / at_base[kind] == pytest.approx(expected, rel=0.4), kind
