"""Which cross-entropy is fastest here, and what it holds in memory: forward and backward of the head alone.

    python benchmarks/loss_variants.py [--device cpu|cuda] [--windows N] [--out FILE]

`padded` rounds an odd vocabulary up to a multiple of 64 for the matmul, with a zero row for each word that isn't there.
Variants take turns, so that a noisy machine disturbs all alike; ratios are paired. Memory is the peak beyond what was
there before: reserved by the allocator on CUDA, resident in the process elsewhere.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from provenance import RESULTS, provenance

from sweeper.model.compile import forget_compiled
from sweeper.model.loss import ChunkedLoss, gradients_in_place, make_loss
from sweeper.runners.device.host_memory import keep_freed_memory, return_freed_memory
from sweeper.runners.device.measuring import device_kind, peak_memory_bytes, reset_peak_memory, synchronise

CASES = {
    "cpu": [(256, 96, 2048), (4096, 192, 4096), (32768, 256, 2048), (4099, 192, 4096), (32771, 256, 2048)],
    "cuda": [(32768, 768, 8192), (32768, 768, 32768), (50257, 768, 16384)],
}
"""Vocabulary, width, rows."""
VARIANTS = ("full", "linear", "chunked")
PADDED = ("full, padded", "chunked, padded")
MULTIPLE = 64


def linear_loss(x_ND, weight_VD, targets_N):
    """torch's chunked operator. AttributeError before torch 2.13."""
    device = x_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_ND.dtype
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(x_ND.to(dtype), weight_VD.to(dtype), targets_N, options=options)


def padded(name, vocab_size):
    """The variant over a table with zero rows beyond the vocabulary, whose logits count for nothing."""
    more = -vocab_size % MULTIPLE

    def full(x_ND, weight_VD, targets_N):
        logits = F.linear(x_ND, F.pad(weight_VD, (0, 0, 0, more)))
        return F.cross_entropy(logits[:, :vocab_size].float(), targets_N)

    def gradients(logits_NV, targets_N, scale):
        loss = gradients_in_place(logits_NV[:, :vocab_size], targets_N, scale)
        logits_NV[:, vocab_size:] = 0
        return loss

    if name == "full":
        return torch.compile(full, fullgraph=True, dynamic=False)
    chunked = ChunkedLoss(compiled=False)
    chunked.gradients = torch.compile(gradients, fullgraph=True, dynamic=False)
    return lambda x_ND, weight_VD, targets_N: chunked(x_ND, F.pad(weight_VD, (0, 0, 0, more)), targets_N)


def variant(name, vocab_size):
    """The loss called `name`, compiled. AttributeError where this torch doesn't have it."""
    if name == "linear":
        return linear_loss
    kind, _, is_padded = name.partition(", ")
    return padded(kind, vocab_size) if is_padded else make_loss(kind, compiled=True)


def trainer(name, *, vocab_size, width, rows, device):
    """A function that does one forward and backward pass."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=draw).to(device).requires_grad_()
    weight = (torch.randn(vocab_size, width, generator=draw) * 0.02).to(device).requires_grad_()
    targets = torch.randint(vocab_size, (rows,), generator=draw).to(device)
    loss = variant(name, vocab_size)

    def step():
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            value = loss(x, weight, targets)
        value.backward()
        x.grad = weight.grad = None

    return step


def seconds(step, count, device):
    """Of one pass, over `count`."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    synchronise(device)
    return (time.perf_counter() - start) / count


def peak(step, device):
    """Bytes of one pass beyond what was there."""
    return_freed_memory()
    reset_peak_memory(device)
    before = peak_memory_bytes(device)
    step()
    return peak_memory_bytes(device) - before


def measure(case, device, windows):
    """Milliseconds, ratio to the full loss (paired) and peak bytes of each variant that this torch has."""
    vocab_size, width, rows = case
    forget_compiled()
    steps = {}
    for name in VARIANTS + PADDED * (vocab_size % MULTIPLE > 0):
        try:
            steps[name] = trainer(name, vocab_size=vocab_size, width=width, rows=rows, device=device)
            steps[name]()
        except AttributeError:
            del steps[name]
    memory = {name: peak(step, device) for name, step in steps.items()}
    count = max(1, round(0.3 / max(seconds(steps["full"], 2, device), 1e-6)))
    taken = {name: [] for name in steps}
    for window in range(windows):
        for name in list(steps) if window % 2 else reversed(steps):
            taken[name].append(seconds(steps[name], count, device))
    return {
        name: {
            "ms": round(1000 * statistics.median(taken[name]), 3),
            "speed_to_full": round(
                statistics.median(f / t for f, t in zip(taken["full"], taken[name], strict=True)), 3
            ),
            "peak_bytes": memory[name],
        }
        for name in steps
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--windows", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "loss_variants.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    keep_freed_memory()
    result = {**provenance("torch", "triton"), "device": device_kind(device), "cases": []}
    for case in CASES[arguments.device]:
        figures = measure(case, device, arguments.windows)
        result["cases"].append({"vocab_size": case[0], "d_model": case[1], "rows": case[2], "variants": figures})
        print(case, figures, flush=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
