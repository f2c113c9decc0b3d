"""Values and gradients on this device against fp64, by code that shares nothing with what it judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from plain_model import PlainModel
from torch import Tensor, nn

from gpu_steps.jobs import Bench
from gpu_steps.rows import Rows
from sweeper.model.compile import forget_compiled
from sweeper.model.loss import LOSS_ON, make_loss
from sweeper.model.shape import Shape, derive
from sweeper.runners.device.compile_cache import use_compile_cache
from sweeper.runners.training.training import build_training

LOSS_LIMITS = {"fp32": 1e-4, "bf16": 1e-2}
"""Largest relative error: fp32 sums stay far below; 1e-3 would mean TF32. bf16's unit roundoff is 4e-3."""
MODEL_LIMITS = {"fp32": 2e-4, "bf16": 0.03, "fp8": 0.25}
"""Largest relative error of all gradients together; on a processor the flagship's first four layers come to 1e-6, 0.012
and 0.18. TF32 would come to 1.5e-3. FP8's E5M2 keeps two binary digits of a gradient."""


def loss_gradients(rows: Rows) -> None:
    """A row for each variant, precision and size; compiled too the variant that this device's trials use, once."""
    bench = Bench(rows)
    for case in bench.scale.loss_cases:
        inputs = _drawn(case, bench.device)
        exact = _with_gradients(_exact_loss, inputs, torch.float64)
        used = LOSS_ON[bench.device.type] if bench.scale.compiled and case == bench.scale.loss_cases[-1] else None
        for precision in LOSS_LIMITS:
            for name in ("full", "chunked"):
                for compiled in sorted({False, name == used}):
                    label = f"{name}, {precision}, {' × '.join(map(str, case))}" + (", compiled" if compiled else "")
                    rows.add(label, partial(_loss_row, name, precision, compiled, inputs, exact))


def _drawn(case: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, D), weight (V, D), targets (N); values that bf16 holds exactly, so that only computing makes errors."""
    vocab_size, width, count = case
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, width, generator=draw).bfloat16().float()
    weight = (torch.randn(vocab_size, width, generator=draw) * 0.05).bfloat16().float()
    return x.to(device), weight.to(device), torch.randint(vocab_size, (count,), generator=draw).to(device)


def _exact_loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = x @ weight.t()
    return (logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]).mean()


def _with_gradients(loss: Any, inputs: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The loss and its gradients by x and weight, times 3: a backward pass never starts from 1 alone."""
    x, weight = (value.detach().to(dtype).requires_grad_() for value in inputs[:2])
    value = loss(x, weight, inputs[2])
    (3 * value).backward()
    return {"loss": value.detach(), "x": x.grad, "weight": weight.grad}


def _loss_row(
    name: str, precision: str, compiled: bool, inputs: tuple[Tensor, Tensor, Tensor], exact: Mapping[str, Tensor]
) -> dict[str, Any]:
    forget_compiled()
    loss = make_loss(name, compiled=compiled)
    with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        found = _with_gradients(loss, inputs, torch.float32)
    errors = {f"{part}_error": relative_error(found[part], exact[part]) for part in exact}
    limit = LOSS_LIMITS[precision]
    return {**errors, "limit": limit, "green": all(error <= limit for error in errors.values())}


def relative_error(found: Tensor, exact: Tensor) -> float:
    """‖found − exact‖ ÷ ‖exact‖; NaN and infinities stay what they are."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def model_gradients(rows: Rows) -> None:
    """A row for each precision and kind of head: all parameters' gradients of one micro-batch.

    Compiled is what trials compile, once: a tied head has the same blocks.
    """
    bench = Bench(rows)
    for tied in (False, True):
        shape = {**bench.scale.gradient_shape, "tie_embeddings": tied}
        batch = _batch(bench, shape["vocab_size"])
        exact: dict[str, Tensor] = {}
        for precision in bench.scale.precisions:
            label = f"{precision}, {'tied' if tied else 'untied'}"
            compiled = precision in bench.scale.compiled_precisions and not tied
            rows.add(label, partial(_model_row, bench, shape, precision, batch, exact, compiled=compiled))


def _batch(bench: Bench, vocab_size: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, bench.scale.gradient_tokens, generator=draw).to(bench.device)
    return tokens, tokens.roll(-1, dims=1)


def _model_row(
    bench: Bench,
    shape: Mapping[str, Any],
    precision: str,
    batch: tuple[Tensor, Tensor],
    exact: dict[str, Tensor],
    *,
    compiled: bool = False,
) -> dict[str, Any]:
    count, seq_len = bench.scale.gradient_tokens
    job = bench.job(shape, precision, batch_size=count, seq_len=seq_len, compile=compiled)
    forget_compiled()
    use_compile_cache(bench.device)
    training = build_training(job=job, device=bench.device, batches=iter([]))
    if not exact:
        exact |= exact_gradients(training.model, derive(shape), batch, seq_len)
    with training.autocast():
        loss = training.model.loss(*batch)
    loss.backward()
    found = {name: parameter.grad for name, parameter in training.model.named_parameters()}
    errors = {name: relative_error(gradient, exact[name]) for name, gradient in found.items()}
    worst = max(errors, key=lambda name: errors[name])
    error = relative_error(_flat(found), _flat(exact))
    return {
        "gradient_error": error,
        "cosine": float(F.cosine_similarity(_flat(found).double(), _flat(exact).double(), dim=0)),
        "worst": worst,
        "worst_error": errors[worst],
        "compiled": compiled,
        "converted": training.report.converted,
        "matmuls": training.report.total,
        "limit": MODEL_LIMITS[job.precision],
        "green": error <= MODEL_LIMITS[job.precision],
    }


def _flat(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def exact_gradients(model: nn.Module, shape: Shape, batch: tuple[Tensor, Tensor], seq_len: int) -> dict[str, Tensor]:
    """Gradients of the plain model in fp64 from `model`'s weights, by `model`'s names."""
    weights = dict(model.named_parameters())
    plain = PlainModel(shape, seq_len).to(batch[0].device, torch.float64)
    theirs = dict(plain.named_parameters())
    names = dict(_counterparts(shape))
    with torch.no_grad():
        for name, parts in names.items():
            sizes = [len(theirs[part]) for part in parts]
            for part, weight in zip(parts, weights[name].double().split(sizes), strict=True):
                theirs[part].copy_(weight)
    plain(*batch).backward()
    return {name: torch.cat([theirs[part].grad for part in parts]) for name, parts in names.items()}


def _counterparts(shape: Shape) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The model's parameter names, and the plain model's that are stacked in each."""
    yield "embedding.weight", ("table.weight",)
    for layer in range(shape.n_layers):
        ours, theirs = f"blocks.{layer}.", f"layers.{layer}."
        yield ours + "attention_norm.weight", (theirs + "norm1.weight",)
        yield ours + "attention.qkv.weight", tuple(f"{theirs}{part}.weight" for part in "qkv")
        yield ours + "attention.out.weight", (theirs + "o.weight",)
        yield ours + "ffn_norm.weight", (theirs + "norm2.weight",)
        yield ours + "ffn.gate_up.weight", (theirs + "gate.weight", theirs + "up.weight")
        yield ours + "ffn.down.weight", (theirs + "down.weight",)
    yield "head.norm.weight", ("norm.weight",)
    if not shape.tie_embeddings:
        yield "head.weight", ("head.weight",)
