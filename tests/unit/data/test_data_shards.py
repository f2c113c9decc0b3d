"""Token shards written here with struct: what is read, and what is refused and why."""

import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.runners.data import shards as shards_module
from sweeper.runners.data.dataset import Concatenated, open_data
from sweeper.values.errors import DataError

VOCAB = 1000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path / "cache"))


def draw_tokens(count: int, seed: int = 0, below: int = VOCAB) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(below) for _ in range(count)]


def raw(tokens: list[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}H", *tokens)


def headed(tokens: list[int], *, magic: int = 20240520, version: int = 1, count: int | None = None) -> bytes:
    header = [magic, version, len(tokens) if count is None else count] + [0] * 253
    return struct.pack("<256i", *header) + raw(tokens)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("form", [raw, headed])
def test_a_folder_with_train_and_val(tmp_path, form):
    train, val = draw_tokens(5000), draw_tokens(700, seed=1)
    write(tmp_path / "d" / "train.bin", form(train))
    write(tmp_path / "d" / "val.bin", form(val))
    write(tmp_path / "d" / "prepare.py", b"not read")
    dataset = open_data("d", str(tmp_path / "d"), VOCAB)
    assert dataset.train[0:5000].tolist() == train
    assert dataset.held_out[0:700].tolist() == val
    assert (len(dataset.train), len(dataset.held_out)) == (5000, 700)
    assert dataset.bytes_per_token is None
    assert "5,000 train tokens in train.bin, 700 held out in val.bin" in dataset.description


def test_many_shards_are_one_array_in_the_order_of_names(tmp_path):
    parts = [draw_tokens(count, seed=count) for count in (30, 1, 77, 12)]
    for number, part in enumerate(parts):
        form = headed if number % 2 else raw
        write(tmp_path / "d" / f"fineweb_train_{number:06}.bin", form(part))
    write(tmp_path / "d" / "fineweb_val_000000.bin", headed(draw_tokens(50)))
    train = open_data("d", str(tmp_path / "d"), VOCAB).train
    whole = [token for part in parts for token in part]
    assert len(train) == len(whole)
    for start in range(0, 120, 7):
        for stop in range(start, 125, 11):
            assert train[start:stop].tolist() == whole[start:stop]


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), start=st.integers(0, 60), size=st.integers(0, 60))
def test_slices_across_arrays_equal_slices_of_the_whole(lengths, start, size):
    whole = np.arange(sum(lengths))
    view = Concatenated(np.split(whole, np.cumsum(lengths)[:-1]))
    assert view[start : start + size].tolist() == whole[start : start + size].tolist()
    assert view[-5:].tolist() == whole[-5:].tolist()
    assert len(view) == len(whole)


@pytest.mark.parametrize(("count", "held_out"), [(100_000, 16_384), (1_000_000, 40_000), (400, 100), (40_000, 10_000)])
def test_without_val_the_end_of_the_last_shard_is_held_out(tmp_path, count, held_out):
    first, last = draw_tokens(300), draw_tokens(count, seed=2)
    write(tmp_path / "d" / "a.bin", headed(first))
    write(tmp_path / "d" / "b.bin", headed(last))
    dataset = open_data("d", str(tmp_path / "d"), VOCAB)
    assert len(dataset.held_out) == held_out
    assert dataset.held_out[0:held_out].tolist() == last[-held_out:]
    assert dataset.train[0 : 300 + count].tolist() == first + last[:-held_out]
    assert "held out in the end of b.bin" in dataset.description


def test_one_file_is_a_dataset(tmp_path):
    tokens = draw_tokens(4000)
    by_suffix = write(tmp_path / "tokens.bin", headed(tokens))
    by_magic = write(tmp_path / "tokens.data", headed(tokens))
    for path in (by_suffix, by_magic):
        dataset = open_data("t", str(path), VOCAB)
        assert dataset.train[0:3000].tolist() == tokens[:3000]
        assert dataset.held_out[0:1000].tolist() == tokens[3000:]


def damaged(tmp_path: Path) -> dict[str, tuple[bytes, str]]:
    tokens = draw_tokens(600)
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("data.pkl", b"x" * 99)
    np.save(tmp_path / "n.npy", np.arange(600, dtype=np.uint16))
    big = struct.pack(">256i", 20240520, 1, 600, *[0] * 253) + struct.pack(">600H", *tokens)
    safetensors = struct.pack("<Q", 60) + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}      '
    return {
        "empty": (b"", "is empty"),
        "odd": (raw(tokens) + b"\1", "odd size, 1,201 bytes"),
        "magic": (headed(tokens, magic=20240521), "magic 20240521, which should be 20240520"),
        "version": (headed(tokens, version=2), "version 2 in its header"),
        "llama3": (headed(tokens, magic=20240801, version=7), "uint32 tokens"),
        "cut": (headed(tokens)[:-100], r"2,124 bytes, but its header counts 600 tokens, .* 2,224"),
        "longer": (headed(tokens) + b"\0\0", "its header counts 600"),
        "negative": (headed(tokens, count=-1), "its header counts -1"),
        "no tokens": (headed([]), "its header counts 0"),
        "half a header": (headed(tokens)[:600], "ends inside its header, after 600 of 1024"),
        "big-endian": (big, "big-endian"),
        "zip": ((tmp_path / "z").read_bytes(), "zip archive"),
        "npy": ((tmp_path / "n.npy").read_bytes(), "NumPy"),
        "pickle": (pickle.dumps(list(range(300))), "pickle"),
        "pickle 2": (pickle.dumps({"a": [1] * 300}, protocol=2), "pickle"),
        "parquet": (b"PAR1" + bytes(range(200)) + b"PAR1", "Parquet"),
        "safetensors": (safetensors + b"\0" * 4, "safetensors"),
        "text": (b"Once upon a time, there was no token.\n" * 40, "plain text"),
        "foreign ids": (raw([*tokens[:-1], 1000]), "holds token 1,000, but vocab_size is 1,000: at least 1,001"),
    }


KINDS = (
    "empty", "odd", "magic", "version", "llama3", "cut", "longer", "negative", "no tokens", "half a header",
    "big-endian", "zip", "npy", "pickle", "pickle 2", "parquet", "safetensors", "text", "foreign ids",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_and_foreign_shards_are_named_with_what_is_wrong(tmp_path, kind):
    kinds = damaged(tmp_path)
    assert set(kinds) == set(KINDS)
    data, message = kinds[kind]
    write(tmp_path / "d" / "good.bin", headed(draw_tokens(500)))
    write(tmp_path / "d" / "zz_bad.bin", data)
    with pytest.raises(DataError, match=message) as error:
        open_data("d", str(tmp_path / "d"), VOCAB)
    assert "zz_bad.bin" in str(error.value)


def test_a_foreign_id_is_found_in_the_held_out_part_and_beyond_the_first_block(tmp_path, monkeypatch):
    tokens = draw_tokens(20_000)
    tokens[-1] = 5000
    path = write(tmp_path / "t.bin", headed(tokens))
    with pytest.raises(DataError, match="at least 5,001"):
        open_data("t", str(path), VOCAB)
    assert open_data("t", str(path), 5001).vocab_size == 5001  # and from the cached check:
    with pytest.raises(DataError, match="at least 5,001"):
        open_data("t", str(path), 5000)


def test_a_checked_shard_is_not_read_again_until_it_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "t.bin", headed(draw_tokens(2000)))
    first = open_data("t", str(path), VOCAB).fingerprint
    read = []
    blocks = shards_module._blocks
    monkeypatch.setattr(shards_module, "_blocks", lambda *args: read.append(args) or blocks(*args))
    assert open_data("t", str(path), VOCAB).fingerprint == first
    assert not read
    write(path, headed(draw_tokens(2000, seed=9)))
    assert open_data("t", str(path), VOCAB).fingerprint != first
    assert len(read) == 1


def test_the_fingerprint_is_of_contents_and_names_not_of_place_or_header(tmp_path):
    tokens = draw_tokens(2000)
    here = write(tmp_path / "a" / "t.bin", headed(tokens))
    there = write(tmp_path / "b" / "t.bin", raw(tokens))
    prints = {open_data("t", str(path), VOCAB).fingerprint for path in (here, there)}
    assert len(prints) == 1
    assert len(prints.pop()) == 16


def test_only_val_shards_cannot_train(tmp_path):
    write(tmp_path / "d" / "val.bin", headed(draw_tokens(500)))
    with pytest.raises(DataError, match=r"only shards to hold out: .* the words val, valid"):
        open_data("d", str(tmp_path / "d"), VOCAB)


def test_a_folder_named_val_does_not_make_its_shards_held_out(tmp_path):
    write(tmp_path / "eval" / "train.bin", headed(draw_tokens(500)))
    assert len(open_data("d", str(tmp_path / "eval"), VOCAB).train) == 375
