"""A dataset as tokens in order, and the batches that a trial draws from it.

A pass cuts the train tokens into windows of `seq_len` inputs and one more token for the last target: they
don't overlap (but for that token), begin at an offset drawn for the pass, and are visited in an order drawn
for the pass. Both draws depend on (seed, pass) alone. A batch is the next `batch_size` windows of that
order, so the sequences of an optimizer step are the same however micro-batches split it.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from sweeper.runners.data.corpus import Corpus, open_corpus
from sweeper.runners.data.shards import Span, check_tokens, describe_splits, find_shards, is_shards
from sweeper.runners.data.tokens import encode_corpus
from sweeper.runners.device.host_memory import NoHostMemory, says_no_memory
from sweeper.values.errors import DataError

PREFETCH = 4
"""Batches assembled ahead."""

Batch = tuple[torch.Tensor, torch.Tensor]


class TokenArray(Protocol):
    """Tokens on disk, 1-D: an array, or several seen as one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> np.ndarray: ...


class Concatenated:
    """Several 1-D arrays seen as one, by slices of step 1: a view within one array, a copy across."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = tuple(arrays)
        self._ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: slice, /) -> np.ndarray:
        start, stop, _ = index.indices(len(self))
        parts = [self._arrays[0][:0]]
        which = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            array, end = self._arrays[which], int(self._ends[which])
            begin = end - len(array)
            parts.append(array[start - begin : stop - begin])
            start, which = end, which + 1
        return parts[1] if len(parts) == 2 else np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Train and held-out tokens, memory-mapped.

    `bytes_per_token` is the held-out side's bytes ÷ its tokens, None where bytes are unknown (shards);
    `token_bytes` (vocab_size,) each token's length in bytes, None where unknown; `fingerprint` is 16 hex
    digits of the contents and the split; `description` one line for a log.
    """

    train: TokenArray
    held_out: TokenArray
    bytes_per_token: float | None
    token_bytes: np.ndarray | None
    fingerprint: str
    vocab_size: int
    description: str


def open_data(name: str, path: str | None, vocab_size: int) -> Dataset:
    """Open the embedded corpus `name` (`path` None), or the text or token shards in `path`.

    The first call may take minutes (a corpus is read, a BPE trained, everything encoded), later ones don't.
    DataError: missing, too small, damaged or foreign data, or a vocabulary that doesn't fit it.
    """
    if path is not None and is_shards(path):
        return _open_shards(path, vocab_size)
    corpus = open_corpus(name, path)
    encoded = encode_corpus(corpus, vocab_size)
    lengths = np.ones(vocab_size, dtype="<u4") if encoded.token_bytes is None else encoded.token_bytes
    return Dataset(
        train=encoded.train,
        held_out=encoded.held_out,
        bytes_per_token=encoded.held_out_bytes / len(encoded.held_out),
        token_bytes=lengths,
        fingerprint=corpus.summary.fingerprint,
        vocab_size=vocab_size,
        description=_describe(corpus, len(encoded.train), len(encoded.held_out)),
    )


def _describe(corpus: Corpus, train: int, held_out: int) -> str:
    summary = corpus.summary
    kinds = {"duplicates": summary.duplicates, "files that aren't UTF-8 text": summary.skipped}
    left_out = [f"{count:,} {kind}" for kind, count in kinds.items() if count]
    left_out += [f"{count:,} × {kind}" for kind, count in corpus.left_out.items()]
    return f"{corpus.label}: {train:,} train and {held_out:,} held-out tokens from {summary.files:,} files" + (
        f" ({', '.join(left_out)} left out)" if left_out else ""
    )


def _open_shards(path: str, vocab_size: int) -> Dataset:
    shards = find_shards(path)
    fingerprint = check_tokens(shards, vocab_size)
    return Dataset(
        train=Concatenated([_map_span(span) for span in shards.train]),
        held_out=Concatenated([_map_span(span) for span in shards.held_out]),
        bytes_per_token=None,
        token_bytes=None,
        fingerprint=fingerprint,
        vocab_size=vocab_size,
        description=f"{path}: {describe_splits(shards)}",
    )


def _map_span(span: Span) -> np.ndarray:
    return np.memmap(span.path, dtype="<u2", mode="r", offset=span.offset + 2 * span.start, shape=(span.tokens,))


def windows_per_pass(dataset: Dataset, seq_len: int) -> int:
    """Windows that one pass visits. DataError where the train side is shorter than one window."""
    tokens = len(dataset.train)
    if tokens < seq_len + 1:
        raise DataError(
            f"{dataset.description}: {tokens:,} train tokens are fewer than one window of seq_len + 1 = "
            f"{seq_len + 1:,}: choose a shorter seq_len or more data"
        )
    return max(1, (tokens - seq_len) // seq_len)


def epochs(dataset: Dataset, tokens: int, seq_len: int) -> float:
    """How often training on `tokens` passes over the data; above 1, windows' text is seen again."""
    return tokens / (windows_per_pass(dataset, seq_len) * seq_len)


def window_starts(dataset: Dataset, *, seed: int, seq_len: int, skip: int = 0) -> Iterator[int]:
    """Where the windows of a seed begin in the train tokens, in the order of training, without end.

    The first `skip` are left out, at no cost but that of drawing one pass's order.
    """
    windows = windows_per_pass(dataset, seq_len)
    offsets = min(seq_len, len(dataset.train) - windows * seq_len)
    passes, skip = divmod(skip, windows)
    for number in itertools.count(passes):
        draw = np.random.default_rng([seed, number])
        offset = int(draw.integers(offsets))
        order = np.arange(windows, dtype=np.uint32)
        draw.shuffle(order)
        for window in order[skip:]:
            yield offset + int(window) * seq_len
        skip = 0


def train_batches(
    dataset: Dataset, *, seed: int, batch_size: int, seq_len: int, device: torch.device | str, skip: int = 0
) -> Generator[Batch]:
    """Endless (inputs, targets) of a seed: int64 (batch_size, seq_len) each, on `device`.

    The first `skip` sequences are left out. A background thread assembles the next batches; closing the generator
    (or dropping it) ends the thread. DataError at once where the train side is shorter than one window. On CUDA the
    batches raise NoHostMemory where none can be pinned.
    """
    starts = window_starts(dataset, seed=seed, seq_len=seq_len, skip=skip)
    first = next(starts)
    batches = _assembled(dataset.train, itertools.chain([first], starts), batch_size, seq_len)
    return _prefetched(batches, torch.device(device))


def held_out_starts(dataset: Dataset, *, eval_tokens: int, seq_len: int) -> np.ndarray:
    """Where the held-out windows begin: whole windows, not overlapping, spread evenly, at most `eval_tokens`.

    Depends on the held-out tokens, `eval_tokens` and `seq_len` alone. DataError: not one window.
    """
    there = (len(dataset.held_out) - 1) // seq_len
    windows = min(there, eval_tokens // seq_len)
    if windows < 1:
        raise DataError(
            f"{dataset.description}: {len(dataset.held_out):,} held-out tokens with eval_tokens "
            f"{eval_tokens:,} don't make one window of seq_len {seq_len:,}: choose a shorter seq_len, "
            "or more data or eval_tokens"
        )
    return np.arange(windows, dtype=np.int64) * there // windows * seq_len


def held_out_batches(
    dataset: Dataset, *, eval_tokens: int, batch_size: int, seq_len: int, device: torch.device | str
) -> Iterator[Batch]:
    """(inputs, targets) of the frozen held-out windows: int64 (≤ batch_size, seq_len) each, on `device`.

    The same tokens in the same order for every trial; the last batch may be smaller than the others.
    """
    starts = held_out_starts(dataset, eval_tokens=eval_tokens, seq_len=seq_len)
    batches = _assembled(dataset.held_out, map(int, starts), batch_size, seq_len)
    return (_on_device(batch, torch.device(device)) for batch in batches)


def held_out_bytes_per_token(dataset: Dataset, *, eval_tokens: int, seq_len: int) -> float | None:
    """Bytes ÷ tokens over exactly the targets of `held_out_batches`; None where bytes are unknown.

    Bits per byte = loss in nats per token ÷ ln 2 ÷ this.
    """
    if dataset.token_bytes is None:
        return None
    starts = held_out_starts(dataset, eval_tokens=eval_tokens, seq_len=seq_len)
    size = sum(int(dataset.token_bytes[dataset.held_out[start + 1 : start + seq_len + 1]].sum()) for start in starts)
    return size / (len(starts) * seq_len)


def _assembled(tokens: TokenArray, starts: Iterator[int], batch_size: int, seq_len: int) -> Iterator[Batch]:
    while chosen := list(itertools.islice(starts, batch_size)):
        rows = np.stack([tokens[start : start + seq_len + 1] for start in chosen]).astype(np.int64)
        yield torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())


def _on_device(batch: Batch, device: torch.device) -> Batch:
    inputs, targets = batch
    return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def _pinned(batch: Batch) -> Batch:
    """The batch in pinned memory: only from there copies to the device overlap with computing.

    Raises NoHostMemory where there is none to pin, which the driver calls "CUDA error: out of memory" all the same.
    """
    try:
        return batch[0].pin_memory(), batch[1].pin_memory()
    except RuntimeError as error:
        if not says_no_memory(error):
            raise
        size = sum(part.nbytes for part in batch)
        raise NoHostMemory(f"{size:,} bytes of the host's memory can't be pinned for a batch: {error}") from error


def _prefetched(batches: Iterator[Batch], device: torch.device) -> Generator[Batch]:
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=PREFETCH)
    ended = threading.Event()

    def assemble() -> None:
        try:
            while not ended.is_set():
                batch = next(batches)
                ready.put(_pinned(batch) if device.type == "cuda" else batch)
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=assemble, name="data-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield _on_device(item, device)
    finally:
        ended.set()
        while thread.is_alive():
            try:
                ready.get(timeout=0.01)
            except queue.Empty:
                continue
        thread.join()
