"""Every variant of the loss against its definition in fp64: value, both gradients, and what it keeps in memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from sweeper.model import loss as losses
from sweeper.model.compile import compiled_graphs, forget_compiled

VARIANTS = ("full", "chunked")


def inputs(rows, width, vocab_size, *, seed=0, spread=1.0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=draw) * spread
    weight = torch.randn(vocab_size, width, generator=draw) * spread
    return x, weight, torch.randint(vocab_size, (rows,), generator=draw)


def value_and_gradients(loss, x, weight, targets, *, factor=1.0):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    value = loss(x, weight, targets)
    (value * factor).backward()
    return value.detach(), x.grad, weight.grad


def reference(x, weight, targets, *, factor=1.0):
    """The definition in fp64, with gradients from autograd through log-softmax."""

    def loss(x, weight, targets):
        return -torch.log_softmax(x @ weight.T, dim=-1).gather(1, targets[:, None]).mean()

    return value_and_gradients(loss, x.double(), weight.double(), targets, factor=factor)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.compiler
def test_value_and_gradients_are_those_of_fp64(name, compiled):
    forget_compiled()
    for rows, width, vocab_size in ((700, 24, 5000), (600, 16, 4099), (3, 8, 17)):
        x, weight, targets = inputs(rows, width, vocab_size)
        found = value_and_gradients(losses.make_loss(name, compiled=compiled), x, weight, targets, factor=0.25)
        for own, exact in zip(found, reference(x, weight, targets, factor=0.25), strict=True):
            torch.testing.assert_close(own.double(), exact, rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("name", VARIANTS)
def test_under_bf16_autocast_errors_are_those_of_rounding(name):
    x, weight, targets = inputs(300, 32, 600, spread=0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradients(losses.make_loss(name, compiled=False), x, weight, targets)
    value, *gradients = reference(x, weight, targets)
    assert found[0].dtype == torch.float32
    assert found[0].item() == pytest.approx(value.item(), rel=2e-3)
    for own, exact in zip(found[1:], gradients, strict=True):
        assert own.dtype == torch.float32
        assert (own.double() - exact).norm() < 0.02 * exact.norm()


@given(
    rows=st.integers(1, 40), width=st.integers(1, 9), vocab_size=st.integers(2, 50), seed=st.integers(0, 99),
    spread=st.sampled_from([0.01, 1.0, 30.0]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_chunks_of_any_size_make_the_same_loss(rows, width, vocab_size, seed, spread):
    x, weight, targets = inputs(rows, width, vocab_size, seed=seed, spread=spread)
    loss = losses.ChunkedLoss(compiled=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(losses, "FEWEST_ROWS", 1)
        patched.setitem(losses.CHUNK_LOGITS, "cpu", vocab_size * 4)
        found = value_and_gradients(loss, x, weight, targets)
        alone = loss(x, weight, targets)
    exact = reference(x, weight, targets)
    assert alone.item() == pytest.approx(found[0].item(), rel=1e-5, abs=1e-6)
    for own, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(own.double(), wanted, rtol=1e-3, atol=1e-4 * max(1.0, spread))


def test_extreme_logits_neither_overflow_nor_vanish():
    x, weight = torch.tensor([[1.0]]), torch.tensor([[500.0], [-500.0]])
    for name in VARIANTS:
        for target, wanted in ((0, 0.0), (1, 1000.0)):
            value, *_ = value_and_gradients(losses.make_loss(name, compiled=False), x, weight, torch.tensor([target]))
            assert value.item() == pytest.approx(wanted, abs=1e-6)


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Bytes of the largest tensor that operators make, and how many matmuls there are."""

    def __init__(self):
        super().__init__()
        self.largest = self.matmuls = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        self.matmuls += operator.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


def largest_tensor(loss, x, weight, targets):
    """Bytes of the largest tensor that a forward and backward pass allocates."""
    with Watch() as watch:
        value_and_gradients(loss, x, weight, targets)
    return watch.largest


def test_chunks_hold_no_tensor_of_the_size_of_all_logits():
    x, weight, targets = inputs(4096, 8, 4096)
    logits_bytes = 4 * 4096 * 4096
    assert largest_tensor(losses.make_loss("full", compiled=False), x, weight, targets) >= logits_bytes
    assert largest_tensor(losses.make_loss("chunked", compiled=False), x, weight, targets) <= logits_bytes / 8


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.compiler
def test_the_value_alone_compiles_nothing_that_training_has_not(name):
    forget_compiled()
    x, weight, targets = inputs(600, 16, 300)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    loss = losses.make_loss(name, compiled=True)
    trained = loss(x, weight, targets)
    graphs = compiled_graphs()
    value = losses.value_of(loss, x, weight, targets)
    assert compiled_graphs() == graphs > 0
    assert not value.requires_grad
    assert value.item() == pytest.approx(trained.item(), rel=1e-6)


def test_by_chunks_the_value_alone_takes_no_gradients():
    x, weight, targets = inputs(1024, 16, 4096)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    loss = losses.make_loss("chunked", compiled=False)
    with Watch() as training:
        loss(x, weight, targets)
    with Watch() as evaluation:
        losses.value_of(loss, x, weight, targets)
    assert (training.matmuls, evaluation.matmuls) == (6, 2)


def test_each_type_of_device_has_a_variant_that_exists():
    for name in losses.LOSS_ON.values():
        assert name in VARIANTS
    with pytest.raises(KeyError):
        losses.LOSS_ON["abacus"]


def test_a_loss_that_does_not_exist_is_refused():
    for compiled in (False, True):
        with pytest.raises(ValueError, match="there is no loss 'linear', only full and chunked"):
            losses.make_loss("linear", compiled=compiled)


@pytest.mark.parametrize(
    ("device", "vocab_size", "rows", "wanted"),
    [
        ("cpu", 32768, 32768, (64, 512)), ("cpu", 4096, 4096, (8, 512)), ("cpu", 256, 2**14, (2, 8192)),
        ("cuda", 32768, 32768, (4, 8192)), ("cuda", 50257, 32768, (8, 4096)), ("cuda", 32768, 4096, (1, 4096)),
    ],
)  # fmt: skip
def test_chunks_are_as_large_as_the_device_likes_them(device, vocab_size, rows, wanted):
    with FakeTensorMode():
        x, weight = (torch.empty(count, 8, device=device) for count in (rows, vocab_size))
        starts, most = losses._chunks(x, weight)
    assert (len(starts), most) == wanted
