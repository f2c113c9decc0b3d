"""Below the trial: where a step's time goes, and what losses and attention backends cost by themselves."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import loss_variants
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity

from gpu_steps.jobs import Bench
from gpu_steps.rows import Rows, Unavailable
from gpu_steps.scale import SCALES
from gpu_steps.speed import best_micro_batch
from sweeper.model.compile import forget_compiled
from sweeper.model.shape import derive
from sweeper.runners.data.dataset import open_data, train_batches
from sweeper.runners.device.compile_cache import use_compile_cache
from sweeper.runners.device.measuring import synchronise
from sweeper.runners.training.training import build_training

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
KINDS = (
    ("loss", ("nll_loss", "log_softmax", "logsumexp", "cross_entropy")),
    ("compiled elementwise and reductions", ("triton_", "cpp_fused", "compiledfxgraph")),
    ("optimizer and clipping", ("multi_tensor", "adam", "lpnorm", "foreach_norm")),
    ("attention", ("flash", "fmha", "sdpa", "attention")),
    ("embedding", ("embedding", "indexselect", "index_select", "radixsort")),
    ("matmul", ("gemm", "nvjet", "cutlass", "cublas", "splitk", "gemv", "::mm", "::addmm", "::bmm", "::_scaled_mm")),
    ("copies", ("memcpy", "memset", "copy")),
    ("uncompiled elementwise and reductions", ("elementwise", "reduce", "aten::")),
)
"""Kinds of kernel by what is in their names; the first that fits counts."""
TOP = 25
PROFILED_STEPS = 2
WARM_UP_STEPS = 3
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


def profile(rows: Rows) -> None:
    """The flagship's steps at its fastest micro-batch, in bf16 and in FP8, and those of a small shape."""
    bench, scale = Bench(rows), SCALES[rows.task.device]
    sizes = {"batch_size": best_micro_batch(rows, bench), "tokens_per_step": scale.tokens_per_step}
    for precision in scale.speed_precisions:
        rows.add(precision, partial(_profile, bench, scale.flagship, precision, **sizes), least_s=scale.row_s)
    recipe = scale.chain_recipe
    small = {"batch_size": recipe["tokens_per_step"] // recipe["seq_len"], "seq_len": recipe["seq_len"]}
    rows.add("small, bf16", partial(_profile, bench, scale.chain_shape, "bf16", **small), least_s=scale.row_s)


def _profile(bench: Bench, shape: Mapping[str, Any], precision: str, **sizes: int) -> dict[str, Any]:
    batch_size = sizes["batch_size"]
    job = bench.job(shape, precision, **sizes)
    forget_compiled()
    use_compile_cache(bench.device)
    vocab_size = job.config.shape.vocab_size
    batches = train_batches(open_data("made-up", job.data_path, vocab_size), seed=0, batch_size=batch_size,
                            seq_len=job.config.recipe.seq_len, device=bench.device)  # fmt: skip
    on_device = bench.device.type == "cuda"
    activities = [ProfilerActivity.CUDA if on_device else ProfilerActivity.CPU]
    with contextlib.closing(batches):
        training = build_training(job=job, device=bench.device, batches=batches)
        training.timed_steps(WARM_UP_STEPS)
        alone_s = training.timed_steps(PROFILED_STEPS) / PROFILED_STEPS
        with torch.profiler.profile(activities=activities) as profiler:
            watched_s = training.timed_steps(PROFILED_STEPS) / PROFILED_STEPS
    work = _device_work(profiler, bench.rows.folder) if on_device else _processor_work(profiler)
    return {"batch_size": batch_size, "step_ms": 1000 * alone_s, "step_ms_profiled": 1000 * watched_s, **work}


def _device_work(profiler: Any, folder: Path) -> dict[str, Any]:
    """What the device did, from the trace: its kernels and copies, and how long none of them ran."""
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("cat") in DEVICE_WORK]
    trace.unlink()
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in events)
    busy = covered(spans)
    span = max(end for _, end in spans) - spans[0][0]
    found = summary((event["name"], event["dur"], 1) for event in events)
    return {"idle_share": round(1 - busy / span, 4), "launches": len(events) // PROFILED_STEPS, **found}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans, which come by their starts."""
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _processor_work(profiler: Any) -> dict[str, Any]:
    averages = profiler.key_averages()
    return summary((entry.key, entry.self_cpu_time_total, entry.count) for entry in averages)


def summary(work: Iterable[tuple[str, float, int]]) -> dict[str, Any]:
    """Shares of the time by kind, and the names that took most, from (name, microseconds, count) of all that ran."""
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for name, microseconds, count in work:
        times[name] += microseconds
        counts[name] += count
        kinds[kind_of(name)] += microseconds
    whole = sum(times.values())
    top = [
        {"name": name[:160], "kind": kind_of(name), "share": round(spent / whole, 4),
         "ms_a_step": round(spent / 1000 / PROFILED_STEPS, 3), "count_a_step": counts[name] / PROFILED_STEPS}
        for name, spent in times.most_common(TOP)
    ]  # fmt: skip
    return {"shares": {kind: round(spent / whole, 4) for kind, spent in kinds.most_common()}, "top": top}


def kind_of(name: str) -> str:
    """The kind of kernel that a name belongs to."""
    low = name.lower()
    return next((kind for kind, signs in KINDS if any(sign in low for sign in signs)), "other")


def losses(rows: Rows) -> None:
    """`benchmarks/loss_variants.py` for this device's sizes, or for the toys."""
    bench = Bench(rows)
    cuda = bench.device.type == "cuda"
    for case in loss_variants.CASES["cuda"] if cuda else bench.scale.loss_cases:
        label = " × ".join(map(str, case))
        measure = partial(loss_variants.measure, case, bench.device, 9 if cuda else 3)
        rows.add(label, measure, least_s=bench.scale.row_s)


def attention(rows: Rows) -> None:
    """Forward and backward as trials run it, by the kernel that torch chooses, and by each backend."""
    bench = Bench(rows)
    settings = {"as in trials": contextlib.nullcontext}
    settings |= {name: partial(sdpa_kernel, backend) for name, backend in BACKENDS.items()}
    for name, setting in settings.items():
        rows.add(name, partial(_timed_attention, bench, setting))


def _timed_attention(bench: Bench, setting: Callable[[], contextlib.AbstractContextManager[Any]]) -> dict[str, Any]:
    batch_size = bench.scale.micro_batches[0]
    q, k, v = attention_inputs(bench, batch_size=batch_size)
    step, grouped = attention_step(q, k, v), q.shape[1] != k.shape[1]
    try:
        with setting():
            picked = SDPBackend(torch._fused_sdp_choice(q, k, v, is_causal=True, enable_gqa=grouped)).name.lower()
            taken = seconds(step, bench.device)
    except RuntimeError as error:
        raise Unavailable(str(error).splitlines()[0]) from error
    shape, length = derive(bench.scale.flagship), bench.scale.seq_len
    # Two products forward and five backward (2307.08691 §4.1), of each the causal half.
    flops = 7 * batch_size * shape.n_heads * length**2 * shape.head_dim
    figures = {"ms": round(1000 * taken, 4), "tflops_per_s": flops / taken / 1e12, "batch_size": batch_size}
    return {"picked": picked, **figures}


def attention_inputs(bench: Bench, *, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as the model's attention has them: (B, heads, T, C) in bf16, grouped queries."""
    shape = derive(bench.scale.flagship)
    parts = (
        torch.randn(batch_size, bench.scale.seq_len, heads, shape.head_dim, device=bench.device, dtype=torch.bfloat16)
        for heads in (shape.n_heads, shape.n_kv_heads, shape.n_kv_heads)
    )
    q, k, v = (part.transpose(1, 2).requires_grad_() for part in parts)
    return q, k, v


def attention_step(q: Tensor, k: Tensor, v: Tensor) -> Callable[[], None]:
    """One forward and backward pass."""
    gradient = torch.randn_like(q)

    def step() -> None:
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        torch.autograd.grad(mixed, (q, k, v), gradient)

    return step


def seconds(work: Callable[[], object], device: torch.device, *, repeats: int = 7, least_s: float = 0.02) -> float:
    """The median time of one call, over windows long enough to be read off a clock, after two calls of warm-up."""
    work()
    count = max(1, round(least_s / max(_window(work, device, 1), 1e-7)))
    return statistics.median(_window(work, device, count) for _ in range(repeats)) / count


def _window(work: Callable[[], object], device: torch.device, count: int) -> float:
    synchronise(device)
    start = time.perf_counter()
    for _ in range(count):
        work()
    synchronise(device)
    return time.perf_counter() - start
