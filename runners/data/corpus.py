"""Documents: an embedded corpus or a folder of text, their split, and their fingerprint. Stdlib only.

A document is a file's bytes, or, where there are few files, a piece of one. Documents stand in the order
of their relative paths; of files with identical contents the first is kept. Byte 0 never occurs in a
document (a file that holds one isn't text), so it can separate them.

Split: a document is held out when its SHA-256 lies in the lowest 4% of the hash range; where that is less
than 1% of the bytes, the next-lowest hashes follow until it isn't. So which side a document stands on
depends on contents alone, and equal contents never stand on both.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from sweeper.runners.data.cache import cache_dir, read_json, write_json
from sweeper.runners.data.formats import File, Sifted, sift
from sweeper.values.errors import DataError

SPLIT_VERSION = 1
"""Raised when the same files would be split, cut or ordered in another way."""
HELD_OUT_FRACTION = 0.04
HELD_OUT_BYTES = 0.01
FEW_DOCUMENTS = 20
DOMINANT = 0.2
"""A file with more than this fraction of the bytes is too much for one side to hold: all are cut."""
PIECE_BYTES = 64 * 1024
SMALLEST_PIECE_BYTES = 1024
SMALLEST_CORPUS_BYTES = FEW_DOCUMENTS * SMALLEST_PIECE_BYTES

EMBEDDED = ("python-stdlib", "python-packages")


class Document(NamedTuple):
    """`size` bytes of a file from `start`, the SHA-256 of them, and the side they stand on."""

    name: str
    start: int
    size: int
    sha256: str
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Root:
    """A folder (or one file) to look in, and what to leave out.

    `python`: only *.py, else every file whose name doesn't start with a dot. `skip`: names of folders left
    out anywhere; `skip_top`: patterns of files and folders left out directly below `folder`.
    """

    folder: str
    prefix: str = ""
    python: bool = False
    skip: frozenset[str] = frozenset()
    skip_top: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a corpus holds. Sizes in bytes, separators not counted."""

    fingerprint: str
    files: int
    duplicates: int
    skipped: int
    train_documents: int
    train_bytes: int
    held_out_documents: int
    held_out_bytes: int


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """An inventory of documents; contents are read from their files when they're asked for.

    `left_out`: how many files of which format weren't looked at (`sweeper.runners.data.formats`).
    """

    label: str
    summary: Summary
    inventory: Path
    files: tuple[File, ...]
    left_out: Mapping[str, int]

    @cached_property
    def documents(self) -> tuple[Document, ...]:
        """All documents in order."""
        with self.inventory.open(encoding="utf-8") as file:
            file.readline()
            return tuple(Document(*fields) for fields in json.loads(file.readline()))

    def side(self, *, held_out: bool) -> list[Document]:
        """The documents of one side, in order."""
        return [document for document in self.documents if document.held_out == held_out]

    def read(self, document: Document) -> bytes:
        """The document's bytes; DataError if they are no longer those of the inventory."""
        data = _read_span(self._paths[document.name], document.start, document.size)
        if hashlib.sha256(data).hexdigest() != document.sha256:
            raise DataError(f"{self._paths[document.name]} changed while it was being read: run again")
        return data

    @cached_property
    def _paths(self) -> dict[str, str]:
        return {file.name: file.path for file in self.files}


def roots_of(name: str, path: str | None) -> tuple[Root, ...]:
    """Where the documents of an embedded corpus (`path` None) or of a folder of text lie."""
    if path is not None:
        if not os.path.exists(path):
            raise DataError(f"data: there is no {path}: a folder of text or token shards, or one such file")
        return (Root(folder=os.path.abspath(path)),)
    if name not in EMBEDDED:
        raise DataError(f"data: {name} is neither an embedded corpus ({', '.join(EMBEDDED)}) nor a path")
    stdlib = Root(
        folder=sysconfig.get_path("stdlib"),
        prefix="stdlib/",
        python=True,
        skip=frozenset({"test", "tests", "idle_test", "__pycache__"}),
        # config-* and _sysconfigdata* hold the paths of the machine that built the interpreter.
        skip_top=("site-packages", "dist-packages", "config-*", "_sysconfigdata*"),
    )
    if name == "python-stdlib":
        return (stdlib,)
    purelib, platlib = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
    folders = {"site-packages/": purelib} | ({} if platlib == purelib else {"platlib/": platlib})
    # Without sweeper's own source, or the data would differ with its commit and where it's installed.
    own = ("sweeper", "__editable__*")
    skip = frozenset({"__pycache__"})
    return stdlib, *(
        Root(folder=folder, prefix=prefix, python=True, skip=skip, skip_top=own) for prefix, folder in folders.items()
    )


def list_files(roots: Sequence[Root]) -> tuple[File, ...]:
    """The files of `roots` that aren't empty, by name. Links are followed, each folder is entered once."""
    try:
        files = [file for root in roots for file in _walk(root)]
    except OSError as error:
        raise DataError(f"data: {error.filename} can't be read: {error.strerror}") from error
    return tuple(sorted(file for file in files if file.size))


def _walk(root: Root) -> Iterator[File]:
    if os.path.isfile(root.folder):
        stat = os.stat(root.folder)
        yield File(os.path.basename(root.folder), root.folder, stat.st_size, stat.st_mtime_ns)
        return
    pending, entered = [(root.folder, root.prefix)], set()
    while pending:
        folder, prefix = pending.pop()
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in entered:
            continue
        entered.add((stat.st_dev, stat.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if _left_out(root, entry.name, at_top=folder == root.folder):
                    continue
                if entry.is_dir():
                    if entry.name not in root.skip:
                        pending.append((entry.path, f"{prefix}{entry.name}/"))
                elif entry.is_file() and (not root.python or entry.name.endswith(".py")):
                    stat = entry.stat()
                    yield File(prefix + entry.name, entry.path, stat.st_size, stat.st_mtime_ns)


def _left_out(root: Root, name: str, *, at_top: bool) -> bool:
    if not root.python and name.startswith("."):
        return True
    return at_top and any(fnmatch(name, pattern) for pattern in root.skip_top)


def find_summary(name: str, path: str | None) -> tuple[tuple[File, ...], Summary | None]:
    """The corpus's files, and its summary where an inventory of exactly these is cached. Reads no file."""
    files, _ = text_files(name, path)
    return files, _cached_summary(_inventory_path(roots_of(name, path), files))


def text_files(name: str, path: str | None) -> Sifted:
    """The files of a corpus that may be text. DataError: nothing there, or mostly what isn't read."""
    files = list_files(roots_of(name, path))
    return Sifted(files, {}) if path is None else sift(path, files)


def open_corpus(name: str, path: str | None) -> Corpus:
    """The documents of an embedded corpus (`path` None) or of the text in `path`.

    Every file is read once per listing of (path, size, mtime); later calls only walk the folders.
    DataError: nothing there, no text, too little text, unreadable files.
    """
    roots = roots_of(name, path)
    files, left_out = text_files(name, path)
    inventory = _inventory_path(roots, files)
    label = path or name
    summary = _cached_summary(inventory)
    if summary is None:
        summary, documents = _take_inventory(label, files, python=roots[0].python)
        write_json(inventory, asdict(summary), documents)
    return Corpus(label=label, summary=summary, inventory=inventory, files=files, left_out=left_out)


def _inventory_path(roots: Sequence[Root], files: Sequence[File]) -> Path:
    key = hashlib.sha256(repr((SPLIT_VERSION, [root.folder for root in roots])).encode())
    key.update(repr([(file.name, file.size, file.mtime_ns) for file in files]).encode())
    return cache_dir() / "inventories" / f"{key.hexdigest()[:32]}.json"


def _cached_summary(inventory: Path) -> Summary | None:
    fields = read_json(inventory)
    return Summary(**fields) if fields else None


def _take_inventory(label: str, files: Sequence[File], *, python: bool) -> tuple[Summary, list[Document]]:
    documents: list[Document] = []
    paths, known, skipped = {}, set(), 0
    for file in files:
        digest = _text_digest(file, utf8=not python)
        if digest is None:
            skipped += 1
        elif digest not in known:
            known.add(digest)
            paths[file.name] = file.path
            documents.append(Document(file.name, 0, file.size, digest, False))
    _check_amount(label, documents, skipped)
    size = sum(document.size for document in documents)
    if len(documents) < FEW_DOCUMENTS or max(document.size for document in documents) > DOMINANT * size:
        piece = min(PIECE_BYTES, max(SMALLEST_PIECE_BYTES, size // (3 * FEW_DOCUMENTS)))
        documents = [part for whole in documents for part in _pieces(paths[whole.name], whole, piece)]
    documents = _split(label, documents)
    duplicates = len(files) - skipped - len(paths)
    return _summary(documents, files=len(files), duplicates=duplicates, skipped=skipped), documents


def _text_digest(file: File, *, utf8: bool) -> str | None:
    """SHA-256 of a file's bytes, or None where they aren't text: a byte 0, or (`utf8`) not UTF-8."""
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    try:
        with open(file.path, "rb") as stream:
            while block := stream.read(1 << 20):
                if b"\0" in block:
                    return None
                if utf8:
                    decoder.decode(block)
                digest.update(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise DataError(f"{file.path} can't be read: {error.strerror}") from error
    return digest.hexdigest()


def _check_amount(label: str, documents: Sequence[Document], skipped: int) -> None:
    size = sum(document.size for document in documents)
    if size >= SMALLEST_CORPUS_BYTES:
        return
    binary = f" ({skipped} files that aren't UTF-8 text were skipped)" if skipped else ""
    found = f"holds {size:,} bytes of distinct text" if size else "holds no text"
    raise DataError(
        f"{label} {found}{binary}: at least {SMALLEST_CORPUS_BYTES:,} bytes of UTF-8 text are needed, "
        f"so that about {HELD_OUT_FRACTION:.0%} can be held out; token shards are named *.bin"
    )


def _pieces(path: str, whole: Document, piece: int) -> Iterator[Document]:
    """Cut a file into pieces of at most `piece` bytes, at a line end in their second half if there is one."""
    start = 0
    while start < whole.size:
        data = _read_span(path, start, min(piece, whole.size - start))
        if start + len(data) < whole.size:
            line_end = data.rfind(b"\n", len(data) // 2) + 1
            data = data[: line_end or _character_end(data)]
        yield Document(whole.name, start, len(data), hashlib.sha256(data).hexdigest(), False)
        start += len(data)


def _character_end(data: bytes) -> int:
    """The end of the last UTF-8 character that is whole for certain: where its last lead byte stands."""
    end = len(data) - 1
    while end > len(data) - 4 and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _read_span(path: str, start: int, size: int) -> bytes:
    try:
        with open(path, "rb") as stream:
            stream.seek(start)
            data = stream.read(size)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    if len(data) != size:
        raise DataError(f"{path} changed while it was being read: run again")
    return data


def _split(label: str, documents: Sequence[Document]) -> list[Document]:
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.sha256] = sizes.get(document.sha256, 0) + document.size
    if len(sizes) < 2:
        raise DataError(f"{label} repeats one text over and over: a held-out side needs text that differs")
    limit, enough = int(HELD_OUT_FRACTION * 2**64), HELD_OUT_BYTES * sum(sizes.values())
    held_out, held_out_bytes = set(), 0
    for digest in sorted(sizes)[:-1]:  # the highest hash always stays, so that there is a train side
        if int(digest[:16], 16) >= limit and held_out_bytes >= enough:
            break
        held_out.add(digest)
        held_out_bytes += sizes[digest]
    return [document._replace(held_out=document.sha256 in held_out) for document in documents]


def _summary(documents: Sequence[Document], *, files: int, duplicates: int, skipped: int) -> Summary:
    fingerprint = hashlib.sha256(f"split {SPLIT_VERSION}\n".encode())
    for document in sorted(documents):
        fingerprint.update(repr((document.name, document.start, document.sha256)).encode() + b"\n")
    train = [document.size for document in documents if not document.held_out]
    held_out = [document.size for document in documents if document.held_out]
    return Summary(
        fingerprint=fingerprint.hexdigest()[:16],
        files=files,
        duplicates=duplicates,
        skipped=skipped,
        train_documents=len(train),
        train_bytes=sum(train),
        held_out_documents=len(held_out),
        held_out_bytes=sum(held_out),
    )
