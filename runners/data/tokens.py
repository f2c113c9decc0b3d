"""Tokens of a corpus: bytes at a vocabulary of 256, else a byte-level BPE trained on the train side.

Every token stands for one or more bytes and nothing else. Byte 0, which no document holds, ends each
document: as token 0 at V=256, and as the single token of that byte in a BPE. So the bytes of a token
stream are its documents, each with a byte 0 behind it, and bits per byte count that byte at every V.
(Pieces of one file that follow one another on the same side are one document here.)

What isn't UTF-8 in a Python file is encoded byte by byte, so that no byte is lost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.runners.data.cache import build_once, tokens_entry
from sweeper.runners.data.corpus import Corpus
from sweeper.values.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES_VOCAB = 256
SEPARATOR = b"\0"
SAMPLE_BYTES = 30_000_000
"""Of the train side, what a BPE is trained on: whole documents, in the order of their hashes."""
TEXT_BYTES = 256 * 1024
"""Longer documents are encoded in parts of this size, so that all cores are used and memory is bounded."""
BATCH_BYTES = 4 * 1024 * 1024
_ESCAPED = re.compile("([\udc80-\udcff]+)")


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A corpus as tokens. `token_bytes` (vocab_size,) is each token's length in bytes, None where all are 1.

    `train_bytes` and `held_out_bytes` count the separators too.
    """

    train: np.ndarray
    held_out: np.ndarray
    train_bytes: int
    held_out_bytes: int
    token_bytes: np.ndarray | None


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest little-endian unsigned integer that holds every token id."""
    return np.dtype("u1" if vocab_size <= 2**8 else "<u2" if vocab_size <= 2**16 else "<u4")


def encode_corpus(corpus: Corpus, vocab_size: int) -> Encoded:
    """The corpus's tokens, memory-mapped; encoded first where this machine's cache doesn't hold them.

    DataError: vocab_size below 256, or more than the train side's text has merges for.
    """
    if vocab_size < BYTES_VOCAB:
        raise DataError(f"vocab_size {vocab_size} is too small for text: {BYTES_VOCAB} (bytes) is the least")
    entry = tokens_entry(corpus.summary.fingerprint, vocab_size)
    meta = build_once(entry, lambda folder: _build(corpus, vocab_size, folder))
    lengths = entry / "token_bytes.bin"
    return Encoded(
        train=np.memmap(entry / "train.bin", dtype=token_dtype(vocab_size), mode="r"),
        held_out=np.memmap(entry / "held_out.bin", dtype=token_dtype(vocab_size), mode="r"),
        train_bytes=meta["train_bytes"],
        held_out_bytes=meta["held_out_bytes"],
        token_bytes=np.fromfile(lengths, dtype="<u4") if vocab_size != BYTES_VOCAB else None,
    )


def _build(corpus: Corpus, vocab_size: int, folder: Path) -> dict[str, Any]:
    bpe = None if vocab_size == BYTES_VOCAB else _train_bpe(corpus, vocab_size)
    if bpe is not None:
        bpe.save(str(folder / "tokenizer.json"))
        lengths = [len(token) for token, _ in sorted(bpe.get_vocab().items(), key=lambda item: item[1])]
        (folder / "token_bytes.bin").write_bytes(np.array(lengths, dtype="<u4").tobytes())
    meta: dict[str, Any] = {"vocab_size": vocab_size}
    for name, held_out in (("train", False), ("held_out", True)):
        size = tokens = 0
        with (folder / f"{name}.bin").open("wb") as file:
            for texts in _batches(corpus, held_out=held_out):
                ids = _encode(texts, bpe, token_dtype(vocab_size))
                file.write(ids.tobytes())  # says why where it fails, which tofile doesn't
                size += sum(map(len, texts))
                tokens += len(ids)
        meta |= {f"{name}_bytes": size, f"{name}_tokens": tokens}
    return meta


def _batches(corpus: Corpus, *, held_out: bool) -> Iterator[list[bytes]]:
    """One side's bytes, separators included, as batches of parts that are encoded one by one."""
    batch: list[bytes] = []
    waiting = 0
    for part in _parts(corpus, held_out=held_out):
        batch.append(part)
        waiting += len(part)
        if waiting >= BATCH_BYTES:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def _parts(corpus: Corpus, *, held_out: bool) -> Iterator[bytes]:
    documents = corpus.side(held_out=held_out)
    for document, after in zip(documents, [*documents[1:], None], strict=True):
        yield from _cut(corpus.read(document))
        goes_on = after and (after.name, after.start) == (document.name, document.start + document.size)
        if not goes_on:
            yield SEPARATOR


def _cut(data: bytes) -> Iterator[bytes]:
    start = 0
    while len(data) - start > TEXT_BYTES:
        line_end = data.rfind(b"\n", start, start + TEXT_BYTES) + 1
        end = line_end or start + TEXT_BYTES
        yield data[start:end]
        start = end
    yield data[start:]


def _encode(texts: list[bytes], bpe: Tokenizer | None, dtype: np.dtype[Any]) -> np.ndarray:
    if bpe is None:
        return np.frombuffer(b"".join(texts), dtype=dtype)
    pieces = [piece for text in texts for piece in _valid_and_escaped(text)]
    valid = iter(bpe.encode_batch_fast([p for p in pieces if isinstance(p, str)], add_special_tokens=False))
    single = _byte_ids(bpe)
    ids = [next(valid).ids if isinstance(p, str) else [single[byte] for byte in p] for p in pieces]
    return np.concatenate([np.array(part, dtype=dtype) for part in ids])


def _valid_and_escaped(text: bytes) -> Iterator[str | bytes]:
    """The text as str where it is UTF-8, as bytes where it isn't or where it is the separator."""
    if text == SEPARATOR:
        yield text
        return
    for index, run in enumerate(_ESCAPED.split(text.decode("utf-8", "surrogateescape"))):
        if run:
            yield run.encode("utf-8", "surrogateescape") if index % 2 else run


def _byte_ids(bpe: Tokenizer) -> list[int]:
    """The token of each single byte. GPT-2's alphabet: a printable byte is itself, the others follow 255."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]
    ids = bpe.get_vocab()
    return [ids[letter] for letter in letters]


def _train_bpe(corpus: Corpus, vocab_size: int) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    # Said explicitly, or every later fork of a process that has encoded prints a warning.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(_sample(corpus), trainer)
    if bpe.get_vocab_size() != vocab_size:
        raise DataError(
            f"{corpus.label} has too little text for vocab_size {vocab_size}: "
            f"{bpe.get_vocab_size()} is the largest it can give"
        )
    return bpe


def _sample(corpus: Corpus) -> Iterator[str]:
    taken = 0
    for document in sorted(corpus.side(held_out=False), key=lambda document: document.sha256):
        for part in _cut(corpus.read(document)):
            yield from (piece for piece in _valid_and_escaped(part) if isinstance(piece, str))
        taken += document.size
        if taken >= SAMPLE_BYTES:
            return
