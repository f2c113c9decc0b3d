"""torch.compile where torch lies below a folder with a space, as in a virtual environment in `My Projects`."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sweeper.runners.device.compiler_paths import quote_library_paths

COMPILED = """
import sys
sys.path[:0] = sys.argv[1:]
import torch
from sweeper.runners.device.compile_cache import use_compile_cache

assert " " in torch.__file__
use_compile_cache(torch.device("cpu"))
use_compile_cache(torch.device("cpu"))
print(torch.compile(lambda x: torch.nn.functional.silu(x) * x, fullgraph=True)(torch.ones(8)).tolist())
"""


def test_a_folder_with_a_space_stays_whole_on_the_compilers_command_line(monkeypatch):
    from torch._inductor import cpp_builder

    monkeypatch.setattr(
        cpp_builder.BuildOptionsBase, "get_libraries_dirs", cpp_builder.BuildOptionsBase.get_libraries_dirs
    )
    monkeypatch.setattr(torch, "__file__", "/my projects/torch/__init__.py")
    quote_library_paths()
    options = cpp_builder.BuildOptionsBase(compiler="g++", libraries_dirs=["/my projects/torch/lib", "/usr/lib"])
    line = cpp_builder.CppBuilder(name="kernel", sources="/tmp/kernel.cpp", BuildOption=options).get_command_line()
    assert [part for part in shlex.split(line) if part.startswith("-L")] == ["-L/my projects/torch/lib", "-L/usr/lib"]


@pytest.mark.campaign
def test_a_first_kernel_compiles(tmp_path):
    """From an empty cache, with torch's own files found through a folder whose name has a space."""
    site = tmp_path / "my projects" / "site-packages"
    site.parent.mkdir()
    site.symlink_to(Path(torch.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", COMPILED, str(site), str(Path(__file__).parents[3])],
        cwd=tmp_path,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    (first, *others) = eval(ran.stdout)
    assert abs(first - 0.731059) < 1e-5, "1 · sigmoid(1)"
    assert others == [first] * 7
