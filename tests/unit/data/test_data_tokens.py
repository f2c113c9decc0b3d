"""Bytes and BPE: what is encoded comes back, and the cache holds whole builds only."""

import hashlib
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sweeper.runners.data import tokens as tokens_module
from sweeper.runners.data.cache import cache_dir, read_meta, tokens_entry
from sweeper.runners.data.corpus import open_corpus
from sweeper.runners.data.tokens import encode_corpus
from sweeper.values.errors import DataError

WORDS = ["def", "return", "import", "naïve", "漢字", "😀", "self", "  ", "\n", "\t", "x", "==", "0x7f"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path / "cache"))


def write_texts(root: Path, count: int, seed: int = 0) -> list[bytes]:
    root.mkdir(parents=True)
    draw, texts = random.Random(seed), []
    for number in range(count):
        text = " ".join(draw.choice(WORDS) + f"{draw.randrange(300)}" for _ in range(300)) + f"\n{number}\n"
        texts.append(text.encode())
        (root / f"{number:03}.txt").write_bytes(texts[-1])
    return texts


def token_table(entry: Path) -> list[bytes]:
    """The bytes of each token, from the saved tokenizer's vocabulary: GPT-2's byte alphabet, inverted."""
    letters = {}
    for byte in range(256):
        letter = Tokenizer.from_file(str(entry / "tokenizer.json")).pre_tokenizer.pre_tokenize_str(chr(byte))
        if byte < 128:
            letters[letter[0][0]] = byte
    free = 256
    for byte in range(256):
        shown = 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255
        letter, free = (chr(byte), free) if shown else (chr(free), free + 1)
        assert letters.get(letter, byte) == byte
        letters[letter] = byte
    vocab = Tokenizer.from_file(str(entry / "tokenizer.json")).get_vocab()
    return [bytes(letters[x] for x in token) for token, _ in sorted(vocab.items(), key=lambda item: item[1])]


@pytest.mark.parametrize("vocab_size", [256, 300, 400])
def test_each_side_is_its_documents_each_ended_by_byte_0(tmp_path, vocab_size):
    write_texts(tmp_path / "a", 60)
    corpus = open_corpus("a", str(tmp_path / "a"))
    encoded = encode_corpus(corpus, vocab_size)
    entry = tokens_entry(corpus.summary.fingerprint, vocab_size)
    table = [bytes([byte]) for byte in range(256)] if vocab_size == 256 else token_table(entry)
    assert len(table) == vocab_size
    for held_out, got, size in (
        (False, encoded.train, encoded.train_bytes),
        (True, encoded.held_out, encoded.held_out_bytes),
    ):
        wanted = b"".join(corpus.read(document) + b"\0" for document in corpus.side(held_out=held_out))
        assert b"".join(table[token] for token in got) == wanted
        assert size == len(wanted)
        if encoded.token_bytes is not None:
            assert int(encoded.token_bytes[got].sum()) == len(wanted)
    meta = read_meta(entry)
    assert (meta["train_tokens"], meta["held_out_tokens"]) == (len(encoded.train), len(encoded.held_out))


@settings(max_examples=15, deadline=None)
@given(odd=st.lists(st.binary(min_size=1, max_size=200), max_size=8))
def test_no_byte_of_a_python_file_is_lost(odd):
    """Whatever bytes a .py file holds (but 0), the BPE's tokens stand for exactly them."""
    from sweeper.runners.data.tokens import _encode, _train_bpe

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_CACHE_DIR", f"{folder}/cache")
        write_texts(Path(folder, "a"), 30)
        bpe = _train_bpe(open_corpus("a", f"{folder}/a"), 300)
        bpe.save(f"{folder}/tokenizer.json")
        texts = [text.replace(b"\0", b"\xff") for text in odd] + [b"\xe6\xbc", "é".encode(), b"\0"]
        table = token_table(Path(folder))
        got = _encode(texts, bpe, np.dtype("<u2"))
    assert b"".join(table[token] for token in got) == b"".join(texts)


def test_one_file_has_one_separator_per_run_of_pieces(tmp_path):
    draw = random.Random(3)
    (tmp_path / "one.txt").write_text("".join(f"{draw.randrange(10**9)}\n" for _ in range(20_000)))
    corpus = open_corpus("one", str(tmp_path / "one.txt"))
    encoded = encode_corpus(corpus, 256)
    flags = [document.held_out for document in corpus.documents]
    runs = [flag for flag, before in zip(flags, [None, *flags[:-1]], strict=True) if flag != before]
    assert np.count_nonzero(np.asarray(encoded.train) == 0) == runs.count(False)
    assert np.count_nonzero(np.asarray(encoded.held_out) == 0) == runs.count(True)


def test_small_parts_and_batches_encode_the_same_bytes(tmp_path, monkeypatch):
    write_texts(tmp_path / "a", 40)
    corpus = open_corpus("a", str(tmp_path / "a"))
    whole = encode_corpus(corpus, 256).train.tobytes()
    monkeypatch.setattr(tokens_module, "TEXT_BYTES", 100)
    monkeypatch.setattr(tokens_module, "BATCH_BYTES", 1000)
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path / "cache2"))
    assert encode_corpus(open_corpus("a", str(tmp_path / "a")), 256).train.tobytes() == whole


def test_training_and_encoding_are_deterministic(tmp_path, monkeypatch):
    write_texts(tmp_path / "a", 60)
    results = []
    for name in ("one", "two"):
        monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path / name))
        corpus = open_corpus("a", str(tmp_path / "a"))
        encode_corpus(corpus, 380)
        entry = tokens_entry(corpus.summary.fingerprint, 380)
        results.append({path.name: path.read_bytes() for path in entry.iterdir()})
    assert results[0] == results[1]
    assert {"train.bin", "held_out.bin", "tokenizer.json", "meta.json"} <= results[0].keys()


def test_only_the_train_side_teaches_the_bpe(tmp_path):
    write_texts(tmp_path / "a", 60)
    corpus = open_corpus("a", str(tmp_path / "a"))
    sample = "".join(tokens_module._sample(corpus)).encode()
    assert len(sample) == corpus.summary.train_bytes
    assert all(corpus.read(document) not in sample for document in corpus.side(held_out=True))


def test_the_sample_is_bounded(tmp_path, monkeypatch):
    texts = write_texts(tmp_path / "a", 60)
    monkeypatch.setattr(tokens_module, "SAMPLE_BYTES", 10_000)
    sample = list(tokens_module._sample(open_corpus("a", str(tmp_path / "a"))))
    assert 10_000 <= sum(len(text.encode()) for text in sample) < 10_000 + max(map(len, texts))


def test_the_sample_is_spread_by_hash_not_by_name(tmp_path, monkeypatch):
    write_texts(tmp_path / "a", 60)
    corpus = open_corpus("a", str(tmp_path / "a"))
    monkeypatch.setattr(tokens_module, "SAMPLE_BYTES", 5_000)
    train = [corpus.read(document) for document in corpus.side(held_out=False)]
    lowest = sorted(train, key=lambda text: hashlib.sha256(text).digest())
    sample = [text.encode() for text in tokens_module._sample(corpus)]
    assert len(sample) > 1
    assert sample == lowest[: len(sample)]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(256, "u1"), (257, "<u2"), (65_536, "<u2"), (65_537, "<u4")])
def test_tokens_take_the_smallest_integers(vocab_size, dtype):
    assert tokens_module.token_dtype(vocab_size) == np.dtype(dtype)


def test_a_vocabulary_below_bytes_is_refused(tmp_path):
    write_texts(tmp_path / "a", 60)
    with pytest.raises(DataError, match=r"vocab_size 255 .* 256"):
        encode_corpus(open_corpus("a", str(tmp_path / "a")), 255)


def test_a_vocabulary_beyond_the_text_names_the_largest(tmp_path):
    write_texts(tmp_path / "a", 60)
    corpus = open_corpus("a", str(tmp_path / "a"))
    with pytest.raises(DataError, match=r"is the largest it can give") as error:
        encode_corpus(corpus, 30_000)
    largest = int(str(error.value).split(": ")[-1].split()[0])
    assert not any("30000" in path.name and path.is_dir() for path in (cache_dir() / "tokens").iterdir())
    assert int(encode_corpus(corpus, largest).train.max()) < largest
    with pytest.raises(DataError):
        encode_corpus(corpus, largest + 1)


def test_a_build_with_a_file_cut_off_is_built_again(tmp_path):
    write_texts(tmp_path / "a", 60)
    corpus = open_corpus("a", str(tmp_path / "a"))
    whole = encode_corpus(corpus, 256).train.tobytes()
    file = tokens_entry(corpus.summary.fingerprint, 256) / "train.bin"
    file.write_bytes(whole[: len(whole) // 2])
    assert encode_corpus(corpus, 256).train.tobytes() == whole


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("SWEEPER_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "sweeper"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "sweeper"
