"""Batches against brute-force indexing: each window once per pass, whatever the micro-batch."""

import contextlib
import gc
import itertools
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.runners.data.dataset import (
    Concatenated,
    Dataset,
    epochs,
    held_out_batches,
    held_out_bytes_per_token,
    train_batches,
    windows_per_pass,
)
from sweeper.values.errors import DataError


def make_dataset(train: int, held_out: int = 100, token_bytes: np.ndarray | None = None) -> Dataset:
    """Every train token is its own position, so that a window's first token says where it stands."""
    return Dataset(
        train=np.arange(train),
        held_out=np.arange(held_out),
        bytes_per_token=None,
        token_bytes=token_bytes,
        fingerprint="0" * 16,
        vocab_size=max(train, held_out),
        description="positions",
    )


def draw_batches(dataset, count, *, seed=0, batch_size=2, seq_len=4, skip=0):
    batches = train_batches(dataset, seed=seed, batch_size=batch_size, seq_len=seq_len, device="cpu", skip=skip)
    with contextlib.closing(batches):
        return list(itertools.islice(batches, count))


def draw_sequences(dataset, count, **options):
    """The first `count` sequences as rows of seq_len + 1 tokens."""
    batch_size = options.get("batch_size", 2)
    rows = []
    for inputs, targets in draw_batches(dataset, -(-count // batch_size), **options):
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        rows += torch.cat([inputs, targets[:, -1:]], dim=1).tolist()
    return rows[:count]


def test_batches_are_int64_of_the_shape_asked():
    [(inputs, targets)] = draw_batches(make_dataset(100), 1, batch_size=3, seq_len=5)
    assert inputs.shape == targets.shape == (3, 5)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.is_contiguous()
    assert targets.is_contiguous()


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(2, 200), seq_len=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_each_pass_visits_each_window_once(tokens, seq_len, seed):
    if tokens < seq_len + 1:
        return
    dataset = make_dataset(tokens)
    windows = windows_per_pass(dataset, seq_len)
    rows = draw_sequences(dataset, 2 * windows, seed=seed, seq_len=seq_len)
    for rows_of_pass in (rows[:windows], rows[windows:]):
        starts = sorted(row[0] for row in rows_of_pass)
        offset = starts[0]
        assert 0 <= offset < seq_len
        assert starts == [offset + seq_len * index for index in range(windows)]
        for row in rows_of_pass:
            assert row == list(range(row[0], row[0] + seq_len + 1))
        assert starts[-1] + seq_len < tokens
    # A pass leaves out less than two windows' tokens at the ends.
    assert windows * seq_len > tokens - 2 * seq_len
    assert epochs(dataset, 3 * windows * seq_len, seq_len) == 3


def test_order_does_not_depend_on_the_micro_batch():
    dataset = make_dataset(1003)
    rows = [draw_sequences(dataset, 480, seed=5, batch_size=size, seq_len=7) for size in (1, 3, 8, 480)]
    assert rows[0] == rows[1] == rows[2] == rows[3]


@pytest.mark.parametrize("skip", [0, 1, 141, 142, 143, 284, 300, 1000])
def test_skipping_goes_on_where_one_would_be(skip):
    """142 windows make a pass: what follows is the same however much of it was skipped, over passes too."""
    dataset = make_dataset(1003)
    assert windows_per_pass(dataset, 7) == 142
    rows = draw_sequences(dataset, skip + 200, seed=5, seq_len=7)
    assert draw_sequences(dataset, 200, seed=5, seq_len=7, skip=skip) == rows[skip:]


def test_the_seed_fixes_the_order_and_another_seed_has_another():
    dataset = make_dataset(1003)
    first = draw_sequences(dataset, 100, seed=1)
    assert draw_sequences(dataset, 100, seed=1) == first
    assert draw_sequences(dataset, 100, seed=2) != first
    assert first != sorted(first)


def test_passes_differ_in_order_and_in_where_windows_begin():
    dataset = make_dataset(64 * 40)
    windows = windows_per_pass(dataset, 64)
    starts = [row[0] for row in draw_sequences(dataset, 8 * windows, seq_len=64)]
    passes = [starts[index * windows : (index + 1) * windows] for index in range(8)]
    assert len({min(one) for one in passes}) > 4
    assert len({tuple(np.argsort(one)) for one in passes}) == 8


def test_all_offsets_are_drawn_alike():
    dataset = make_dataset(10 * 8)
    offsets = [min(r[0] for r in draw_sequences(dataset, 9, seed=seed, seq_len=8)) for seed in range(400)]
    counts = np.bincount(offsets, minlength=8)
    assert len(counts) == 8
    assert counts.min() > 20  # 50 expected of each


def test_windows_cross_shards():
    whole = np.arange(500)
    dataset = make_dataset(500)
    split = Dataset(**{**vars(dataset), "train": Concatenated(np.split(whole, [3, 4, 250]))})
    assert draw_sequences(split, 300, seq_len=9) == draw_sequences(dataset, 300, seq_len=9)


def test_too_few_train_tokens_are_refused_at_once():
    with pytest.raises(DataError, match=r"8 train tokens are fewer than one window of seq_len \+ 1 = 9"):
        train_batches(make_dataset(8), seed=0, batch_size=1, seq_len=8, device="cpu")


def prefetch_threads() -> int:
    return sum(thread.name == "data-prefetch" for thread in threading.enumerate())


def test_closing_or_dropping_the_batches_ends_the_thread():
    batches = train_batches(make_dataset(1000), seed=0, batch_size=2, seq_len=4, device="cpu")
    assert prefetch_threads() == 0
    next(batches)
    assert prefetch_threads() == 1
    batches.close()
    assert prefetch_threads() == 0
    dropped = train_batches(make_dataset(1000), seed=0, batch_size=2, seq_len=4, device="cpu")
    next(dropped)
    del dropped
    gc.collect()
    assert prefetch_threads() == 0


class Failing:
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        raise OSError("the disk went away")


def test_an_error_of_the_thread_reaches_the_trial():
    dataset = Dataset(**{**vars(make_dataset(1000)), "train": Failing()})
    batches = train_batches(dataset, seed=0, batch_size=2, seq_len=4, device="cpu")
    with pytest.raises(OSError, match="the disk went away"):
        next(batches)
    assert prefetch_threads() == 0


@settings(max_examples=100, deadline=None)
@given(
    tokens=st.integers(2, 300),
    seq_len=st.integers(1, 20),
    eval_tokens=st.integers(1, 400),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_held_out_windows_are_frozen_spread_and_at_most_eval_tokens(tokens, seq_len, eval_tokens, sizes):
    dataset = make_dataset(2, tokens)
    fits = tokens >= seq_len + 1 and eval_tokens >= seq_len
    seen = []
    for size in sizes:
        options = {"eval_tokens": eval_tokens, "batch_size": size, "seq_len": seq_len, "device": "cpu"}
        if not fits:
            with pytest.raises(DataError, match="don't make one window"):
                held_out_batches(dataset, **options)
            return
        batches = list(held_out_batches(dataset, **options))
        assert all(len(inputs) == size for inputs, _ in batches[:-1])
        assert all(torch.equal(inputs + 1, targets) for inputs, targets in batches)
        seen.append(torch.cat([inputs for inputs, _ in batches]))
    assert torch.equal(*seen)
    rows = seen[0].tolist()
    there, windows = (tokens - 1) // seq_len, len(rows)
    assert windows == min(there, eval_tokens // seq_len)
    flat = [token for row in rows for token in row]
    assert flat == sorted(set(flat))
    gaps = np.diff([row[0] // seq_len for row in rows])
    assert all(gap in (there // windows, -(-there // windows)) for gap in gaps)


def test_bytes_per_token_counts_exactly_the_held_out_targets():
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 12, 300).astype("<u4")
    dataset = make_dataset(2, 300, lengths)
    options = {"eval_tokens": 70, "seq_len": 8}
    targets = [t for _, t in held_out_batches(dataset, batch_size=3, device="cpu", **options)]
    wanted = [int(lengths[token]) for token in torch.cat(targets).flatten().tolist()]
    assert held_out_bytes_per_token(dataset, **options) == sum(wanted) / len(wanted)
    assert held_out_bytes_per_token(make_dataset(2, 300, np.ones(300, "<u4")), **options) == 1
    assert held_out_bytes_per_token(make_dataset(2, 300), **options) is None
