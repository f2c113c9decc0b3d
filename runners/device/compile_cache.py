"""Where compiled kernels are kept between processes: one folder per device type and version of torch and Triton.

    <cache>/compile/<device>-torch<version>-triton<version>/          Inductor's; Triton's own below it

A kernel is only ever read back by what made it, and what is stale can be deleted as a folder.
"""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from sweeper.runners.data.cache import cache_dir
from sweeper.runners.device.compiler_paths import quote_library_paths
from sweeper.runners.device.measuring import device_name
from sweeper.values.home import may_write

_INDUCTOR, _TRITON = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
_ours: dict[str, str] = {}


def compile_dir(device: torch.device) -> Path:
    """The folder for kernels of this device."""
    kind = device_name(device)
    if device.type == "cpu":
        kind += f" {torch.backends.cpu.get_cpu_capability()}"
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    return cache_dir() / "compile" / _plain(f"{kind}-torch{torch.__version__}-triton{triton}")


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text)


def use_compile_cache(device: torch.device) -> str:
    """Have what is compiled from now on kept in this device's folder; returns where.

    Each of the two settings that the user has made for himself (TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR) stays,
    unless that can't be written.
    Where the folder can't be made or written, torch's own default stays too, and where its path has white space:
    Inductor hands it to the C++ compiler unquoted.
    """
    quote_library_paths()
    folder = compile_dir(device)
    if any(letter.isspace() for letter in str(folder)):
        return os.environ.get(_INDUCTOR, "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return os.environ.get(_INDUCTOR, "")
    if not may_write(folder):
        return os.environ.get(_INDUCTOR, "")
    for name, value in ((_INDUCTOR, folder), (_TRITON, folder / "triton")):
        now = os.environ.get(name)
        if now in (None, _ours.get(name), _torchs_own(name)) or not may_write(Path(now)):
            os.environ[name] = _ours[name] = str(value)
    return os.environ[_INDUCTOR]


def _torchs_own(name: str) -> str | None:
    """What Inductor has put into the environment by itself, which it does as soon as it is imported."""
    module = sys.modules.get("torch._inductor.runtime.cache_dir_utils")
    return module.default_cache_dir() if module is not None and name == _INDUCTOR else None
