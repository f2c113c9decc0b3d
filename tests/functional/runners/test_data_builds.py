"""The cache between processes: two builders, a killed builder, a real corpus, and what plan imports."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sweeper.runners.data.dataset import open_data
from sweeper.runners.data.inventory import train_tokens

OPEN = """
import sys
from sweeper.runners.data import tokens
from sweeper.runners.data.corpus import open_corpus
built = []
build = tokens._build
def watched(corpus, vocab_size, folder):
    meta = build(corpus, vocab_size, folder)
    if sys.argv[3] == "slow":
        print("building", flush=True)
        import time
        time.sleep(60)
    built.append(1)
    return meta
tokens._build = watched
encoded = tokens.encode_corpus(open_corpus("a", sys.argv[1]), int(sys.argv[2]))
print(len(built), len(encoded.train), int(encoded.train.sum()))
"""


@pytest.fixture
def texts(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path / "cache"))
    draw = random.Random(0)
    (tmp_path / "texts").mkdir()
    for number in range(100):
        text = "".join(f"x{draw.randrange(1000)} = y + {draw.randrange(100)}\n" for _ in range(1000))
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    return str(tmp_path / "texts")


def start(texts: str, vocab_size: int, speed: str = "fast") -> subprocess.Popen:
    command = [sys.executable, "-c", OPEN, texts, str(vocab_size), speed]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])


def test_of_builders_at_the_same_time_one_builds_and_all_see_the_same(texts):
    builders = [start(texts, 500) for _ in range(4)]
    lines = [builder.communicate()[0].split() for builder in builders]
    assert all(builder.returncode == 0 for builder in builders)
    assert sum(int(built) for built, _, _ in lines) == 1
    assert len({(length, total) for _, length, total in lines}) == 1
    dataset = open_data("a", texts, 500)
    assert (str(len(dataset.train)), str(int(np.sum(dataset.train)))) == tuple(lines[0][1:])


def test_a_killed_build_leaves_nothing_that_is_used(texts, tmp_path):
    builder = start(texts, 256, "slow")
    assert builder.stdout.readline() == "building\n"
    entries = tmp_path / "cache" / "tokens"
    assert [path.name for path in entries.iterdir() if path.suffix == ".building"]  # it was in the middle
    os.kill(builder.pid, signal.SIGKILL)
    builder.wait()
    builder.stdout.close()
    assert train_tokens("a", texts, 500)[1] is False
    assert not [path for path in entries.iterdir() if path.is_dir() and path.suffix != ".building"]
    after = start(texts, 256).communicate()[0].split()
    assert after[0] == "1"
    assert not [path for path in entries.iterdir() if path.suffix == ".building"]


def test_python_stdlib_is_there_on_any_machine_and_is_built_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path / "cache"))
    estimate, exact = train_tokens("python-stdlib", None, 256)
    assert not exact
    dataset = open_data("python-stdlib", None, 256)
    assert 8_000_000 < len(dataset.train) + len(dataset.held_out) < 20_000_000
    assert estimate == pytest.approx(len(dataset.train), rel=0.05)
    assert 0.01 < len(dataset.held_out) / len(dataset.train) < 0.1
    assert dataset.bytes_per_token == 1
    assert b"class JSONDecoder" in bytes(dataset.train) + bytes(dataset.held_out)
    monkeypatch.setattr("sweeper.runners.data.cache._build", None)
    again = open_data("python-stdlib", None, 256)
    assert again.fingerprint == dataset.fingerprint


def test_plan_counts_tokens_without_heavy_imports():
    code = (
        "import sys; from sweeper.runners.data.inventory import train_tokens; train_tokens('python-stdlib', None, 256);"
        "print([name for name in ('numpy', 'torch', 'tokenizers') if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert output.stdout == "[]\n"
