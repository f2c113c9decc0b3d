"""What is known of data without opening it: its tokens, for the planner, and its fingerprint. Starts stdlib only."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import pairwise

from sweeper.runners.data.cache import read_meta, tokens_entry
from sweeper.runners.data.corpus import HELD_OUT_FRACTION, find_summary, open_corpus, text_files
from sweeper.runners.data.shards import (
    check_tokens,
    count_tokens,
    describe_splits,
    find_shards,
    is_shards,
    refuse_narrow,
)
from sweeper.values.errors import DataError

BYTES_PER_TOKEN = (
    (256, 1.0),
    (512, 1.965),
    (2048, 2.832),
    (8192, 3.476),
    (32768, 3.796),
    (65536, 3.865),
)
"""(vocabulary, bytes per token) of python-packages (355 MB, tokenizers 0.23.3), both sides together.

Its own BPE makes python-stdlib 8% denser (3.09 at 2048, 3.81 at 8192); prose differs more.
"""


def fingerprint(name: str, path: str | None, vocab_size: int) -> str:
    """The fingerprint that `open_data` would give this data, without opening or encoding it.

    Reads the contents of files that are new or have changed. DataError: as `open_data`.
    """
    if path is not None and is_shards(path):
        return check_tokens(find_shards(path), vocab_size)
    return open_corpus(name, path).summary.fingerprint


def train_tokens(name: str, path: str | None, vocab_size: int) -> tuple[int, bool] | None:
    """Tokens of the train side, and whether that's exact: encoded already, or shards.

    Otherwise it is an estimate from file sizes, with `bytes_per_token`. Walks folders, reads no contents
    but shard headers. None where `path` isn't on this machine. DataError: as `open_data`, for what can be
    seen that way.
    """
    if path is not None and not os.path.exists(path):
        return None
    if path is not None and is_shards(path):
        shards = find_shards(path)
        refuse_narrow(shards, vocab_size)
        return count_tokens(shards.train), True
    files, summary = find_summary(name, path)
    if not files:
        raise DataError(f"{path or name} holds no text")
    if summary is None:
        train_bytes = (1 - HELD_OUT_FRACTION) * sum(file.size for file in files)
        return round(train_bytes / bytes_per_token(vocab_size)), False
    meta = read_meta(tokens_entry(summary.fingerprint, vocab_size))
    if meta is not None:
        return meta["train_tokens"], True
    size = summary.train_bytes + summary.train_documents
    return round(size / bytes_per_token(vocab_size)), vocab_size == 256


def fault(path: str) -> str:
    """What is wrong with the data in `path`, "" where nothing can be seen. Reads as little as `train_tokens`."""
    try:
        if is_shards(path):
            find_shards(path)
        elif not text_files("", path).files:
            return f"{path} is empty: put text there, or token shards named *.bin"
    except DataError as error:
        return str(error)
    return ""


def data_splits(path: str | None) -> Iterator[str]:
    """Which files are trained on and which are held out, in one line; none of data that isn't here, or is embedded.

    DataError: as `train_tokens`.
    """
    if path is None or not os.path.exists(path):
        return
    if is_shards(path):
        yield f"Data: {path}: {describe_splits(find_shards(path))}."
        return
    files, left_out = text_files("", path)
    others = "".join(f", {count:,} × {kind} left out" for kind, count in left_out.items())
    yield (
        f"Data: {path}: {len(files):,} files of text{others}; held out are {HELD_OUT_FRACTION:.0%} of the documents, "
        "by their contents and not by their names."
    )


def bytes_per_token(vocab_size: int) -> float:
    """An estimate for Python source: linear in log V between measured vocabularies, constant outside."""
    for (low, least), (high, most) in pairwise(BYTES_PER_TOKEN):
        if vocab_size <= high:
            share = math.log(max(vocab_size, low) / low) / math.log(high / low)
            return least + share * (most - least)
    return BYTES_PER_TOKEN[-1][1]
