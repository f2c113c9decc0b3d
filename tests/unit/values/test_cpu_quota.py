"""Cores by the quota of control groups, from folders that are made up as the kernel shows them."""

import os
import shutil

import pytest

from sweeper.values import machine
from sweeper.values.cpu_quota import cpu_quota

UNIFIED = "29 23 0:26 {root} {mounted} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
LEGACY = (
    "31 23 0:28 / {mounted} rw - tmpfs tmpfs rw,mode=755\n"
    "33 31 0:30 {root} {mounted}/cpuacct rw - cgroup cgroup rw,cpuacct\n"
    "32 31 0:29 {root} {mounted}/cpu,cpuset rw - cgroup cgroup rw,cpu,cpuset\n"
)


@pytest.fixture
def proc(tmp_path):
    """Makes /proc/self, with its group at `path` below the mount's `root`, and the groups' files by folder."""

    def made(mounts, cgroup, files, *, root="/"):
        mounted = tmp_path / "sys fs"
        shutil.rmtree(mounted, ignore_errors=True)
        for name, text in files.items():
            (mounted / name).parent.mkdir(parents=True, exist_ok=True)
            (mounted / name).write_text(text)
        shown = str(mounted).replace(" ", "\\040")
        mounts = mounts.format(mounted=shown, root=root)
        (tmp_path / "mountinfo").write_text(f"21 1 8:1 / / rw - ext4 /dev/sda rw\n{mounts}")
        (tmp_path / "cgroup").write_text(cgroup)
        return tmp_path

    return made


def v1(folder, quota, period=100_000):
    group = f"cpu,cpuset/{folder}cpu.cfs"
    return {f"{group}_quota_us": f"{quota}\n", f"{group}_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "max 100000\n"}, None),
        ({"a/b/cpu.max": "800000 100000\n", "a/cpu.max": "50000 50000\n"}, 1.0),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n", "cpu.max": "300000 100000\n"}, 3.0),
        ({"a/b/cpu.max": "not a quota\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ({"a/other/cpu.max": "100000 100000\n"}, None),
    ],
)
def test_of_nested_groups_the_least_holds(proc, files, cores):
    assert cpu_quota(proc(UNIFIED, "0::/a/b\n", files)) == cores


def test_a_container_sees_its_own_group_as_the_root(proc):
    assert cpu_quota(proc(UNIFIED, "0::/\n", {"cpu.max": "200000 100000\n"})) == 2.0
    assert cpu_quota(proc(UNIFIED, "0::/../..\n", {"cpu.max": "100000 100000\n"})) == 1.0


def test_the_older_form(proc):
    cgroup = "9:name=systemd:/\n3:cpu,cpuset:/docker/abc\n2:cpuacct:/docker/abc\n"
    assert cpu_quota(proc(LEGACY, cgroup, v1("docker/abc/", -1) | v1("docker/", 250_000))) == 2.5
    assert cpu_quota(proc(LEGACY, cgroup, v1("docker/abc/", -1) | v1("", -1))) is None
    # Mounted from the container's own group, whose path is that of the host.
    assert cpu_quota(proc(LEGACY, cgroup, v1("", 50_000), root="/docker/abc")) == 0.5


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (0.5, 1), (1.0, 1), (1.9, 1), (3.5, 3), (64.0, 8)])
def test_cores_are_whole_and_never_more_than_the_quota_pays_for(monkeypatch, quota, cores):
    """A core beyond the quota would stop all of them in the middle of what is timed."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.cpu_count() == cores
