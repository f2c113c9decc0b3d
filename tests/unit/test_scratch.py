"""Temporary folders: removed at the end, and after whoever could not do so."""

from __future__ import annotations

from pathlib import Path

from runners.scratch import LOCK, PREFIX, scratch_folder


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
