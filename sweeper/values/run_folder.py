"""Every path of a run folder, in one place: `runs/<study>/<profile>/`."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweeper.values.errors import CantWrite


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where one study under one profile keeps what was asked and measured."""

    root: Path

    @classmethod
    def of(cls, *, out: Path, study: str, profile: str) -> RunFolder:
        """The folder of `study` under `profile` below `out` (usually `runs`)."""
        return cls(root=(out / study / profile).absolute())

    @property
    def study(self) -> Path:
        """The study as resolved."""
        return self.root / "study.yaml"

    @property
    def plan(self) -> Path:
        """What `sweeper plan --json` prints."""
        return self.root / "plan.json"

    @property
    def ledger(self) -> Path:
        """The source of truth."""
        return self.root / "ledger.jsonl"

    @property
    def frontier(self) -> Path:
        """The frontier as JSON."""
        return self.root / "frontier.json"

    @property
    def comparison(self) -> Path:
        """Several results side by side, as JSON."""
        return self.root / "comparison.json"

    @property
    def figure(self) -> Path:
        """The frontier drawn."""
        return self.root / "frontier.png"

    @property
    def vector_figure(self) -> Path:
        """The same without its title, for a paper."""
        return self.root / "frontier.svg"

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.root / "report.html"

    @property
    def logs(self) -> Path:
        """One file per job: what the job itself printed."""
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        """One file per training that `sweeper train` may go on with."""
        return self.root / "checkpoints"

    @property
    def models(self) -> Path:
        """One folder per finished training of `sweeper train`, as Hugging Face has models."""
        return self.root / "hf"

    @property
    def lock(self) -> Path:
        """Held (flock) by the one driver that may write here."""
        return self.root / ".lock"

    @property
    def tracking_lock(self) -> Path:
        """Held (flock) by the one process that writes this folder's runs to MLflow."""
        return self.root / ".mlflow.lock"


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})
"""Errors of a disk that has no room for more, or fails."""
UNWRITABLE = FULL | {errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of a file that can't be written where it lies. Others are those of a wrong path."""


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Within it `path` is written: CantWrite names it where it can't be. Errors of a wrong path pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        room = ": make room, and the same command goes on" if error.errno in FULL - {errno.EIO} else ""
        raise CantWrite(f"{path} can't be written ({error.strerror}){room}") from error


@contextlib.contextmanager
def replacing(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """A new file beside `path` to be filled, which takes its place when it is on disk: readers see the old or the new.

    A new file gets the mode that the umask and the folder say; one that replaces another keeps that one's mode and
    group. Where it fails the old file stays and nothing is left beside it. `alone`: nobody else writes `path`, so that
    what a killed process has left beside it is written over. Raises CantWrite.
    """
    temporary = path.with_name(f".{path.name}.{'' if alone else secrets.token_hex(4) + '.'}writing")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            _to_disk(temporary)
            _like_before(temporary, path, mode=mode)
            os.replace(temporary, path)
            _to_disk(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _like_before(temporary: Path, path: Path, *, mode: int) -> None:
    """The mode and group of the file that is replaced; else `mode`, whatever a library has made of it."""
    with contextlib.suppress(FileNotFoundError):
        before = path.stat()
        mode = stat.S_IMODE(before.st_mode)
        with contextlib.suppress(PermissionError):
            os.chown(temporary, -1, before.st_gid)
    if stat.S_IMODE(temporary.stat().st_mode) != mode:
        os.chmod(temporary, mode)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old or the new file, never a part. Raises CantWrite."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
