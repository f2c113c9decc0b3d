"""Token shards: llm.c / modded-nanogpt `.bin` with a header, and nanoGPT's raw uint16 without one.

A header is 256 little-endian int32: magic 20240520, version 1, the number of tokens, zeros; uint16 tokens
follow (llm.c dev/data/data_common.py `write_datafile`). A file whose first int32 is the magic has a header,
any other is read as raw. What bytes the tokens stand for is unknown.

In a folder the `.bin` files directly inside are read: those whose name has one of HELD_OUT_WORDS as a word of its own
are held out, the others train. Without such a file the end of the last train shard is held out and isn't trained on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.runners.data.cache import cache_dir, read_json, write_json
from sweeper.values.errors import DataError

MAGIC = 20240520
LLAMA3_MAGIC = 20240801
VERSION = 1
HEADER_BYTES = 1024
HELD_OUT_FRACTION = 0.04
HELD_OUT_TOKENS = 16_384
"""At least so many tokens of a shard are held out, but never more than a quarter of it."""
HELD_OUT_WORDS = ("val", "valid", "validation", "dev", "test")
SHARD_RULE = 2
"""Raised when the same shards would be split or read in another way."""

FOREIGN = {
    b"PK\x03\x04": "a zip archive (torch.save and .npz files are)",
    b"PK\x05\x06": "an empty zip archive",
    b"\x1f\x8b\x08": "gzip-compressed",
    b"\x28\xb5\x2f\xfd": "zstandard-compressed",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x93NUMPY": "a NumPy .npy file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"\x80\x02}": "a pickle",
    b"\x80\x02]": "a pickle",
    b"\x80\x02\x8a": "a pickle (torch.save in its legacy format is)",
    b"\x80\x03}": "a pickle",
    b"\x80\x03]": "a pickle",
    b"\x80\x04\x95": "a pickle",
    b"\x80\x05\x95": "a pickle",
}
_RIGHT = (
    f"a token shard is 256 int32 (magic {MAGIC}, version {VERSION}, token count) and then uint16 tokens, "
    "or uint16 tokens alone"
)
_TO_UINT16 = (
    "write ids below 65,536 as uint16, as numpy.fromfile(FILE, dtype='int32').astype('uint16').tofile('train.bin') does"
)
LEAST_LOOKED_AT = 64
HIGHEST_HALF = 3
"""The high 16 bits of the largest id of a vocabulary of 262,144."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens [start, stop) of a shard. `offset` is where the shard's tokens begin, in bytes."""

    path: Path
    offset: int
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        """How many tokens the span has."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """The shards of one path, split."""

    train: tuple[Span, ...]
    held_out: tuple[Span, ...]
    tail: bool
    """The held-out side is the end of the last train shard."""


def is_shards(path: str) -> bool:
    """Whether `path` is token shards: a `.bin` file, one that starts with the magic, a folder with `.bin`.

    A folder whose `.bin` are all of another kind, as a model's weights are, is shards only if it holds nothing else.
    """
    if os.path.isdir(path):
        shards = _shard_paths(Path(path))
        return any(not _is_foreign(shard) for shard in shards) or (bool(shards) and not _has_more(Path(path)))
    if not os.path.isfile(path):
        return False
    if path.endswith(".bin"):
        return True
    with _reading(path), open(path, "rb") as file:
        return file.read(4) == struct.pack("<i", MAGIC)


def find_shards(path: str) -> ShardSet:
    """The shards of a folder or file and how they're split. Reads headers only.

    DataError: a shard that is empty, damaged or foreign, or no shard to train on.
    """
    place = Path(path).absolute()
    spans = [_inspect(shard) for shard in (_shard_paths(place) if place.is_dir() else [place])]
    held_out = [span for span in spans if place.is_dir() and is_held_out(span.path.name)]
    train = [span for span in spans if span not in held_out]
    if not train:
        raise DataError(
            f"{path} holds only shards to hold out: one is needed to train on, whose name has none of the words "
            f"{', '.join(HELD_OUT_WORDS)}"
        )
    if held_out:
        return ShardSet(train=tuple(train), held_out=tuple(held_out), tail=False)
    last = train.pop()
    size = max(round(HELD_OUT_FRACTION * last.tokens), min(HELD_OUT_TOKENS, last.tokens // 4))
    cut = last.tokens - size
    train.append(Span(path=last.path, offset=last.offset, start=0, stop=cut))
    tail = Span(path=last.path, offset=last.offset, start=cut, stop=last.tokens)
    return ShardSet(train=tuple(train), held_out=(tail,), tail=True)


def is_held_out(name: str) -> bool:
    """Whether a shard's name says that it isn't trained on: `fineweb_val_000.bin` does, `interval_000.bin` doesn't."""
    return not set(HELD_OUT_WORDS).isdisjoint(re.split("[^a-z]+", name.lower()))


def describe_splits(shards: ShardSet) -> str:
    """How many tokens of which files are on which side."""
    held_out = f"the end of {shards.held_out[0].path.name}" if shards.tail else _names(shards.held_out)
    return (
        f"{count_tokens(shards.train):,} train tokens in {_names(shards.train)}, "
        f"{count_tokens(shards.held_out):,} held out in {held_out}"
    )


def _names(spans: Sequence[Span]) -> str:
    names = [span.path.name for span in spans]
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} … {names[-1]} ({len(names):,} shards)"


def _is_foreign(path: Path) -> bool:
    with _reading(path), path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if head.startswith(struct.pack("<i", MAGIC)):
        return False
    try:
        _refuse_foreign(path, head)
    except DataError:
        return True
    return False


def _has_more(folder: Path) -> bool:
    return any(not path.name.startswith(".") and path.suffix != ".bin" for path in folder.iterdir())


def _shard_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.bin") if path.is_file() and not path.name.startswith("."))


@contextlib.contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error


def _inspect(path: Path) -> Span:
    with _reading(path), path.open("rb") as file:
        head = file.read(HEADER_BYTES)
        size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path} is empty: {_RIGHT}")
    if size >= 4 and struct.unpack_from("<i", head)[0] == MAGIC:
        return _inspect_header(path, head, size)
    _refuse_foreign(path, head)
    _refuse_wide(path, head)
    if size % 2:
        raise DataError(f"{path} has an odd size, {size:,} bytes: {_RIGHT}")
    return Span(path=path, offset=0, start=0, stop=size // 2)


def _inspect_header(path: Path, head: bytes, size: int) -> Span:
    if len(head) < HEADER_BYTES:
        raise DataError(f"{path} ends inside its header, after {size} of {HEADER_BYTES} bytes: {_RIGHT}")
    version, tokens = struct.unpack_from("<2i", head, 4)
    if version != VERSION:
        raise DataError(f"{path} has version {version} in its header: {_RIGHT}")
    expected = HEADER_BYTES + 2 * tokens
    if tokens <= 0 or size != expected:
        raise DataError(
            f"{path} has {size:,} bytes, but its header counts {tokens:,} tokens, which would make "
            f"{expected:,}: it was cut off, or isn't uint16"
        )
    return Span(path=path, offset=HEADER_BYTES, start=0, stop=tokens)


def _refuse_foreign(path: Path, head: bytes) -> None:
    for signature, kind in FOREIGN.items():
        if head.startswith(signature):
            raise DataError(f"{path} is {kind}, not a token shard: {_RIGHT}")
    if head[8:10] == b'{"' and struct.unpack_from("<Q", head)[0] < 1 << 30:
        raise DataError(f"{path} is a safetensors file, not a token shard: {_RIGHT}")
    first = struct.unpack_from("<i", head)[0] if len(head) >= 4 else 0
    if first == LLAMA3_MAGIC:
        raise DataError(f"{path} is an llm.c shard of uint32 tokens (magic {LLAMA3_MAGIC}): {_RIGHT}")
    if len(head) >= 4 and struct.unpack_from(">i", head)[0] == MAGIC:
        raise DataError(f"{path} is a big-endian shard, little-endian is needed: {_RIGHT}")
    if len(head) == HEADER_BYTES and not any(head[12:]):
        raise DataError(f"{path} has a header with magic {first}, which should be {MAGIC}: {_RIGHT}")
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        raise DataError(f"{path} is plain text, not a token shard: to train on text, don't name it .bin")


def _refuse_wide(path: Path, head: bytes) -> None:
    """Raw tokens of more than 16 bits: Megatron's, by the index beside them; others by their high halves."""
    index = path.with_suffix(".idx")
    if index.exists():
        raise DataError(f"{path} and {index.name} are Megatron's indexed data set, which isn't read: {_TO_UINT16}")
    words = struct.unpack(f"<{len(head) // 2}H", head[: len(head) // 2 * 2])
    low, high = words[::2], words[1::2]
    if len(high) >= LEAST_LOOKED_AT and max(high) <= HIGHEST_HALF < max(low):
        raise DataError(f"{path} holds tokens of 32 or 64 bits: every second uint16 is next to nothing. {_TO_UINT16}")


def refuse_narrow(shards: ShardSet, vocab_size: int) -> None:
    """DataError where shards without a header have a vocabulary that uint16 can't hold: they may be of others."""
    raw = [span.path for span in (*shards.train, *shards.held_out) if not span.offset]
    if raw and vocab_size > 1 << 16:
        raise DataError(
            f"{raw[0]} has no header and is read as uint16, which can't hold all ids of vocab_size {vocab_size:,}: "
            f"65,536 is the most; where its ids are below that, say so, or give it a header (magic {MAGIC})"
        )


def check_tokens(shards: ShardSet, vocab_size: int) -> str:
    """Check every token id against `vocab_size` and return the shards' fingerprint, 16 hex digits.

    Each shard is read whole once; its largest id and SHA-256 are cached under (path, size, mtime).
    DataError: a token id that the vocabulary doesn't have.
    """
    refuse_narrow(shards, vocab_size)
    fingerprint = hashlib.sha256(f"shards {SHARD_RULE}\n".encode())
    for path, offset in sorted({(span.path, span.offset) for span in (*shards.train, *shards.held_out)}):
        largest, digest = _contents(path, offset)
        if largest >= vocab_size:
            raise DataError(
                f"{path} holds token {largest:,}, but vocab_size is {vocab_size:,}: "
                f"at least {largest + 1:,} is needed for it"
            )
        fingerprint.update(f"{path.name} {digest}\n".encode())
    return fingerprint.hexdigest()[:16]


def _contents(path: Path, offset: int) -> tuple[int, str]:
    import numpy as np  # not at the top: the planner counts tokens without numpy

    stat = path.stat()
    key = hashlib.sha256(repr((SHARD_RULE, str(path), stat.st_size, stat.st_mtime_ns)).encode()).hexdigest()
    cached = cache_dir() / "shards" / f"{key[:32]}.json"
    known = read_json(cached)
    if known is None:
        largest, digest = 0, hashlib.sha256()
        for block in _blocks(path, offset):
            digest.update(block)
            largest = max(largest, int(np.frombuffer(block, dtype="<u2").max()))
        known = {"largest": largest, "sha256": digest.hexdigest()}
        write_json(cached, known)
    return known["largest"], known["sha256"]


def _blocks(path: Path, offset: int) -> Iterator[bytes]:
    with _reading(path), path.open("rb") as file:
        file.seek(offset)
        while block := file.read(1 << 24):
            yield block


def count_tokens(spans: Sequence[Span]) -> int:
    """The tokens of all spans."""
    return sum(span.tokens for span in spans)
