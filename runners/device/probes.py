"""What this installation can do, tried out: each probe in a process of its own, which may fail, hang or be slow.

Run as a program it makes one probe and prints what it found as one line of JSON. Imports nothing heavy itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sweeper.values.paths import PACKAGE_PARENT

Facts = Mapping[str, Any]
TIMEOUT_S = 120.0


def run_all(*, timeout_s: float = TIMEOUT_S) -> dict[str, Facts]:
    """The facts of every probe, by name; of one that didn't answer, `{"error": why, in one line}`."""
    with ThreadPoolExecutor(max_workers=len(PROBES)) as pool:
        return dict(zip(PROBES, pool.map(lambda name: run(name, timeout_s=timeout_s), PROBES), strict=True))


def run(name: str, *, timeout_s: float = TIMEOUT_S) -> Facts:
    """The facts of one probe."""
    paths = [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_MODULE_LOADING": "LAZY"}
    try:
        # -P: the folder that it runs in is no place to import from.
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "sweeper.runners.device.probes", name],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {timeout_s:g} s"}
    lines = ran.stdout.strip().splitlines()
    try:
        facts: Facts = json.loads(lines[-1])
    except (IndexError, ValueError):
        said = ran.stderr.strip().splitlines()
        return {"error": f"ended with code {ran.returncode}" + (f": {said[-1]}" if said else "")}
    return facts


def _torch() -> Facts:
    import torch

    from sweeper.model.precision import CUDA_CAPABILITY
    from sweeper.runners.device.compile_cache import use_compile_cache

    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        capability = torch.cuda.get_device_capability(index)
        devices.append(
            {
                "name": torch.cuda.get_device_name(index),
                "capability": list(capability),
                "total_bytes": total,
                "free_bytes": free,
                "fp8": capability >= CUDA_CAPABILITY,
            }
        )
    kernels = Path(use_compile_cache(torch.device("cuda" if devices else "cpu")))
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "devices": devices,
        "kernels": str(kernels),
        "kernels_bytes": _size(kernels),
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _driver() -> str | None:
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text().split() if path.exists() else []
    return next((word for word in words if word[0].isdigit() and "." in word), None)


def _torchao() -> Facts:
    if importlib.util.find_spec("torchao") is None:
        return {"version": None}
    import torchao
    import torchao.float8

    return {"version": torchao.__version__}


def _transformer_engine() -> Facts:
    if importlib.util.find_spec("transformer_engine") is None:
        return {"version": None}
    import transformer_engine
    import transformer_engine.pytorch

    return {"version": str(transformer_engine.__version__)}


def _compile() -> Facts:
    """Compiles anew, in an empty cache: what was compiled once says nothing about the compiler."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        import torch
        from torch._inductor import config

        from sweeper.runners.device.compiler_paths import quote_library_paths

        quote_library_paths()
        config.cpp_cache_precompile_headers = False  # they pay off from the second kernel on
        device = "cuda" if torch.cuda.is_available() else "cpu"
        x = torch.ones(256, 64, device=device)
        start = time.perf_counter()
        torch.compile(lambda x: torch.nn.functional.silu(x) * x, fullgraph=True)(x)
        return {"device": device, "seconds": time.perf_counter() - start}


def _data() -> Facts:
    from sweeper.runners.data.cache import cache_dir
    from sweeper.runners.data.corpus import EMBEDDED, find_summary

    corpora = {}
    for name in EMBEDDED:
        files, _ = find_summary(name, None)
        corpora[name] = {"files": len(files), "bytes": sum(file.size for file in files)}
    cache = cache_dir()
    used = sum(_size(cache / name) for name in ("inventories", "tokens", "shards"))
    return {"corpora": corpora, "cache": str(cache), "cache_bytes": used}


PROBES: Mapping[str, Callable[[], Facts]] = {
    "torch": _torch,
    "torchao": _torchao,
    "transformer_engine": _transformer_engine,
    "compile": _compile,
    "data": _data,
}


def main(name: str) -> None:
    """Make one probe and print what it found."""
    try:
        # What a library prints while it is imported is no part of the answer.
        with contextlib.redirect_stdout(sys.stderr):
            facts = PROBES[name]()
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines()
        facts = {"error": ": ".join([type(error).__name__, *lines[:1]])}
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
