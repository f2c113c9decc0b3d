"""A job's process: its seconds, the host's memory, where compiled kernels are kept, what tensors are alive."""

import gc
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from sweeper.runners.device import compile_cache, measuring, memory
from sweeper.runners.device.host_memory import keep_freed_memory, return_freed_memory
from sweeper.runners.device.memory import resident_bytes, tensor_bytes
from sweeper.runners.training.clock import PARTS, Clock
from tests.fakes import FakeTime

CPU = torch.device("cpu")


def test_a_clock_books_each_second_once(monkeypatch):
    time = FakeTime()
    monkeypatch.setattr("sweeper.runners.training.clock.time", time)
    clock = Clock()
    for part in PARTS:
        clock.enter(part)
        time.advance(4.0)
    clock.move("train", "compile", 1.0)
    clock.move("evaluate", "timing")
    clock.move("set_up", "compile", 1e9)
    seconds = clock.read()
    assert seconds == {"set_up": 0.0, "compile": 9.0, "train": 3.0, "evaluate": 0.0, "branches": 4.0, "timing": 8.0}
    assert sum(seconds.values()) == time.now
    clock.move("train", "compile", -1.0)
    clock.add({"train": 5.0})
    assert clock.read() == seconds | {"train": 8.0}


def test_living_tensors_are_counted_by_their_storage():
    gc.collect()
    before = tensor_bytes(CPU)
    whole = torch.zeros(1000, 1000)
    views = [whole[i] for i in range(10)]
    parameter = torch.nn.Parameter(torch.zeros(250_000))
    unseen = torch.zeros(10, device="meta")
    assert tensor_bytes(CPU) - before == 5_000_000
    del views, whole, parameter, unseen
    assert tensor_bytes(CPU) == before


@pytest.mark.parametrize(
    ("before", "baseline", "leak"), [(0, 0, False), (2**20, 0, False), (2**20 + 1, 0, True), (2**30, 2**30, False)]
)
def test_a_leak_is_more_than_a_twentieth_and_a_mebibyte(before, baseline, leak):
    assert memory.is_leak(before=before, baseline=baseline) == leak
    assert memory.is_leak(before=int(2**30 * 1.06), baseline=2**30)


FAULTS = """
import resource, sys
sys.path.insert(0, ".")
from sweeper.runners.device.host_memory import keep_freed_memory, return_freed_memory
from sweeper.runners.device.memory import resident_bytes
if "keep" in sys.argv:
    assert keep_freed_memory()
def use():
    bytearray(24 * 2**20)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
kept = resident_bytes()
return_freed_memory()
print(faults, kept - resident_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept_until_it_is_given_back():
    def told(*arguments):
        ran = subprocess.run([sys.executable, "-c", FAULTS, *arguments], capture_output=True, text=True, check=True)
        return map(int, ran.stdout.split())

    faults, _ = told()
    assert faults > 0, "each use maps its memory anew"
    kept, returned = told("keep")
    assert kept < faults / 4
    assert returned > 20 * 2**20, "of the 24 MiB that lay in a heap which nothing else uses"


def test_without_glibc_nothing_is_set(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", absent)
    assert keep_freed_memory() is False
    return_freed_memory()


@pytest.fixture
def no_cache_set(monkeypatch, tmp_path):
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compile_cache, "_ours", {})
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_kernels_are_kept_by_device_and_versions(no_cache_set, monkeypatch):
    folder = compile_cache.use_compile_cache(CPU)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == folder
    assert os.environ["TRITON_CACHE_DIR"] == f"{folder}/triton"
    assert folder.startswith(f"{no_cache_set}/compile/")
    name = folder.rpartition("/")[2]
    assert torch.backends.cpu.get_cpu_capability() in name
    assert f"torch{torch.__version__}" in name
    assert " " not in name
    monkeypatch.setattr(compile_cache, "device_name", lambda device: "NVIDIA H200")
    assert compile_cache.use_compile_cache(SimpleNamespace(type="cuda")) != folder
    assert "NVIDIA_H200-torch" in os.environ["TORCHINDUCTOR_CACHE_DIR"]


def test_a_users_own_cache_stays(no_cache_set, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/own")
    assert compile_cache.use_compile_cache(CPU) == "/tmp/own"
    assert os.environ["TRITON_CACHE_DIR"].startswith(str(no_cache_set))


def test_what_torch_has_set_by_itself_is_nobodys_wish(no_cache_set, monkeypatch):
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    assert compile_cache.use_compile_cache(CPU).startswith(str(no_cache_set))


def test_where_no_folder_can_be_made_torchs_own_stays(no_cache_set, monkeypatch):
    (no_cache_set / "compile").write_text("in the way")
    assert compile_cache.use_compile_cache(CPU) == ""
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_where_the_folder_cant_be_written_torchs_own_stays(no_cache_set, monkeypatch):
    folder = compile_cache.compile_dir(CPU)
    folder.mkdir(parents=True)
    monkeypatch.setattr(compile_cache, "may_write", lambda path: path != folder)
    assert compile_cache.use_compile_cache(CPU) == ""
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_a_users_own_cache_that_cant_be_written_doesnt_stay(no_cache_set, monkeypatch):
    (no_cache_set / "file").write_text("in the way")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(no_cache_set / "file" / "kernels"))
    assert compile_cache.use_compile_cache(CPU).startswith(f"{no_cache_set}/compile/")


def test_a_path_with_a_space_isnt_handed_to_inductor(no_cache_set, monkeypatch):
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(no_cache_set / "my caches"))
    assert compile_cache.use_compile_cache(CPU) == ""
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_the_load_of_others_is_all_load_but_our_own(monkeypatch):
    """By a hand-made /proc/stat in hundredths of a second: 3.0 s busy in 2 s, 1.2 s of them by ourselves."""
    stats = iter(["cpu  100 10 50 9000 500 5 5 30 7 0\ncpu0 1", "cpu  300 20 90 9100 600 15 15 60 7 0\ncpu0 1"])
    own = iter([(1.0, 0.5, 0.0, 0.0, 9.0), (1.5, 0.8, 0.4, 0.0, 11.0)])
    monkeypatch.setattr(measuring.Path, "read_text", lambda path: next(stats))
    monkeypatch.setattr(measuring.os, "times", lambda: next(own))
    monkeypatch.setattr(measuring.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(measuring.time, "perf_counter", iter([10.0, 12.0]).__next__)
    assert measuring.OtherLoad().cores() == pytest.approx((3.0 - 1.2) / 2)


def test_a_look_that_is_too_short_tells_no_load(monkeypatch):
    seen = iter([0.0, 100.0])
    monkeypatch.setattr(measuring, "_other_cpu_seconds", lambda: next(seen))
    monkeypatch.setattr(measuring.time, "perf_counter", iter([10.0, 10.0 + 0.9 * measuring.SHORTEST_LOOK]).__next__)
    assert measuring.OtherLoad().cores() == 0.0


def test_a_busy_neighbour_is_seen():
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        used = psutil.Process(neighbour.pid).cpu_times
        began, load, before = time.perf_counter(), measuring.OtherLoad(), used().user
        while (gained := used().user - before) < 1.0:  # however long that takes beside others
            time.sleep(0.05)
        assert load.cores() > 0.5 * gained / (time.perf_counter() - began)
    finally:
        neighbour.kill()
        neighbour.wait()


def test_resident_memory_is_that_of_this_process():
    block = bytearray(os.urandom(1) * (50 * 2**20))
    with_block = resident_bytes()
    del block
    return_freed_memory()
    assert with_block - resident_bytes() > 40 * 2**20
