"""What a job is given, on machines that are made up."""

import sys
from types import SimpleNamespace

import pytest

from sweeper.values import machine
from sweeper.values.errors import UsageError
from sweeper.values.machine import Machines, Node, ray_node, this_machine


@pytest.fixture
def devices(monkeypatch):
    def there_are(*, gpus, cores):
        monkeypatch.setattr(machine, "gpu_count", lambda: gpus)
        monkeypatch.setattr(machine, "cpu_count", lambda: cores)

    return there_are


@pytest.mark.parametrize(
    ("gpus", "cores", "asked", "given"),
    [
        (0, 8, (None, None), (0, 8)),
        (2, 8, (None, None), (1, 4)),
        (2, 8, (0, None), (0, 8)),
        (2, 1, (1, None), (1, 1)),
        (2, 8, (None, 3), (1, 3)),
    ],
)
def test_what_a_study_leaves_open_is_the_machines(devices, gpus, cores, asked, given):
    devices(gpus=gpus, cores=cores)
    assert this_machine().job_resources(gpus=asked[0], cpus=asked[1]) == given


def test_a_gpu_that_is_not_there_can_be_planned_but_not_given(devices):
    devices(gpus=0, cores=2)
    assert this_machine().job_gpus(1) == 1
    with pytest.raises(UsageError, match="a job wants 1 GPU, this machine has 0"):
        this_machine().job_resources(gpus=1, cpus=None)
    with pytest.raises(UsageError, match="a job wants 3 cores, this machine has 2"):
        this_machine().job_resources(gpus=0, cpus=3)


def cluster(*nodes):
    """Of (cores, GPUs) each."""
    found = tuple(Node(cpus=cpus, gpus=gpus) for cpus, gpus in nodes)
    return Machines(nodes=found, name="the Ray cluster at 10.0.0.5:6379", address="10.0.0.5:6379")


@pytest.mark.parametrize(
    ("nodes", "asked", "given", "room"),
    [
        (((2, 0), (64, 8)), (None, None), (1, 8), 8),  # a head without GPUs
        (((64, 8), (16, 4)), (None, None), (1, 4), 12),  # the share with which all devices are used
        (((64, 8), (64, 8)), (1, 16), (1, 16), 8),
        (((0, 0), (32, 0), (32, 0)), (None, None), (0, 32), 2),  # the driver's node has no cores for jobs
        (((2, 0), (64, 0), (64, 0)), (None, None), (0, 64), 2),  # a small head isn't worth two large nodes
        (((64, 8), (16, 0)), (0, 8), (0, 8), 2),  # on a processor one job a node, whatever it leaves free
        (((8, 16),), (None, None), (1, 1), 8),
    ],
)
def test_jobs_are_cut_to_the_nodes_of_a_cluster(nodes, asked, given, room):
    there = cluster(*nodes)
    assert there.job_resources(gpus=asked[0], cpus=asked[1]) == given
    assert there.room(gpus=given[0], cpus=given[1]) == room


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((2, None), "wants 2 GPU, the most that a node of the Ray cluster at 10.0.0.5:6379 has is 1: choose"),
        ((0, 17), "wants 17 cores, the most that a node of the Ray cluster at 10.0.0.5:6379 has is 16: ask"),
        ((1, 16), "no node has 16 CPUs and 1 GPUs for a job: the most that one has are 16 CPUs and 1 GPUs"),
    ],
)
def test_what_fits_on_no_node_is_refused(asked, said):
    with pytest.raises(UsageError, match=said):
        cluster((16, 0), (8, 1)).job_resources(gpus=asked[0], cpus=asked[1])


def test_a_cluster_without_nodes_for_jobs_has_room_for_none():
    with pytest.raises(UsageError, match="no node has 1 CPUs"):
        cluster((0, 0)).job_resources(gpus=None, cpus=None)


def test_gpus_are_said_with_their_place(devices):
    devices(gpus=2, cores=8)
    assert this_machine().gpus_shown() == "2 GPUs here"
    assert cluster((4, 1)).gpus_shown() == "1 GPU on the Ray cluster at 10.0.0.5:6379"
    assert cluster((4, 0)).gpus_shown() == "no GPU on the Ray cluster at 10.0.0.5:6379"


def kinds_of(*nodes):
    """Of (cores, GPUs, kind) each, for jobs of 2 cores and 1 GPU."""
    there = Machines(nodes=tuple(Node(cpus=cpus, gpus=gpus, kind=kind) for cpus, gpus, kind in nodes))
    return there.kinds(cpus=2, gpus=1)


def test_the_kind_with_most_room_comes_first():
    assert kinds_of((16, 4, "A100"), (16, 8, "H100"), (16, 2, "A100"), (8, 0, None)) == ("H100", "A100")
    assert kinds_of((4, 8, "H100"), (16, 8, "A100")) == ("A100", "H100"), "by jobs that fit, not by devices"
    assert kinds_of((16, 8, "H100"), (16, 8, "H100")) == ("H100",)


def test_kinds_that_cannot_be_asked_for_are_not_told_apart():
    assert kinds_of((16, 8, "H100"), (16, 8, None)) == ()
    assert kinds_of((16, 0, None)) == ()
    assert Machines(nodes=(Node(cpus=16, gpus=8, kind="H100"),)).kinds(cpus=16, gpus=0) == ()


def test_a_ray_node_says_its_kind_by_a_resource():
    said = {"CPU": 64.0, "GPU": 8.0, "accelerator_type:H100": 1.0, "node:10.0.0.5": 1.0, "memory": 1e12}
    assert ray_node(said) == Node(cpus=64, gpus=8, kind="H100")
    assert ray_node({"CPU": 64.0, "accelerator_type:H100": 1.0}) == Node(cpus=64, gpus=0)
    assert ray_node({**said, "accelerator_type:A100": 1.0}).kind is None


@pytest.mark.parametrize(
    ("visible", "present", "count"),
    [
        (None, 2, 2),
        ("", 2, 0),
        (" ", 2, 0),
        ("-1", 2, 0),
        ("NoDevFiles", 2, 0),
        ("0", 2, 1),
        ("1, 0", 2, 2),
        ("0,-1,1", 2, 1),
        ("0,7,1", 2, 1),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 1, 1),
        ("MIG-1ba7f9ec,MIG-a13ee6cf", 1, 2),
        ("MIG-GPU-8932f937/1/0,MIG-GPU-8932f937/2/0", 1, 2),
        ("0", 0, 0),
        ("MIG-1ba7f9ec", 0, 0),
    ],
)
def test_visible_devices_are_counted_as_cuda_counts_them(monkeypatch, visible, present, count):
    monkeypatch.setattr(machine, "devices_present", lambda: present)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpu_count() == count


@pytest.fixture
def folder_of_devices(tmp_path, monkeypatch):
    def has(*names):
        for name in names:
            (tmp_path / name).touch()

    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    monkeypatch.setattr(machine, "ASK_TORCH", (sys.executable, "-c", "print(7)"))
    machine._devices_of_wsl.cache_clear()
    yield has
    machine._devices_of_wsl.cache_clear()


def nvml(count):
    def refused():
        raise RuntimeError("not loaded")

    asks = {"nvmlInit": (lambda: None) if count else refused, "nvmlShutdown": lambda: None}
    return SimpleNamespace(**asks, nvmlDeviceGetCount=lambda: count)


def test_the_drivers_files_say_how_many_devices_there_are(folder_of_devices, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml(3))
    assert machine.devices_present() == 0, "nobody is asked where nothing is like WSL2"
    folder_of_devices("nvidia0", "nvidia1", "nvidiactl", "dxg")
    assert machine.devices_present() == 2


@pytest.mark.parametrize(("count", "found"), [(3, 3), (None, 7)])
def test_under_wsl_nvml_says_how_many_devices_there_are_or_else_torch(folder_of_devices, monkeypatch, count, found):
    folder_of_devices("dxg")
    monkeypatch.setitem(sys.modules, "pynvml", nvml(count))
    assert machine.devices_present() == found


def test_where_neither_nvml_nor_torch_says_there_is_no_device(folder_of_devices, monkeypatch):
    folder_of_devices("dxg")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(machine, "ASK_TORCH", (sys.executable, "-c", "raise SystemExit(1)"))
    assert machine.devices_present() == 0
