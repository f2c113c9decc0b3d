"""What only a CUDA device can show: each row settles one question that reading left open."""

from __future__ import annotations

from typing import Any

import torch

from gpu_steps import ahead
from gpu_steps.jobs import Bench, figures, measured, outcome
from gpu_steps.rows import Rows, Unavailable
from gpu_steps.scale import SCALES
from sweeper.runners.device.memory import tensor_bytes

JOBS = 3
LEAK_BYTES = 2**20
UNFUSED = "math"
PREDICTED_WITHIN = 0.15


def settled(rows: Rows) -> None:
    """Living bytes after each of three jobs; fp32 with grouped queries; memory beside the allocator."""
    bench = Bench(rows)
    rows.add("memory beside the allocator", lambda: _beside(bench))
    rows.add("living bytes after each job", lambda: _living(bench))
    rows.add("fp32 with grouped queries", lambda: _grouped_in_fp32(bench))


def activations(rows: Rows) -> None:
    """What a layer and the head hold against the prediction; their kernels are compiled side by side first."""
    from gpu_steps.activations import PRECISIONS, SEQUENCES
    from gpu_steps.activations import activations as measure

    scale = SCALES[rows.task.device]
    if scale.compiled:
        sizes = {"batch_size": SEQUENCES, "seq_len": scale.seq_len}
        left = [one for one in PRECISIONS if f"layer, {one}" not in rows.rows]
        ahead.compile_ahead(rows, [ahead.Ahead(shape=scale.flagship, precision=one, **sizes) for one in left])
    measure(rows)


def _beside(bench: Bench) -> dict[str, Any]:
    """Context and loaded kernels: what the device has in use that the allocator doesn't hold, before and after jobs."""
    if bench.device.type != "cuda":
        raise Unavailable("only a CUDA device holds memory beside torch's allocator")
    torch.cuda.init()
    begun = _beside_bytes(bench.device)
    measured(bench.job(bench.scale.gradient_shape, "bf16", batch_size=4, compile=False))
    eager = _beside_bytes(bench.device)
    count, seq_len = bench.scale.gradient_tokens
    measured(bench.job(bench.scale.gradient_shape, "bf16", batch_size=count, seq_len=seq_len))
    return {
        "at_first_bytes": begun,
        "after_a_job_bytes": eager,
        "after_a_compiled_job_bytes": _beside_bytes(bench.device),
        "expected": "500 to 700 MB: a Hopper context, and cuBLAS's and cuDNN's kernels as they are loaded",
    }


def _beside_bytes(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return total - free - torch.cuda.memory_reserved(device)


def _living(bench: Bench) -> dict[str, Any]:
    """Bytes alive after each job, and what the records say of them; cuBLAS's workspaces are no tensors of a job's.

    Expected, from the code: 32 MiB a handle on Hopper (torch's default workspace there), one for the forward and one
    for the backward thread, until they are cleared.
    """
    living, notes = [], []
    for _ in range(JOBS):
        found = figures(outcome(bench.job(bench.scale.gradient_shape, "bf16", batch_size=4, compile=False)))
        living.append(tensor_bytes(bench.device))
        notes += [note for note in found["environment"].get("notes", ()) if "left" in note]
    cleared = None
    if bench.device.type == "cuda":
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        cleared = tensor_bytes(bench.device)
    return {
        "after_each": living,
        "after_clearing_workspaces": cleared,
        "doubts": notes,
        "green": not notes and max(living[1:]) <= living[0] + LEAK_BYTES,
    }


def _grouped_in_fp32(bench: Bench) -> dict[str, Any]:
    """Which kernel fp32 attention runs on, and whether its memory is what was predicted: T × T scores would double it.

    Expected, from the code: a fused kernel and a ratio of about 1, with keys and values expanded where none takes
    grouped queries.
    """
    shape = {**bench.scale.gradient_shape, "n_layers": 4}
    found = measured(bench.job(shape, "fp32", batch_size=bench.scale.fp32_micro_batch, compile=False))
    kernel, ratio = found["environment"]["attention"], found["peak_to_predicted"]
    told = ratio is None or abs(ratio - 1) <= PREDICTED_WITHIN
    right = kernel != UNFUSED and told
    return found | {"kernel": kernel, "expected_peak_to_predicted": 1.0, "green": right or bench.device.type == "cpu"}
