"""A file that can't be written: named, exit code 5, nothing torn, and the same command goes on once there is room."""

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from command_cases import make_place
from ledger_lines import plain_lines
from safetensors import SafetensorError

from sweeper.commands.main import main
from sweeper.ledger.file import Ledger
from sweeper.runners.training.checkpoint import save_tensors
from sweeper.values.errors import CantWrite, UsageError
from sweeper.values.paths import results_in
from sweeper.values.run_folder import replacing, write_atomically

TESTS = Path(__file__).parents[2]
RUN = ["run", "tiny.yaml", "--runner", "in-process"]
ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO]


@pytest.fixture
def place(tmp_path, monkeypatch):
    make_place(tmp_path, monkeypatch)
    return tmp_path


def failing(monkeypatch, name, number, *, of=""):
    """Have `os.replace` or `os.fsync` fail with this error, for files whose name holds `of`."""
    real = getattr(os, name)

    def fail(first, *others):
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
        if of in path:
            raise OSError(number, os.strerror(number))
        return real(first, *others)

    monkeypatch.setattr(os, name, fail)


def mounts():
    """Whether this machine lets us mount a disk of our own."""
    unshare = shutil.which("unshare")
    return (
        unshare
        and subprocess.run([unshare, "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False).returncode == 0
    )


@pytest.mark.skipif(not mounts(), reason="needs the right to mount a small disk")
def test_on_a_small_disk(tmp_path):
    paths = [TESTS.parent, TESTS / "functional", TESTS / "unit", TESTS / "unit" / "commands"]
    ran = subprocess.run(
        ["unshare", "-m", sys.executable, str(TESTS / "functional" / "full_disk.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    named = set()
    for one in found["results"]:
        assert one["code"] == 5, one
        assert one["said"].startswith(f"sweeper: {tmp_path}/results/tiny/full/")
        assert "can't be written (No space left on device): make room, and the same command goes on" in one["said"]
        named.add(one["said"].split(" ")[1].rpartition("/")[2])
        assert not one["torn"]
        assert one["left_over"] == []
        assert (one["again"], one["finals"], one["whole"]) == (0, 2, True), one["then"]
    assert named == {"ledger.jsonl", "frontier.json", "frontier.png"}
    trained = found["train"]
    assert (trained["code"], trained["again"], trained["models"]) == (5, 0, 1), trained
    assert re.search(r"/checkpoints/\S+ can't be written \(No space left on device\): make room", trained["said"])
    assert trained["left_over"] == []
    store = found["store"]
    assert (store["code"], store["finals"], store["again"]) == (5, 2, 0), store
    assert f"MLflow's store sqlite:///{tmp_path}/store/mlflow.db (" in store["said"]
    assert "database or disk is full" in store["said"]


@pytest.mark.parametrize("number", ERRORS)
@pytest.mark.parametrize(
    ("call", "of", "named"),
    [
        ("fsync", "ledger.jsonl", "ledger.jsonl"),
        ("replace", "plan.json", "plan.json"),
        ("replace", "frontier.json", "frontier.json"),
        ("fsync", ".frontier.png", "frontier.png"),
        ("replace", "report.html", "report.html"),
    ],
)
def test_whatever_the_system_says(place, capsys, number, call, of, named):
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, call, number, of=of)
        assert main(RUN) == 5
    said = capsys.readouterr().err
    assert said.startswith(f"sweeper: {place}/runs/tiny/full/{named} can't be written ({os.strerror(number)})")
    folder = place / "runs" / "tiny" / "full"
    plain_lines(folder / "ledger.jsonl")
    assert not list(folder.glob("*.writing")) + list(folder.glob(".*.writing"))
    assert main(RUN) == 0
    finals = [record["trial_id"] for record in plain_lines(folder / "ledger.jsonl") if record["type"] == "final"]
    assert len(finals) == len(set(finals)) == 2


@pytest.mark.parametrize("command", ["report runs/first/full", "merge runs/first/full other --out merged"])
def test_reports_too(place, capsys, monkeypatch, command):
    before = (place / "runs" / "first" / "full" / "frontier.json").read_bytes()
    failing(monkeypatch, "replace", errno.ENOSPC, of=".frontier.json")
    assert main(command.split()) == 5
    assert "frontier.json can't be written (No space left on device)" in capsys.readouterr().err
    assert (place / "runs" / "first" / "full" / "frontier.json").read_bytes() == before


def test_a_figure_of_the_plan(place, capsys, monkeypatch):
    failing(monkeypatch, "replace", errno.EDQUOT, of="plan.png")
    assert main(["plan", "tiny.yaml", "--png", "plan.png"]) == 5
    assert "plan.png can't be written (Disk quota exceeded)" in capsys.readouterr().err


def test_a_line_of_the_ledger_is_there_whole_or_not_at_all(tmp_path):
    class Half:
        """Takes half of a line, as a disk does that fills up, and then nothing."""

        def __init__(self, file):
            self._file, self.full = file, True

        def write(self, line):
            if self.full and len(line) < 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(line[: len(line) // 2]) if self.full else self._file.write(line)

        def __getattr__(self, name):
            return getattr(self._file, name)

    path = tmp_path / "ledger.jsonl"
    with Ledger(path, lock=tmp_path / ".lock") as ledger:
        ledger.append({"type": "started", "devices": 1})
        disk = ledger._file = Half(ledger._file)
        whole = path.read_bytes()
        with pytest.raises(CantWrite, match=r"ledger\.jsonl can't be written"):
            ledger.append({"type": "started", "devices": 2})
        assert path.read_bytes() == whole
        disk.full = False
        ledger.append({"type": "started", "devices": 3})
    assert [record["devices"] for record in plain_lines(path)] == [1, 3]


def test_the_system_says_why_a_checkpoint_cannot_be_written(tmp_path, monkeypatch):
    def no_room(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", no_room)
    with pytest.raises(OSError, match="No space left") as caught:
        save_tensors({}, tmp_path / "file", metadata={})
    assert caught.value.errno == errno.ENOSPC


def test_before_anything_is_kept_a_wrong_folder_is_wrong_input_and_a_full_disk_is_not(tmp_path):
    for number, expected in [(errno.EACCES, UsageError), (errno.ENOTDIR, UsageError), (errno.ENOSPC, CantWrite)]:
        with pytest.raises(expected) as caught, results_in(tmp_path):
            raise OSError(number, os.strerror(number), str(tmp_path / "file"))
        assert str(tmp_path / "file") in str(caught.value)


# Modes


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o022, 0o002])
def test_new_files_get_the_mode_that_the_umask_says(place, umask, mask):
    umask(mask)
    assert main(RUN) == 0
    made = [path for path in (place / "runs" / "tiny").rglob("*") if path.is_file()]
    assert {"ledger.jsonl", "plan.json", "frontier.png", "report.html"} <= {path.name for path in made}
    assert {path.name: mode(path) for path in made} == {path.name: 0o666 & ~mask for path in made}


def test_replaced_files_keep_theirs(tmp_path, umask):
    umask(0o077)
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o664)
    write_atomically(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o664)
    umask(0o002)
    path.chmod(0o600)
    write_atomically(path, "newer")
    assert (path.read_text(), mode(path)) == ("newer", 0o600)


def test_a_library_that_makes_its_own_file_changes_no_mode(tmp_path, umask):
    umask(0o027)
    with replacing(tmp_path / "file") as temporary:
        temporary.unlink()
        temporary.write_text("of the library")
        temporary.chmod(0o600)
    assert mode(tmp_path / "file") == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other groups")
def test_the_group_of_a_shared_folder_stays(tmp_path, umask):
    umask(0o002)
    os.chown(tmp_path, -1, 12345)
    tmp_path.chmod(0o2775)
    write_atomically(tmp_path / "file", "new")
    assert ((tmp_path / "file").stat().st_gid, mode(tmp_path / "file")) == (12345, 0o664)
    os.chown(tmp_path / "file", -1, 54321)
    write_atomically(tmp_path / "file", "newer")
    assert ((tmp_path / "file").stat().st_gid, mode(tmp_path / "file")) == (54321, 0o664)
