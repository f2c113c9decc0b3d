"""What the planner is told about the data: exact where it is known, near where it is estimated."""

import random
import struct

import numpy as np
import pytest

from sweeper.runners.data.dataset import open_data
from sweeper.runners.data.inventory import BYTES_PER_TOKEN, bytes_per_token, fingerprint, train_tokens
from sweeper.values.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def texts(tmp_path) -> str:
    draw = random.Random(0)
    (tmp_path / "texts").mkdir()
    for number in range(120):
        text = "".join(f"x{draw.randrange(100)} = y + {draw.randrange(100)}\n" for _ in range(100))
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    return str(tmp_path / "texts")


@pytest.mark.parametrize("vocab_size", [256, 400])
def test_an_estimate_becomes_exact_when_the_data_is_encoded(texts, vocab_size):
    estimate, exact = train_tokens("texts", texts, vocab_size)
    assert not exact
    tokens = len(open_data("texts", texts, vocab_size).train)
    assert 0.5 < estimate / tokens < 2
    assert train_tokens("texts", texts, vocab_size) == (tokens, True)


def test_bytes_are_exact_once_the_files_are_known(texts):
    tokens = len(open_data("texts", texts, 400).train)
    count, exact = train_tokens("texts", texts, 256)
    assert exact
    assert count > tokens
    assert count == len(open_data("texts", texts, 256).train)
    assert train_tokens("texts", texts, 300)[1] is False


def test_shards_are_counted_by_their_headers(tmp_path):
    header = struct.pack("<256i", 20240520, 1, 3000, *[0] * 253)
    (tmp_path / "train_0.bin").write_bytes(header + bytes(6000))
    (tmp_path / "train_1.bin").write_bytes(header + bytes(6000))
    (tmp_path / "val_0.bin").write_bytes(header + bytes(6000))
    assert train_tokens("shards", str(tmp_path), 50_000) == (6000, True)
    (tmp_path / "val_0.bin").unlink()
    expected = len(open_data("shards", str(tmp_path), 50_000).train)
    assert train_tokens("shards", str(tmp_path), 50_000) == (expected, True)
    (tmp_path / "train_1.bin").write_bytes(header)
    with pytest.raises(DataError, match="its header counts 3,000"):
        train_tokens("shards", str(tmp_path), 50_000)


def test_what_is_not_here_is_unknown_and_what_is_wrong_is_said(tmp_path):
    assert train_tokens("x", str(tmp_path / "nowhere"), 256) is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no text"):
        train_tokens("x", str(tmp_path / "empty"), 256)
    with pytest.raises(DataError, match="python-stdlib"):
        train_tokens("wikipedia", None, 256)


def test_bytes_per_token_passes_through_what_was_measured_and_rises_between():
    assert bytes_per_token(256) == 1
    for vocab_size, measured in BYTES_PER_TOKEN:
        assert bytes_per_token(vocab_size) == pytest.approx(measured)
    values = [bytes_per_token(vocab_size) for vocab_size in range(256, 70_000, 100)]
    assert values == sorted(values)
    assert bytes_per_token(10**6) == BYTES_PER_TOKEN[-1][1]


def test_the_fingerprint_is_that_of_the_opened_data_and_moves_with_the_contents(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"file {number}\n" * 300)
    before = fingerprint("text", str(folder), 256)
    assert before == open_data("text", str(folder), 256).fingerprint
    (folder / "3.txt").write_text("something else\n" * 300)
    assert fingerprint("text", str(folder), 256) != before
    shards = tmp_path / "shards"
    shards.mkdir()
    np.arange(30_000, dtype=np.uint16).tofile(shards / "train.bin")
    assert fingerprint("shards", str(shards), 32768) == open_data("shards", str(shards), 32768).fingerprint
