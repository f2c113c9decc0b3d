"""Data in formats that aren't read: refused by name and place by `check`, rather than taken for something else."""

import gzip
import json
import struct

import numpy as np
import pytest

from sweeper.commands.main import main
from sweeper.runners.data.dataset import open_data
from sweeper.runners.data.inventory import data_splits, fault
from sweeper.runners.data.shards import is_held_out
from sweeper.values.errors import DataError

RECORDS = "".join(json.dumps({"text": f"document {n}", "id": n}) + "\n" for n in range(4000)).encode()
TEXT = "".join(f"line {n} of a text\n" for n in range(4000)).encode()
IDS = np.random.default_rng(0).integers(0, 50_000, 20_000)
STUDY = """\
name: here
model: {{vocab_size: {vocab_size}, d_model: 64, head_dim: 16, n_kv_heads: 1, tie_embeddings: true}}
axes: {{n_layers: [1, 2]}}
trial: {{data: data, tokens: 10k, seq_len: 64, batch_size: 4, precision: fp32}}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(folder, files):
    for name, data in files.items():
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_bytes(data)


def check(folder, capsys, *, command="check", vocab_size=65_536):
    (folder / "here.yaml").write_text(STUDY.format(vocab_size=vocab_size))
    code = main([command, "here.yaml"])
    out, err = capsys.readouterr()
    return code, " ".join((out + err).split())


UNREAD = {
    "JSON Lines": ({"a/train.jsonl": RECORDS, "README.md": b"About.\n"}, "jq -r .text"),
    "JSON Lines in .json": ({"train.json": RECORDS}, "jq -r .text"),
    "Parquet": ({"train-00000.parquet": b"PAR1" + bytes(99), "b.parquet": b"PAR1" + bytes(9)}, "pandas.read_parquet"),
    "zstandard-compressed": ({"x.jsonl.zst": b"\x28\xb5\x2f\xfd" + bytes(99)}, "zstd -d"),
    "gzip-compressed": ({"x.txt.gz": gzip.compress(TEXT)}, "gunzip"),
    "an archive": ({"x.tar": bytes(2000)}, "unpack it"),
    "Megatron's indexed data set": (
        {"x_text_document.bin": IDS.astype("<i4").tobytes(), "x_text_document.idx": b"MMIDIDX\0\0" + bytes(90)},
        "as uint16",
    ),
    "32 or 64 bits": ({"train.bin": IDS.astype("<i4").tobytes()}, "as uint16"),
    "64 bits": ({"train.bin": IDS.astype("<i8").tobytes()}, "as uint16"),
    "ids of 32 bits above 65,536": ({"train.bin": (IDS + 100_000).astype("<u4").tobytes()}, "as uint16"),
    "a zip archive": ({"pytorch_model.bin": b"PK\x03\x04" + bytes(2000)}, "not a token shard"),
    "is empty": ({"empty/.keep": b""}, "put text there"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_check_refuses_by_name_and_place_what_is_not_read(kind, tmp_path, capsys):
    files, way_out = UNREAD[kind]
    write(tmp_path, files)
    name = kind.removesuffix(" in .json").removesuffix(" above 65,536").replace("ids of 32 bits", "32 or 64 bits")
    for command in ("check", "plan"):
        code, said = check(tmp_path, capsys, command=command)
        assert code == 2
        assert said.startswith("here.yaml:4:15: trial.data: "), said
        assert name in said
        assert way_out in said
    with pytest.raises(DataError):
        open_data("data", str(tmp_path / "data"), 65_536)


def test_one_file_of_a_format_is_refused_too(tmp_path, capsys):
    (tmp_path / "data").write_bytes(RECORDS)
    (tmp_path / "data").rename(tmp_path / "corpus.jsonl")
    assert "is JSON Lines, which isn't read: write the text" in fault(str(tmp_path / "corpus.jsonl"))


def test_raw_shards_of_a_vocabulary_beyond_16_bits(tmp_path, capsys):
    write(tmp_path, {"train.bin": IDS.astype("<u2").tobytes()})
    assert check(tmp_path, capsys)[0] == 0
    code, said = check(tmp_path, capsys, command="plan", vocab_size=100_352)
    assert code == 2
    assert "train.bin has no header and is read as uint16, which can't hold all ids of vocab_size 100,352" in said
    header = struct.pack("<256i", 20240520, 1, 20_000, *[0] * 253)
    write(tmp_path, {"train.bin": header + IDS.astype("<u2").tobytes()})
    assert check(tmp_path, capsys, command="plan", vocab_size=100_352)[0] == 0


def test_a_few_files_of_other_formats_are_left_out_and_counted(tmp_path, capsys):
    weights = {"pytorch_model.bin": b"PK\x03\x04" + bytes(10**6), "model.safetensors": bytes(100)}
    write(tmp_path, {**{f"{n}.txt": TEXT + b"%d" % n for n in range(5)}, "some.jsonl": RECORDS[:2000], **weights})
    assert check(tmp_path, capsys)[0] == 0
    dataset = open_data("data", str(tmp_path / "data"), 256)
    assert "from 5 files (1 × JSON Lines, 2 × a model's weights left out)" in dataset.description
    read = bytes(dataset.train[0 : len(dataset.train)].tolist()) + bytes(dataset.held_out[0:].tolist())
    assert b'"text"' not in read
    assert b"line 3999 of a text" in read


def test_source_code_with_json_in_it_is_text(tmp_path):
    package = json.dumps({"name": "left-pad", "files": ["index.js"]}, indent=2).encode()
    write(tmp_path, {"package.json": package, "one.json": b'{"a": 1}\n', "index.js": TEXT})
    assert "from 3 files" in open_data("data", str(tmp_path / "data"), 256).description


@pytest.mark.parametrize(
    ("name", "held_out"),
    [
        ("val.bin", True),
        ("fineweb_val_000000.bin", True),
        ("x-valid.bin", True),
        ("validation-00000-of-00001.bin", True),
        ("Dev.bin", True),
        ("my_test_0.bin", True),
        ("val000.bin", True),
        ("interval_000.bin", False),
        ("evaluated.bin", False),
        ("latest.bin", False),
        ("device.bin", False),
        ("train_000.bin", False),
    ],
)
def test_words_of_a_name_say_what_is_held_out(name, held_out):
    assert is_held_out(name) is held_out


def test_which_files_are_on_which_side_is_said_before_anything_runs(tmp_path, capsys):
    data = IDS.astype("<u2").tobytes()
    write(tmp_path, {"interval_000.bin": data, "some_test_0.bin": data[:900], "a_dev.bin": data[:700]})
    code, said = check(tmp_path, capsys, command="plan")
    assert code == 0
    sides = "20,000 train tokens in interval_000.bin, 800 held out in a_dev.bin, some_test_0.bin"
    assert sides in said.replace("- ", "-")
    assert sides in open_data("data", str(tmp_path / "data"), 65_536).description


def test_many_shards_are_said_in_short(tmp_path):
    data = IDS.astype("<u2").tobytes()
    write(tmp_path, {f"train_{n:03}.bin": data for n in range(12)} | {"val.bin": data})
    (said,) = data_splits(str(tmp_path / "data"))
    assert "240,000 train tokens in train_000.bin, train_001.bin … train_011.bin (12 shards), 20,000 held out" in said


def test_of_text_it_is_said_that_names_do_not_count(tmp_path, capsys):
    write(tmp_path, {f"{n}_test.txt": TEXT + b"%d" % n for n in range(5)})
    code, said = check(tmp_path, capsys, command="plan", vocab_size=256)
    assert code == 0
    assert "5 files of text; held out are 4% of the documents, by their contents and not by their names." in said
