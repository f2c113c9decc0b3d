"""A plugin for pytest (`-p cuda_faked`): a CUDA device as far as one can be made up, and only what its tests need.

What the driver would answer is answered, and `torch.empty` gives shapes without memory. Whatever else touches the
device is torch's to refuse. Of every test a line of JSON goes to the file that SWEEPER_REPORT names.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch._dynamo  # now, as it looks for packages that are refused below
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).parents[2]
NAME, TOTAL = "NVIDIA H200", 139 * 2**30
LACKING = ("ray", "mlflow", "optuna", "pydantic", "psutil", "tokenizers", "transformers", "yaml", "rich", "scipy",
           "sklearn", "moocore", "matplotlib")  # fmt: skip
"""What isn't carried to a machine with a device, where the tests of that device run without it."""


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def nothing(*arguments, **named):
    return None


def zero(*arguments, **named):
    return 0


def properties(device=None):
    return SimpleNamespace(name=NAME, uuid="made-up", total_memory=TOTAL, major=9, minor=0, multi_processor_count=132)


ANSWERS = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "get_device_name": lambda device=None: NAME,
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_properties": properties,
    "mem_get_info": lambda device=None: (TOTAL, TOTAL),
    "memory_allocated": zero,
    "memory_reserved": zero,
    "max_memory_reserved": zero,
    "set_per_process_memory_fraction": nothing,
    "empty_cache": nothing,
    "reset_peak_memory_stats": nothing,
    "synchronize": nothing,
}


def install():
    sys.meta_path.insert(0, Refuse())
    for name, answer in ANSWERS.items():
        setattr(torch.cuda, name, answer)
    torch._C._cuda_clearCublasWorkspaces = nothing
    for name in ("transformer_engine", "transformer_engine.pytorch"):
        sys.modules.setdefault(name, ModuleType(name))


class WithoutMemory(TorchFunctionMode):
    """`torch.empty` on the device is on "meta"."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with WithoutMemory():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with WithoutMemory():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call" or report.outcome != "passed":
        line = {"test": item.originalname, "when": call.when, "outcome": report.outcome, **raised(call.excinfo)}
        line["worker"] = os.environ.get("PYTEST_XDIST_WORKER")
        with open(os.environ["SWEEPER_REPORT"], "a") as file:
            file.write(json.dumps(line) + "\n")
    return report


def raised(excinfo):
    """The error, the function that raised it, and the last function of the project on the way there."""
    if excinfo is None:
        return {}
    frames = traceback.extract_tb(excinfo.value.__traceback__)
    folders = [ROOT / name for name in ("model", "runners", "sweeper", "tests")]
    own = [one for one in frames if any(map(Path(one.filename).is_relative_to, folders)) and one.filename != __file__]
    told = f"{type(excinfo.value).__name__}: {excinfo.value}"
    return {"error": told, "by": place(frames[-1]), "asked_by": place(own[-1]) if own else None}


def place(frame):
    return f"{'/'.join(Path(frame.filename).parts[-2:])} {frame.name}"
