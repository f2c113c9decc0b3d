"""The append-only record of all that was asked and measured: one JSON object a line, on disk before it counts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from sweeper.ledger.typed import LaterSchema, Line, NoRecord, read_line
from sweeper.values.errors import DamagedLedger, UsageError
from sweeper.values.run_folder import writing


def read(path: Path) -> list[Line]:
    """All whole lines of the ledger, oldest first; none when there is no ledger yet.

    Raises DamagedLedger for a line that can't be read, UsageError for one of a later version.
    """
    return [line for line, _ in read_with_bytes(path)]


def read_with_bytes(path: Path) -> Iterator[tuple[Line, bytes]]:
    """Each line as `read` has it, and as it stands in the file, with what this version doesn't know.

    A last line without its newline was cut off while it was written and never counted: it is left out.
    """
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                found = read_line(line)
            except LaterSchema as error:
                raise UsageError(f"{path}:{number}: a line of a later version ({error}): update sweeper") from None
            except NoRecord as error:
                why = f" ({error})" if str(error) else ""
                raise DamagedLedger(f"{path}:{number}: not a ledger record{why}; mend or remove this line") from None
            except ValueError as error:
                raise DamagedLedger(f"{path}:{number}: not a JSON line ({error}); mend or remove this line") from None
            yield found, line


def is_locked(lock: Path) -> bool:
    """Whether a living driver holds `lock`."""
    if not lock.exists():
        return False
    with open(lock, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def held(lock: Path) -> TextIO:
    """Take `lock`, until the file is closed or the process ends. UsageError while another driver holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = open(lock, "a", encoding="utf-8")  # noqa: SIM115  held by the caller
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(f"another sweeper run is writing to {lock.parent}: wait for it, or use --out") from None
    return file


class Ledger:
    """The one writer of a ledger file. Holds `lock` until closed; a dead process holds nothing.

    Raises UsageError when another driver writes here, DamagedLedger when the file can't be read.
    """

    def __init__(self, path: Path, *, lock: Path) -> None:
        self._lock = held(lock)
        try:
            self.records = read(path)
            self._path = path
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
            self._drop_torn_line(path)
        except BaseException:
            self._lock.close()
            raise

    def _drop_torn_line(self, path: Path) -> None:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)

    def append(self, record: Mapping[str, Any]) -> Line:
        """Write one record and wait until it is on disk; the line that it is. NaN and infinity are no JSON: ValueError.

        Raises CantWrite where the disk doesn't take it; no part of the line stays then.
        """
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        written = read_line(line)
        whole = os.fstat(self._file.fileno()).st_size
        with writing(self._path):
            try:
                while line:
                    line = line[self._file.write(line) :]
                os.fsync(self._file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(whole)
                raise
        return written

    def close(self) -> None:
        """Let another driver write here."""
        self._file.close()
        self._lock.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
