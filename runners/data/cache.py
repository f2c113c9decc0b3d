"""The data cache on this machine: where it lies, how an entry is built once and never half. Stdlib only.

    <cache>/inventories/<key>.json      what a listing of files holds: its fingerprint and split
    <cache>/tokens/<name>/              one encoded corpus: train.bin, held_out.bin, meta.json, …
    <cache>/shards/<key>.json           the largest token id and the SHA-256 of a token shard

Nothing here is a source of truth: every entry can be deleted while no trial uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sweeper.values.errors import CantWrite, DataError
from sweeper.values.home import may_write, temporary_home
from sweeper.values.run_folder import FULL, write_atomically, writing

ENCODING_VERSION = 1
"""Raised when the same corpus and vocabulary would be encoded into other tokens."""


def cache_dir() -> Path:
    """`$SWEEPER_CACHE_DIR`, else `$XDG_CACHE_HOME/sweeper`, else `~/.cache/sweeper`.

    Where that can't be written, a folder of the user's own below the temporary one (`sweeper.values.home`).
    """
    own = os.environ.get("SWEEPER_CACHE_DIR")
    if own:
        return Path(os.path.abspath(os.path.expanduser(own)))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sweeper"
    return folder if folder.is_absolute() and may_write(folder) else temporary_home() / ".cache" / "sweeper"


def tokens_entry(fingerprint: str, vocab_size: int) -> Path:
    """Where the corpus of this fingerprint lies encoded at this vocabulary, whether it exists or not."""
    library = "bytes" if vocab_size == 256 else f"tokenizers{importlib.metadata.version('tokenizers')}"
    return cache_dir() / "tokens" / f"{fingerprint}-{vocab_size}-{library}-{ENCODING_VERSION}"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the first line of `path`, or None where there is no such file or it is cut off."""
    try:
        with path.open(encoding="utf-8") as file:
            value = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, *values: Any) -> None:
    """Write each of `values` as one line of JSON, atomically; DataError or CantWrite as `build_once`."""
    with _cache_errors():
        write_atomically(path, "".join(json.dumps(value) + "\n" for value in values))


def read_meta(entry: Path) -> dict[str, Any] | None:
    """An entry's `meta.json`, or None unless every file it lists is there in its full size."""
    meta = read_json(entry / "meta.json")
    if meta is None:
        return None
    try:
        whole = all((entry / name).stat().st_size == size for name, size in meta["files"].items())
    except OSError:
        return None
    return meta if whole else None


def build_once(entry: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The meta of `entry`, built first if it isn't there whole.

    `build` fills the folder it is given and returns the meta. It works beside the entry under a lock and
    the folder is renamed when all of it is on disk, so a build that was cut off is never seen, and of two
    processes that need the same entry one builds and the other waits. A lock ends with its process.
    DataError where the cache can't be written, CantWrite where its disk is full.
    """
    meta = read_meta(entry)
    if meta is not None:
        return meta
    with _cache_errors():
        entry.parent.mkdir(parents=True, exist_ok=True)
        with _locked(entry.with_name(entry.name + ".lock")):
            meta = read_meta(entry)
            return meta if meta is not None else _build(entry, build)


def _build(entry: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    building = entry.with_name(entry.name + ".building")
    for leftover in (building, entry):
        if leftover.exists():
            shutil.rmtree(leftover)
    building.mkdir()
    try:
        meta = build(building)
        for path in building.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        meta["files"] = {path.name: path.stat().st_size for path in sorted(building.iterdir())}
        write_json(building / "meta.json", meta)
        os.rename(building, entry)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return meta


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _cache_errors() -> Iterator[None]:
    try:
        with writing(cache_dir()):
            yield
    except (CantWrite, OSError) as raised:
        error = raised.__cause__ if isinstance(raised, CantWrite) else raised
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        why = getattr(error, "strerror", None) or error
        raise DataError(
            f"the data cache {cache_dir()} can't be written ({why}): SWEEPER_CACHE_DIR names another place"
        ) from error
