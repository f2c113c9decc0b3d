"""What a compiled layer and the head hold on this device, against what a plan predicts of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gpu_steps.jobs import Bench
from gpu_steps.rows import Rows
from sweeper.model.compile import forget_compiled
from sweeper.planning.estimates import fp8_matmuls, head_bytes, layer_bytes_per_token
from sweeper.runners.training.training import Training, build_training

CLOSE = 0.05
SEQUENCES = 4
PRECISIONS = ("bf16", "fp32", "fp8 torchao", "fp8 torchao, all")


def activations(rows: Rows) -> None:
    """A row for each precision: what one layer keeps for its backward pass; on CUDA one for the head at its peak."""
    bench = Bench(rows)
    for precision in PRECISIONS:
        rows.add(f"layer, {precision}", partial(_layer, bench, precision), least_s=bench.scale.row_s)
    for precision in ("bf16", "fp32") if bench.device.type == "cuda" else ():
        rows.add(f"head, {precision}", partial(_head, bench, precision), least_s=bench.scale.row_s)


def _training(bench: Bench, precision: str) -> Training:
    forget_compiled()
    job = bench.job({**bench.scale.flagship, "n_layers": 1}, precision, batch_size=SEQUENCES)
    return build_training(job=job, device=bench.device, batches=iter([]))


def _stream(bench: Bench, training: Training) -> Tensor:
    width = training.job.config.shape.d_model
    return torch.randn(SEQUENCES, bench.scale.seq_len, width, device=bench.device, requires_grad=True)


def _layer(bench: Bench, precision: str) -> dict[str, Any]:
    """Tensors that the graph of the backward pass holds, each memory once; on CUDA what the allocator gave out, too."""
    training = _training(bench, precision)
    model, x_BTD = training.model, _stream(bench, training)
    run = partial(model.blocks[0], x_BTD, model.cos_TC, model.sin_TC)
    with training.autocast():
        run()  # what compiling itself allocates is gone by now
        before = _allocated(bench)
        y_BTD = run()
    after = _allocated(bench)
    weights = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    kept = {
        memory.data_ptr(): memory.nbytes()
        for tensor in y_BTD.grad_fn.saved_tensors
        if (memory := tensor.untyped_storage()).data_ptr() not in weights
    }
    shape, recipe = training.job.config.shape, training.job.config.recipe
    in_fp8 = fp8_matmuls(
        shape, precision=recipe.precision, seq_len=recipe.seq_len, backend=recipe.fp8_backend,
        layer_filter=recipe.fp8_filter,
    )  # fmt: skip
    width = 4 if recipe.precision == "fp32" else 2
    copies = width == 2 and 2 * sum(k * n * (not in_fp8[name]) for name, (k, n) in shape.matmuls().items())
    predicted = copies + layer_bytes_per_token(shape, width=width, in_fp8=in_fp8) * x_BTD.shape[:2].numel()
    return _estimates(sum(kept.values()), predicted) | {
        # The layer's own output stands here for its input, which is the output of the layer before.
        "allocated_bytes": None if before is None or after is None else after - before,
        "copies_bytes": int(copies),
        "memories": len(kept),
    }


def _head(bench: Bench, precision: str) -> dict[str, Any]:
    """The highest that the allocator gave out in the final norm, the loss and their backward pass."""
    training = _training(bench, precision)
    head, x_BTD = training.model.head, _stream(bench, training)
    shape = training.job.config.shape
    targets_BT = torch.randint(shape.vocab_size, x_BTD.shape[:2], device=bench.device)

    def step() -> None:
        with training.autocast():
            loss = head.loss(x_BTD, targets_BT)
        loss.backward()

    step()
    _forget_gradients(x_BTD, *head.parameters())
    before = torch.cuda.memory_allocated(bench.device) - x_BTD.untyped_storage().nbytes()
    torch.cuda.reset_peak_memory_stats(bench.device)
    step()
    measured = torch.cuda.max_memory_allocated(bench.device) - before
    _forget_gradients(x_BTD, *head.parameters())
    width = 4 if precision == "fp32" else 2
    copies = 0 if precision == "fp32" else 2 * shape.vocab_size * shape.d_model
    return _estimates(measured, copies + head_bytes(shape, width=width, tokens=x_BTD.shape[:2].numel()))


def _forget_gradients(*tensors: Tensor | nn.Parameter) -> None:
    for tensor in tensors:
        tensor.grad = None


def _allocated(bench: Bench) -> int | None:
    return torch.cuda.memory_allocated(bench.device) if bench.device.type == "cuda" else None


def _estimates(measured: int, predicted: float) -> dict[str, Any]:
    ratio = predicted / measured
    return {
        "measured_bytes": measured,
        "predicted_bytes": round(predicted),
        "predicted_to_measured": round(ratio, 4),
        "green": abs(ratio - 1) <= CLOSE,
    }
