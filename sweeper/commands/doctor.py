"""What this machine can do for a study, and how to mend what is missing: findings, from facts that probes bring."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sqlite3
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeper.commands.terminal import console
from sweeper.tracking.store_uri import sqlite_file
from sweeper.tracking.tracker import default_uri, refusal
from sweeper.values.findings import Finding, can_run
from sweeper.values.home import may_write, nearest
from sweeper.values.labels import gibibytes
from sweeper.values.machine import cpu_count, devices_left, devices_present
from sweeper.values.records import SCHEMA

Facts = Mapping[str, Any]
PACKAGES = (
    "numpy", "tokenizers", "safetensors", "pydantic", "yaml", "rich", "jinja2", "matplotlib", "scipy", "moocore",
    "psutil",
)  # fmt: skip
"""What every study needs besides torch."""
LITTLE_DISK_BYTES = 5 * 2**30
LITTLE_MEMORY_BYTES = 2 * 2**30
STORE_TIMEOUT_S = 5.0


def examine(facts: Mapping[str, Facts], *, runs: Path, tracking_uri: str) -> list[Finding]:
    """All findings, in the order in which they are read. `facts` are those of `sweeper.runners.device.probes`, by name.

    `runs` is where run folders go.
    """
    torch, devices = facts["torch"], facts["torch"].get("devices", [])
    return [
        _python(),
        _torch(torch),
        _packages(),
        _cuda(torch, present=devices_present()),
        _fp8(torch),
        _torchao(facts["torchao"]),
        _transformer_engine(facts["transformer_engine"], cuda=bool(devices)),
        _compiler(facts["compile"]),
        _ray(),
        _mlflow(tracking_uri),
        _cores_and_memory(),
        _data(facts["data"]),
        _folder("results", runs, instead="--out"),
        *_cache("data cache", facts["data"], "cache", instead="SWEEPER_CACHE_DIR"),
        *_cache("compile cache", torch, "kernels", instead="TORCHINDUCTOR_CACHE_DIR"),
    ]


def doctor_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """`sweeper doctor --json`."""
    return {"schema": SCHEMA, "can_run": can_run(findings), "findings": [asdict(finding) for finding in findings]}


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding(name="Python", state="ok", found=found)


def _torch(facts: Facts) -> Finding:
    if error := facts.get("error"):
        return Finding(
            name="torch",
            state="wrong",
            found=error,
            mend="make install; on a GPU machine first the build of torch for your CUDA: pytorch.org/get-started",
            needed=True,
        )
    return Finding(name="torch", state="ok", found=facts["version"], needed=True)


def _packages() -> Finding:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        mend = "make install, or pip install -c constraints.txt ."
        return Finding(name="packages", state="wrong", found=f"missing: {', '.join(missing)}", mend=mend, needed=True)
    return Finding(name="packages", state="ok", found=f"all {len(PACKAGES)} that trials and reports need", needed=True)


def _cuda(torch: Facts, *, present: int) -> Finding:
    devices = torch.get("devices", [])
    if devices:
        said = [
            f"{device['name']} (capability {'.'.join(map(str, device['capability']))}, "
            f"{gibibytes(device['total_bytes'])}, {gibibytes(device['free_bytes'])} free)"
            for device in devices
        ]
        driver = f"; driver {torch['driver']}" if torch.get("driver") else ""
        return Finding(name="CUDA", state="ok", found=f"{'; '.join(said)}{driver}; torch for CUDA {torch['cuda']}")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and present and not devices_left(hidden, present=present):
        found = f"CUDA_VISIBLE_DEVICES is {hidden.strip() or 'empty'}: studies run on the CPU"
        return Finding(name="CUDA", state="absent", found=found, mend="unset it")
    if not present:
        return Finding(name="CUDA", state="absent", found="no NVIDIA device: studies run on the CPU")
    if torch.get("cuda") is None:
        found = f"a device is there, but torch {torch.get('version', '')} was built without CUDA"
        return Finding(name="CUDA", state="wrong", found=found, mend="install torch for CUDA: pytorch.org/get-started")
    found = f"a device is there, but torch for CUDA {torch['cuda']} can't use it (driver {torch.get('driver')})"
    mend = "update the driver, or install torch for an older CUDA; nvidia-smi should list the device"
    return Finding(name="CUDA", state="wrong", found=found, mend=mend)


def _fp8(torch: Facts) -> Finding:
    devices = torch.get("devices", [])
    able = [device["name"] for device in devices if device["fp8"]]
    if devices and len(able) == len(devices):
        return Finding(name="FP8", state="ok", found="in hardware")
    found = "emulated: the numbers are FP8's, the speed is not (hardware from capability 8.9: Ada, Hopper, Blackwell)"
    return Finding(name="FP8", state="absent", found=found)


def _torchao(facts: Facts) -> Finding:
    if error := facts.get("error"):
        return Finding(name="torchao", state="wrong", found=error, mend="pip install -c constraints.txt torchao")
    if facts["version"] is None:
        found = "not installed: precision fp8 and auto won't run"
        return Finding(name="torchao", state="wrong", found=found, mend="pip install -c constraints.txt torchao")
    return Finding(name="torchao", state="ok", found=facts["version"])


def _transformer_engine(facts: Facts, *, cuda: bool) -> Finding:
    name, mend = "transformer-engine", "pip install --no-build-isolation '.[transformer-engine]'"
    if error := facts.get("error"):
        return Finding(
            name=name,
            state="wrong" if cuda else "absent",
            found=f"installed, but can't be imported: {error}",
            mend=mend,
        )
    if facts["version"] is None:
        found = "not installed: fp8_backend is torchao" if cuda else "not installed; it needs a CUDA device"
        return Finding(name=name, state="absent", found=found, mend=mend if cuda else "")
    return Finding(name=name, state="ok", found=facts["version"])


def _compiler(facts: Facts) -> Finding:
    if error := facts.get("error"):
        return Finding(
            name="torch.compile",
            state="wrong",
            found=error,
            mend="install a C++ compiler (apt install g++; on CUDA also triton), or study with compile: false",
        )
    target = "CUDA" if facts["device"] == "cuda" else "the CPU"
    return Finding(name="torch.compile", state="ok", found=f"a first kernel for {target} in {facts['seconds']:.0f} s")


def _ray() -> Finding:
    return _installed(
        "Ray", "ray", missing="not installed: studies run one trial at a time, with --runner in-process",
        mend="pip install -c constraints.txt 'ray[tune]'",
    )  # fmt: skip


def _installed(name: str, package: str, *, missing: str, mend: str) -> Finding:
    try:
        return Finding(name=name, state="ok", found=importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, state="wrong", found=missing, mend=mend)


def _mlflow(uri: str) -> Finding:
    installed = _installed(
        "MLflow", "mlflow", missing="not installed: no curves, and sweeper ui has no pages",
        mend="pip install -c constraints.txt mlflow",
    )  # fmt: skip
    if installed.state != "ok":
        return installed
    fault = _store_fault(uri)
    if fault:
        mend = "results are safe in the ledger; mend the store, or name another with MLFLOW_TRACKING_URI"
        return Finding(name="MLflow", state="wrong", found=f"{installed.found}, store {uri}: {fault}", mend=mend)
    return Finding(name="MLflow", state="ok", found=f"{installed.found}, store {uri}")


def _store_fault(uri: str) -> str:
    """Why MLflow's store can't be used, "" where it can, or where that can't be told from here."""
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=STORE_TIMEOUT_S):
                return ""
        except (OSError, ValueError) as error:
            return f"doesn't answer ({getattr(error, 'reason', error)})"
    file = sqlite_file(uri)
    if file is None:
        return refusal(uri)
    if not file.exists():
        return "" if may_write(file.parent) else f"{file.parent} can't be written"
    existing = f"{file.absolute().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(existing, uri=True, timeout=STORE_TIMEOUT_S)) as store:
            store.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if os.access(file, os.W_OK) else f"{file} can't be written"


def _cores_and_memory() -> Finding:
    import psutil

    cores, memory = cpu_count(), psutil.virtual_memory()
    total, free = min(memory.total, _memory_limit() or memory.total), memory.available
    load = os.getloadavg()[0]
    found = f"{cores} cores, {gibibytes(total)} of memory, {gibibytes(min(free, total))} free, load {load:.1f}"
    if load > cores / 2:
        mend = "others use the processor: wait until they are done before speeds are measured"
        return Finding(name="processor", state="ok", found=found, mend=mend)
    if free < LITTLE_MEMORY_BYTES:
        return Finding(name="processor", state="wrong", found=found, mend="little memory is free: end what holds it")
    return Finding(name="processor", state="ok", found=found)


def _memory_limit() -> int | None:
    """Bytes that this process's control group may use, where one is set."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):
            continue
    return None


def _data(facts: Facts) -> Finding:
    if error := facts.get("error"):
        mend = "name data of your own in the study: a folder of text, or token shards"
        return Finding(name="embedded data", state="wrong", found=error, mend=mend)
    said = [f"{name} {held['files']:,} files, {held['bytes'] / 1e6:.0f} MB" for name, held in facts["corpora"].items()]
    return Finding(name="embedded data", state="ok", found="; ".join(said))


def _cache(name: str, facts: Facts, key: str, *, instead: str) -> list[Finding]:
    """A folder that a probe names and has measured; nothing where the probe failed."""
    return [_folder(name, Path(facts[key]), instead=instead, used=facts[f"{key}_bytes"])] if facts.get(key) else []


def _folder(name: str, folder: Path, *, instead: str, used: int | None = None) -> Finding:
    if not may_write(folder):
        mend = f"{instead} names another place"
        return Finding(name=name, state="wrong", found=f"{folder} can't be written", mend=mend, needed=True)
    free = shutil.disk_usage(nearest(folder)).free
    held = f", {gibibytes(used)} used" if used is not None else ""
    found = f"{folder}{held}, {gibibytes(free)} free"
    if free < LITTLE_DISK_BYTES:
        return Finding(name=name, state="wrong", found=found, mend="make room on this disk", needed=False)
    return Finding(name=name, state="ok", found=found, needed=True)


def doctor(arguments: Any) -> int:
    """What this machine can do for a study, and how to mend what is missing; the exit code."""
    from sweeper.report.findings import findings_text
    from sweeper.runners.device.probes import run_all

    with console(stderr=True).status("trying out what is installed (some seconds)"):
        findings = examine(run_all(), runs=arguments.out, tracking_uri=default_uri(arguments.out))
    if arguments.json:
        print(json.dumps(doctor_json(findings), indent=2))
    else:
        console().print(findings_text(findings))
    return 0 if can_run(findings) else 1
