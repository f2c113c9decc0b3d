"""What this machine is and can do, as far as the other steps' figures depend on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
from functools import partial
from typing import Any

import torch
from torch.nn.attention import sdpa_kernel

from gpu_steps import expected
from gpu_steps.jobs import Bench
from gpu_steps.kernels import BACKENDS, attention_inputs, attention_step, seconds
from gpu_steps.rows import Rows, Unavailable
from sweeper.model.precision import fp8_lacks

PACKAGES = ("torch", "triton", "torchao", "transformer_engine", "transformers", "numpy", "ray", "mlflow", "pydantic",
            "psutil", "tokenizers", "pynvml")  # fmt: skip
QUERY = ("name", "driver_version", "memory.total", "memory.used", "clocks.sm", "clocks.mem", "clocks.max.sm",
         "temperature.gpu", "power.draw", "power.limit")  # fmt: skip


def machine(rows: Rows) -> None:
    """Facts first, then what can be tried."""
    bench = Bench(rows)
    rows.add("packages", _packages)
    rows.add("device", lambda: _device(bench))
    rows.add("nvidia-smi", _nvidia_smi)
    for backend in ("torchao", "transformer_engine"):
        rows.add(f"fp8 by {backend}", partial(_fp8, bench, backend))
    for name in BACKENDS:
        rows.add(f"attention by {name}", partial(_attention, bench, name))
    rows.add("ceilings", lambda: _ceilings(bench))


def _packages() -> dict[str, Any]:
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    """Its version, "without a version" where it's there but not installed as a package, None where it isn't."""
    try:
        if importlib.util.find_spec(name) is None:
            return None
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "without a version"
    except (ImportError, ValueError):
        return None


def _device(bench: Bench) -> dict[str, Any]:
    common = {"threads": torch.get_num_threads(), "cuda": torch.version.cuda}
    if bench.device.type != "cuda":
        return common
    properties = torch.cuda.get_device_properties(bench.device)
    free, total = torch.cuda.mem_get_info(bench.device)
    return common | {
        "name": properties.name,
        "capability": list(torch.cuda.get_device_capability(bench.device)),
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "total_bytes": total,
        "used_by_others_and_the_context_bytes": total - free - torch.cuda.memory_reserved(bench.device),
        "cudnn": torch.backends.cudnn.version(),
    }


def _nvidia_smi() -> dict[str, Any]:
    if shutil.which("nvidia-smi") is None:
        raise Unavailable("no nvidia-smi here")
    answer = _asked("--query-gpu=" + ",".join(QUERY), "--format=csv,noheader")
    processes = _asked("--query-compute-apps=used_memory", "--format=csv,noheader")
    return {
        **dict(zip(QUERY, (value.strip() for value in answer.splitlines()[0].split(",")), strict=False)),
        "compute_processes": len(processes.splitlines()),
    }


def _asked(*options: str) -> str:
    command = ["nvidia-smi", "--id=0", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


def _fp8(bench: Bench, backend: Any) -> dict[str, Any]:
    if lacking := fp8_lacks(backend, bench.device):
        raise Unavailable(lacking)
    return {"there": True}


def _attention(bench: Bench, name: str) -> dict[str, Any]:
    inputs = attention_inputs(bench, batch_size=1)
    try:
        with sdpa_kernel(BACKENDS[name]):
            attention_step(*inputs)()
    except RuntimeError as error:
        raise Unavailable(str(error).splitlines()[0]) from error
    return {"there": True}


def _ceilings(bench: Bench) -> dict[str, Any]:
    """What large bf16 and FP8 products and a large copy reach: the device's own limits, measured on random data.

    Expected are shares of the H200's datasheet, on that card.
    """
    size, copied = (8192, 2**30) if bench.device.type == "cuda" else (256, 2**20)
    a, b = (torch.randn(size, size, device=bench.device).bfloat16() for _ in range(2))
    source = torch.ones(copied, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    found = {
        "bf16_tflops": round(2e-12 * size**3 / seconds(lambda: a @ b, bench.device), 1),
        "copy_tb_per_s": round(2e-12 * copied / seconds(lambda: target.copy_(source), bench.device), 3),
    }
    if bench.device.type == "cuda" and torch.cuda.get_device_capability(bench.device) >= (8, 9):
        one = torch.ones((), device=bench.device)
        a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        product = seconds(
            lambda: torch._scaled_mm(a8, b8, one, one, out_dtype=torch.bfloat16, use_fast_accum=True), bench.device
        )
        found["fp8_tflops"] = round(2e-12 * size**3 / product, 1)
    if bench.device.type == "cuda" and torch.cuda.get_device_name(bench.device) == expected.CARD:
        told = expected.CEILINGS.items()
        found |= {f"expected_{name}": round(share * expected.DATASHEET[name], 2) for name, share in told}
    return found
