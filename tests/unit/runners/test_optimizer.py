"""Optimizers: their groups, and Muon against torch's own on the same matrices and against the singular values."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.model.shape import derive
from sweeper.model.transformer import build_model
from sweeper.runners.training.muon import orthogonalise
from sweeper.runners.training.optimizer import make_optimizer, parametrization_for
from sweeper.runners.training.training import build_training
from sweeper.values.records import Base, Config, Execution, Job, Optimizer, Recipe

CPU = torch.device("cpu")
MUON = Optimizer(name="muon", lr=3e-3, weight_decay=0.2, momentum=0.9)


def model_of(*, base=None, **changed):
    fields = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "ffn_hidden": 48, "vocab_size": 16}
    shape = derive({**fields, "tie_embeddings": True, **changed})
    return build_model(shape, seq_len=8, seed=0, device=CPU, parametrization=parametrization_for(shape, base))


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3


def logical_matrices(model):
    """The blocks' matrices as Llama has them: q, k, v, out, gate, up, down of each block; views."""
    shape = model.shape
    heads = [count * shape.head_dim for count in (shape.n_heads, shape.n_kv_heads, shape.n_kv_heads)]
    for block in model.blocks:
        yield from block.attention.qkv.weight.split(heads)
        yield block.attention.out.weight
        yield from block.ffn.gate_up.weight.chunk(2)
        yield block.ffn.down.weight


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("asked", "groups"),
    [
        (Optimizer(), 2),
        (MUON, 3),
        (Optimizer(base=Base(n_layers=2, d_model=32, ffn_hidden=48)), 2),  # the base itself
        (Optimizer(base=Base(n_layers=1, d_model=16, ffn_hidden=24)), 4),  # tables, matrices, norms, final norm
        (Optimizer(base=Base(n_layers=1, d_model=16, ffn_hidden=48)), 5),  # the down projection has its own ratio
    ],
)
def test_groups_hold_every_parameter_once(asked, groups, tied):
    model = model_of(base=asked.base, tie_embeddings=tied)
    optimizer = make_optimizer(model, asked)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    assert len(optimizer.param_groups) == groups
    assert all(group["lr"] == group["peak_lr"] for group in optimizer.param_groups)


def test_completeps_factors_reach_adamw():
    """One step from known gradients: AdamW's first step is lr · g ÷ (|g| + ε), after decay by lr · λ."""
    base = Base(n_layers=1, d_model=16, ffn_hidden=12)
    model = model_of(base=base, tie_embeddings=False)
    give_gradients(model, 0)
    before = copy.deepcopy(model)
    make_optimizer(model, Optimizer(lr=1e-2, weight_decay=0.5, eps=1e-3, base=base)).step()
    for (name, own), was in zip(model.named_parameters(), before.parameters(), strict=True):
        in_block, norm = name.startswith("blocks."), own.dim() == 1
        m_n = (4 if "down" in name else 2) if in_block and not norm else 1
        lr, decay = 1e-2 / m_n, 0.0 if norm else 0.5 * m_n
        eps = 1e-3 / (2 * 2 if in_block else 2)
        expected = was * (1 - lr * decay) - lr * own.grad / (own.grad.abs() + eps)
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-7, msg=name)


def test_muon_takes_torchs_steps_on_the_logical_matrices_and_adamws_on_the_rest():
    ours, theirs = model_of(), model_of()
    mine = make_optimizer(ours, MUON)
    matrices = [matrix.detach().clone().requires_grad_() for matrix in logical_matrices(theirs)]
    muon = torch.optim.Muon(
        matrices, lr=MUON.lr, weight_decay=MUON.weight_decay, momentum=MUON.momentum, adjust_lr_fn="match_rms_adamw"
    )
    rest = [p for name, p in theirs.named_parameters() if not name.startswith("blocks.") or p.dim() == 1]
    decays = [MUON.weight_decay if p.dim() == 2 else 0.0 for p in rest]
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(rest, decays, strict=True)]
    adamw = torch.optim.AdamW(groups, lr=MUON.lr, betas=MUON.betas, eps=MUON.eps)
    for step in range(6):
        give_gradients(ours, step)
        for parameter, own in zip(theirs.parameters(), ours.parameters(), strict=True):
            parameter.grad = own.grad.clone()
        gradients = copy.deepcopy(ours)
        with torch.no_grad():
            for holder, own in zip(gradients.parameters(), ours.parameters(), strict=True):
                holder.copy_(own.grad)
        for matrix, gradient in zip(matrices, logical_matrices(gradients), strict=True):
            matrix.grad = gradient.detach().clone()
        for optimizer in (mine, muon, adamw):
            optimizer.step()
        for own, other in zip(logical_matrices(ours), matrices, strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=2e-2 * MUON.lr)  # bf16 sums in another order
    for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if not name.startswith("blocks.") or own.dim() == 1:
            torch.testing.assert_close(own, other, msg=name)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 5), rows=st.integers(2, 70), columns=st.integers(2, 70), seed=st.integers(0, 99),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)  # fmt: skip
def test_orthogonalising_keeps_singular_vectors_and_levels_singular_values(count, rows, columns, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    # Orthogonal × singular values from 0.1 to 1 × orthogonal: what five iterations can level.
    few = min(rows, columns)
    left, right = (
        torch.linalg.qr(torch.randn(count, size, few, generator=generator, dtype=torch.float64))[0]
        for size in (rows, columns)
    )
    values = torch.linspace(0.1, 1, few, dtype=torch.float64)
    matrices = scale * left @ (values[:, None] * right.mT)
    for index, made in enumerate(orthogonalise(matrices)):
        # In the basis of its singular vectors, what comes out is diagonal, and near the identity.
        core = left[index].mT @ made @ right[index]
        torch.testing.assert_close(left[index] @ core @ right[index].mT, made)
        assert (core - core.diag().diag()).abs().max() < 1e-9
        assert core.diag().min() > 0.6
        assert core.diag().max() < 1.25
        alone = orthogonalise(matrices[index : index + 1])[0]
        torch.testing.assert_close(made, alone)


def test_an_update_of_muon_has_adamws_rms_whatever_the_shape():
    model = model_of(d_model=64, n_heads=4, ffn_hidden=400)
    asked = Optimizer(name="muon", lr=1.0, weight_decay=0.0, momentum=0.9)
    before = copy.deepcopy(model)
    give_gradients(model, 0)
    make_optimizer(model, asked).step()
    for own, was in zip(logical_matrices(model), logical_matrices(before), strict=True):
        assert (own - was).square().mean().sqrt().item() == pytest.approx(0.2, rel=0.3), own.shape


def test_a_matrix_without_gradient_stays_and_a_zero_gradient_makes_no_nan():
    model = model_of()
    give_gradients(model, 0)
    model.blocks[0].ffn.down.weight.grad = None
    model.blocks[1].ffn.down.weight.grad.zero_()
    before = copy.deepcopy(model)
    make_optimizer(model, MUON).step()
    assert torch.equal(model.blocks[0].ffn.down.weight, before.blocks[0].ffn.down.weight)
    decayed = before.blocks[1].ffn.down.weight * (1 - MUON.lr * MUON.weight_decay)
    torch.testing.assert_close(model.blocks[1].ffn.down.weight, decayed)


@pytest.mark.parametrize("asked", [Optimizer(), MUON], ids=["adamw", "muon"])
def test_a_state_that_was_saved_goes_on_where_it_was(asked):
    whole, first = model_of(), model_of()
    optimizer = make_optimizer(whole, asked)
    before = make_optimizer(first, asked)
    for step in range(2):
        for model, each in ((whole, optimizer), (first, before)):
            give_gradients(model, step)
            each.step()
    second = copy.deepcopy(first)
    after = make_optimizer(second, asked)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for model, each in ((whole, optimizer), (second, after)):
        give_gradients(model, 2)
        each.step()
        each.zero_grad(set_to_none=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in second.parameters())


def test_muon_has_no_base():
    with pytest.raises(ValueError, match="muon has no base"):
        make_optimizer(model_of(), Optimizer(name="muon", momentum=0.9, base=Base(n_layers=1, d_model=8, ffn_hidden=8)))


@pytest.mark.parametrize(
    ("asked", "peaks"),
    [
        (Optimizer(lr=1e-2, base=Base(n_layers=2, d_model=8, ffn_hidden=12)), {1e-2, 2.5e-3}),
        (Optimizer(lr=1e-2, name="muon", momentum=0.95), {1e-2}),
    ],
    ids=["completep", "muon"],
)
@pytest.mark.compiler
def test_the_schedule_multiplies_each_groups_own_peak(asked, peaks):
    model = model_of()
    recipe = Recipe(
        data="random", seq_len=8, tokens_per_step=32, precision="fp32", optimizer=asked, eval_tokens=32, steps=10
    )
    job = Job(
        kind="train", config=Config(shape=model.shape, recipe=recipe), execution=Execution(batch_size=4, compile=True)
    )
    tokens = torch.randint(0, 16, (4, 8), generator=torch.Generator().manual_seed(0))
    training = build_training(job=job, device=CPU, batches=iter([(tokens, tokens)] * 10))
    assert {group["peak_lr"] for group in training.optimizer.param_groups} == peaks
    rates = []
    for _ in range(10):
        training.step()
        rates.append([group["lr"] / group["peak_lr"] for group in training.optimizer.param_groups])
    # warm-up of 4% is one step, cool-down of 20% the last two
    expected = [1.0] * 8 + [2 / 3, 1 / 3]
    assert [pytest.approx([factor] * len(rates[0])) for factor in expected] == rates
    first, *_, last = training.collect_losses()
    assert last < first - 0.3
