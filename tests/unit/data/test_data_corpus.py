"""Documents, their split and their fingerprint, against the files themselves."""

import hashlib
import os
import random
import shutil
import sysconfig
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.runners.data import corpus as corpus_module
from sweeper.runners.data.corpus import open_corpus, roots_of
from sweeper.values.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path / "cache"))


def write_texts(root: Path, count: int, *, size: int = 1500, seed: int = 0) -> dict[str, bytes]:
    draw = random.Random(seed)
    texts = {}
    for number in range(count):
        name = f"folder{number % 3}/file{number:03}.txt"
        words = " ".join(str(draw.randrange(10**6)) for _ in range(size // 7))
        texts[name] = f"{words}\n".encode()
    for name, data in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return texts


def sides(corpus) -> dict[bool, list[bytes]]:
    return {side: [corpus.read(doc) for doc in corpus.side(held_out=side)] for side in (False, True)}


def test_every_text_stands_on_one_side_once_in_the_order_of_paths(tmp_path):
    texts = write_texts(tmp_path / "a", 200)
    corpus = open_corpus("a", str(tmp_path / "a"))
    got = sides(corpus)
    in_order = [texts[name] for name in sorted(texts)]
    assert sorted(got[False] + got[True]) == sorted(in_order)
    assert got[False] == [text for text in in_order if text in set(got[False])]
    assert corpus.summary.train_documents == len(got[False])
    assert corpus.summary.held_out_bytes == sum(map(len, got[True]))
    assert 1 <= len(got[True]) <= 24  # 8 expected of 200 at 4%


def test_held_out_are_the_lowest_4_percent_of_sha256(tmp_path):
    texts = write_texts(tmp_path / "a", 300)
    got = sides(open_corpus("a", str(tmp_path / "a")))
    low = {t for t in texts.values() if int(hashlib.sha256(t).hexdigest(), 16) < 0.04 * 2**256}
    assert sum(map(len, low)) > 0.01 * sum(map(len, texts.values()))
    assert set(got[True]) == low


def test_split_and_fingerprint_survive_moving_the_root_and_the_order_of_creation(tmp_path):
    texts = write_texts(tmp_path / "a", 60)
    for name in sorted(texts, reverse=True):
        (tmp_path / "elsewhere" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "elsewhere" / name).write_bytes(texts[name])
    first, second = open_corpus("a", str(tmp_path / "a")), open_corpus("b", str(tmp_path / "elsewhere"))
    assert first.summary == second.summary
    assert first.documents == second.documents
    assert len(first.summary.fingerprint) == 16
    int(first.summary.fingerprint, 16)


def test_the_side_of_a_text_does_not_depend_on_its_name(tmp_path):
    texts = write_texts(tmp_path / "a", 80)
    for number, data in enumerate(sorted(texts.values())):
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / f"{number}.md").write_bytes(data)
    first, second = open_corpus("a", str(tmp_path / "a")), open_corpus("b", str(tmp_path / "b"))
    assert set(sides(first)[True]) == set(sides(second)[True])
    assert first.summary.fingerprint != second.summary.fingerprint  # the names differ


@pytest.mark.parametrize("change", ["contents", "added", "removed", "renamed"])
def test_fingerprint_changes_with_the_data(tmp_path, change):
    write_texts(tmp_path, 90)
    before = open_corpus("a", str(tmp_path / "folder0")).summary.fingerprint
    file = tmp_path / "folder0" / "file000.txt"
    if change == "contents":
        data = file.read_bytes()
        file.write_bytes(b"X" + data[1:])
        os.utime(file, ns=(1, 1))
    elif change == "added":
        (tmp_path / "folder0" / "new").write_text("new")
    elif change == "removed":
        (tmp_path / "folder0" / "file003.txt").unlink()
    else:
        file.rename(file.with_name("renamed.txt"))
    assert open_corpus("a", str(tmp_path / "folder0")).summary.fingerprint != before


def test_identical_files_are_kept_once_and_binary_ones_are_counted(tmp_path):
    write_texts(tmp_path, 40)
    shutil.copy(tmp_path / "folder0" / "file000.txt", tmp_path / "zcopy.txt")
    (tmp_path / "nul.dat").write_bytes(b"text\0text")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "cut.txt").write_bytes("café".encode()[:-1])
    (tmp_path / ".hidden").write_text("not read")
    (tmp_path / "empty.txt").write_text("")
    corpus = open_corpus("a", str(tmp_path))
    summary = corpus.summary
    assert (summary.files, summary.duplicates, summary.skipped) == (44, 1, 3)
    names = {document.name for document in corpus.documents}
    assert len(names) == 40
    assert "zcopy.txt" not in names


def test_one_file_is_cut_at_line_ends_and_nothing_is_lost(tmp_path):
    draw = random.Random(1)
    text = b"".join(b"%d\n" % draw.randrange(10**9) for _ in range(60_000))
    (tmp_path / "one.txt").write_bytes(text)
    corpus = open_corpus("a", str(tmp_path))
    pieces = [corpus.read(document) for document in corpus.documents]
    assert b"".join(pieces) == text
    assert all(piece.endswith(b"\n") for piece in pieces)
    held_out = sum(map(len, sides(corpus)[True]))
    assert 0.005 * len(text) < held_out < 0.25 * len(text)
    assert open_corpus("a", str(tmp_path / "one.txt")).summary == corpus.summary


def test_a_file_that_dominates_is_cut_too(tmp_path):
    texts = write_texts(tmp_path / "a", 30)
    draw = random.Random(2)
    large = "".join(f"{draw.randrange(10**9)}\n" for _ in range(100_000)).encode()
    (tmp_path / "a" / "large.txt").write_bytes(large)
    corpus = open_corpus("a", str(tmp_path / "a"))
    parts = [document for document in corpus.documents if document.name == "large.txt"]
    assert len(parts) > 10
    assert {document.held_out for document in parts} == {True, False}
    assert len({document.name for document in corpus.documents}) == len(texts) + 1


def test_there_is_a_train_side_even_if_all_hashes_are_low():
    documents = [corpus_module.Document(f"{n}", 0, 10, f"{n:064x}", False) for n in range(3)]
    assert [document.held_out for document in corpus_module._split("a", documents)] == [True, True, False]


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text("aé漢😀 \n", min_size=1, max_size=80), min_size=1, max_size=30),
    repeats=st.integers(400, 2000),
)
def test_pieces_are_whole_characters_and_sides_never_share_contents(texts, repeats):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_CACHE_DIR", f"{folder}/cache")
        data = Path(folder, "data")
        data.mkdir()
        for number, text in enumerate(texts):
            body = "".join(f"{text}{number}{line}" for line in range(repeats))
            (data / f"{number}").write_text(body, encoding="utf-8")
        whole = {path.name: path.read_bytes() for path in data.iterdir()}
        if sum(map(len, whole.values())) < 20_480:
            return
        corpus = open_corpus("a", str(data))
        got = sides(corpus)
        assert got[True]
        assert got[False]
        assert not set(got[True]) & set(got[False])
        for document in corpus.documents:
            corpus.read(document).decode("utf-8")
        for name, contents in whole.items():
            parts = [corpus.read(document) for document in corpus.documents if document.name == name]
            assert not parts or b"".join(parts) == contents


def test_warm_open_reads_no_file(tmp_path, monkeypatch):
    write_texts(tmp_path / "a", 30)
    first = open_corpus("a", str(tmp_path / "a"))

    def refuse(*args, **kwargs):
        raise AssertionError("a file was read again")

    monkeypatch.setattr(corpus_module, "_text_digest", refuse)
    again = open_corpus("a", str(tmp_path / "a"))
    assert again.summary == first.summary
    assert again.documents == first.documents


def test_a_damaged_inventory_is_taken_again(tmp_path):
    write_texts(tmp_path / "a", 30)
    first = open_corpus("a", str(tmp_path / "a"))
    first.inventory.write_text('{"fingerprint": "12')
    assert open_corpus("a", str(tmp_path / "a")).documents == first.documents


def test_a_file_that_changed_after_the_inventory_is_refused(tmp_path):
    write_texts(tmp_path / "a", 30)
    corpus = open_corpus("a", str(tmp_path / "a"))
    file = tmp_path / "a" / corpus.documents[0].name
    file.write_bytes(file.read_bytes().replace(b"1", b"2"))
    with pytest.raises(DataError, match="changed while it was being read"):
        corpus.read(corpus.documents[0])


def test_links_to_folders_are_followed_without_looping(tmp_path):
    write_texts(tmp_path / "real", 30)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real" / "up").symlink_to(tmp_path / "a", target_is_directory=True)
    corpus = open_corpus("a", str(tmp_path / "a"))
    assert len(corpus.documents) == 30
    assert corpus.documents[0].name.startswith("link/")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no text: at least 20,480 bytes"),
        ({"a.dat": b"\0\1\2"}, "holds no text .1 files that aren't UTF-8 text were skipped"),
        ({"a.txt": b"too little\n"}, "holds 11 bytes of distinct text: at least 20,480"),
        ({"a.txt": b"x\n" * 30_720}, "repeats one text"),
    ],
)
def test_too_little_text_says_how_much_is_needed(tmp_path, files, message):
    (tmp_path / "a").mkdir()
    for name, data in files.items():
        (tmp_path / "a" / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        open_corpus("a", str(tmp_path / "a"))


def test_a_missing_path_and_an_unknown_name_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*nowhere"):
        open_corpus("nowhere", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="python-stdlib, python-packages"):
        open_corpus("wikipedia", None)


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    write_texts(tmp_path / "a", 30)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(DataError, match="SWEEPER_CACHE_DIR names another place"):
        open_corpus("a", str(tmp_path / "a"))


def test_embedded_corpora_leave_out_tests_and_sweeper(tmp_path, monkeypatch):
    layout = {
        "lib/ast.py": True, "lib/json/decoder.py": True, "lib/test/test_ast.py": False,
        "lib/unittest/test/x.py": False, "lib/idlelib/idle_test/x.py": False, "lib/lib2to3/tests/x.py": False,
        "lib/site-packages/pip/x.py": False, "lib/notes.txt": False, "lib/_sysconfigdata__linux.py": False,
        "site/numpy/core.py": True, "site/numpy/tests/x.py": True, "site/six.py": True,
        "site/sweeper/cli.py": False, "site/other/model/x.py": True,
        "site/__editable___sweeper_0_1_0_finder.py": False, "site/numpy/core.so": False,
    }  # fmt: skip
    for number, name in enumerate(layout):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {number}\n" * 1000)
    places = {"stdlib": "lib", "purelib": "site", "platlib": "site"}
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(tmp_path / places[kind]))
    wanted = {name for name, kept in layout.items() if kept}
    got = corpus_module.list_files(roots_of("python-packages", None))
    assert {os.path.relpath(file.path, tmp_path) for file in got} == wanted
    got = corpus_module.list_files(roots_of("python-stdlib", None))
    assert [file.name for file in got] == ["stdlib/ast.py", "stdlib/json/decoder.py"]
