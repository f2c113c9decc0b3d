"""Temporary folders: removed at the end, and after whoever could not do so."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sweeper.runners.device.scratch import LOCK, PREFIX, scratch_folder, scratch_parent

DEEPEST = f"/{PREFIX}12345678/session_2026-11-25_16-32-18_067380_4194304/sockets/plasma_store"
"""Of what Ray makes in a scratch folder; the last number of the session is a process id."""


@pytest.mark.parametrize("length", range(10, 40))
def test_rays_sockets_have_room_whatever_the_temporary_folder(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp/".ljust(length, "x"))
    assert len(str(scratch_parent()) + DEEPEST) <= 107


def test_only_abandoned_folders_are_removed(tmp_path: Path) -> None:
    abandoned, foreign = tmp_path / f"{PREFIX}dead", tmp_path / "other"
    for folder in (abandoned, foreign):
        folder.mkdir()
        (folder / LOCK).touch()
    with scratch_folder(tmp_path) as first:
        (first / "file").touch()
        with scratch_folder(tmp_path) as second:
            assert first != second
            assert (first / "file").exists()
            assert not abandoned.exists()
        assert not second.exists()
    assert list(tmp_path.iterdir()) == [foreign]
