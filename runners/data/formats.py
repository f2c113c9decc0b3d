"""Formats that aren't read: known by name, each with the way to what is. Stdlib only.

A folder is taken for what most of it is. What isn't read is left out of text, and counted, unless it holds more bytes
than the text does: then it was meant, and is refused by name rather than trained on as something else. A model's
weights never were.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sweeper.values.errors import DataError

LOOKED_AT_BYTES = 1 << 16


class File(NamedTuple):
    """One file of a listing. `name` is relative, with `/`; `path` opens it; `size` in bytes."""

    name: str
    path: str
    size: int
    mtime_ns: int


class Format(NamedTuple):
    """What a file is, and what to do so that it can be trained on."""

    name: str
    instead: str


_UNPACK = "unpack it, and name the folder of what comes out"
JSON_LINES = Format(
    "JSON Lines", "write the text of its records to .txt files, as with jq -r .text FILE.jsonl > FILE.txt"
)
_PARQUET = Format("Parquet", "write its column of text to .txt files; pandas.read_parquet reads it")
_ARROW = Format("Arrow", "write its column of text to .txt files; pyarrow.feather or datasets.load_from_disk reads it")
_ZSTD = Format("zstandard-compressed", f"{_UNPACK}: zstd -d FILE")
_GZIP = Format("gzip-compressed", f"{_UNPACK}: gunzip FILE")
_XZ = Format("xz-compressed", f"{_UNPACK}: unxz FILE")
_BZIP2 = Format("bzip2-compressed", f"{_UNPACK}: bunzip2 FILE")
_LZ4 = Format("lz4-compressed", f"{_UNPACK}: lz4 -d FILE")
_ARCHIVE = Format("an archive", _UNPACK)
_ARRAY = Format("a NumPy array", "write token ids as numpy.load(FILE).astype('uint16').tofile('FILE.bin')")
_MODEL = Format("a model's weights", "name a folder of text, or of token shards")

_BY_SUFFIX: Mapping[str, Format] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines"), JSON_LINES),
    **dict.fromkeys((".parquet", ".pq"), _PARQUET),
    **dict.fromkeys((".arrow", ".feather"), _ARROW),
    **dict.fromkeys((".zst", ".zstd"), _ZSTD),
    **dict.fromkeys((".gz", ".tgz"), _GZIP),
    **dict.fromkeys((".zip", ".tar", ".7z", ".rar"), _ARCHIVE),
    **dict.fromkeys((".npy", ".npz"), _ARRAY),
    **dict.fromkeys((".safetensors", ".pt", ".pth", ".ckpt", ".gguf", ".bin"), _MODEL),
    ".xz": _XZ,
    ".bz2": _BZIP2,
    ".lz4": _LZ4,
}
"""`.bin` here is one that isn't a token shard (`sweeper.runners.data.shards`)."""


class Sifted(NamedTuple):
    """The files that text is read from, and how many of which other format were left out."""

    files: tuple[File, ...]
    left_out: Mapping[str, int]


def sift(label: str, files: Sequence[File]) -> Sifted:
    """Leave out what isn't read. DataError where that is most of the bytes, naming it and the way out."""
    formats = {file: found for file in files if (found := format_of(file)) is not None}
    text = tuple(file for file in files if file not in formats)
    sizes: Counter[Format] = Counter()
    for file, found in formats.items():
        sizes[found] += file.size
    meant = sizes.total() - sizes[_MODEL] > sum(file.size for file in text)
    if sizes and (meant or not text):
        most = max(sizes, key=lambda found: (found != _MODEL, sizes[found]))
        of_most = [file for file, found in formats.items() if found == most]
        others = f" (and {len(of_most) - 1:,} more)" if len(of_most) > 1 else ""
        where = f"{label} holds" if of_most[0].path != label else f"{label} is"
        named = f" in {of_most[0].name}{others}" if of_most[0].path != label else ""
        raise DataError(f"{where} {most.name}{named}, which isn't read: {most.instead}")
    return Sifted(text, Counter(sorted(found.name for found in formats.values())))


def format_of(file: File) -> Format | None:
    """The format of a file that isn't read as text, by its name; None for what may be text."""
    suffix = "." + file.name.lower().rpartition(".")[2] if "." in file.name else ""
    if suffix == ".json":
        return JSON_LINES if _holds_records(file.path) else None
    return _BY_SUFFIX.get(suffix)


def _holds_records(path: str) -> bool:
    """Whether a file's first two lines are a JSON object each."""
    try:
        with open(path, "rb") as stream:
            lines = [stream.readline(LOOKED_AT_BYTES) for _ in range(2)]
        return all(isinstance(json.loads(line), dict) for line in lines)
    except (OSError, ValueError):
        return False
