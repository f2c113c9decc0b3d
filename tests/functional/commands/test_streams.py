"""What becomes of a command whose output nobody reads, can't be written, or can't be shown: it does its work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_cases import CASES, LINES, make_place
from ledger_lines import plain_lines

from sweeper.commands.main import COMMANDS, main
from sweeper.values.streams import encodable

FIRST = [*(lines[0] for lines in CASES.values()), "--help"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    make_place(tmp_path, monkeypatch)
    return tmp_path


def unread():
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


def full():
    return open("/dev/full", "w", encoding="utf-8")


def ended(line, monkeypatch, *, out, err=None):
    """The exit code of a command with these streams."""
    with monkeypatch.context() as patched, out, err or open(os.devnull, "w") as err:
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", err)
        return main(line.split())


def read_whole(line, monkeypatch, path):
    """Its exit code where all is read, and what it said."""
    code = ended(line, monkeypatch, out=path.open("w"), err=path.with_suffix(".err").open("w"))
    said = path.read_text() + path.with_suffix(".err").read_text()
    assert said
    assert "fault of sweeper's own:" not in said
    return code, path.read_text()


@pytest.mark.parametrize("page", ["README.md", "--help"])
def test_exit_codes_are_explained(page, capsys):
    if page == "--help":
        main(["--help"])
    said = capsys.readouterr().out or (Path(__file__).parents[3] / page).read_text(encoding="utf-8")
    codes = " ".join(said.split()).partition("Exit codes: ")[2]
    for end in ("0 done", "2 the study or the arguments are wrong", "4 some jobs failed", "5 a file can't be written"):
        assert end in codes


def test_every_command_is_tried():
    assert list(CASES) == list(COMMANDS)


@pytest.mark.parametrize("line", LINES)
def test_a_closed_pipe_ends_the_output_and_nothing_else(place, tmp_path_factory, monkeypatch, line):
    again = tmp_path_factory.mktemp("again")
    code, _ = read_whole(line, monkeypatch, place / "said")
    assert code == (2 if line.split()[-1] in ("none.yaml", "nowhere", "0", "nonsense") else 0)
    make_place(again, monkeypatch)
    assert ended(line, monkeypatch, out=unread(), err=unread()) == code
    if code:
        assert ended(line, monkeypatch, out=unread(), err=full()) == code
    if line == CASES["run"][0]:
        outcomes = [record["type"] for record in plain_lines(again / "runs" / "tiny" / "full" / "ledger.jsonl")]
        assert outcomes.count("final") == 2
        assert (again / "runs" / "tiny" / "full" / "report.html").stat().st_size > 0


@pytest.mark.parametrize("line", FIRST)
def test_standard_output_that_takes_nothing_is_exit_code_5(place, tmp_path_factory, monkeypatch, line):
    code, said = read_whole(line, monkeypatch, place / "said")
    make_place(tmp_path_factory.mktemp("again"), monkeypatch)
    errors = place / "errors"
    assert ended(line, monkeypatch, out=full(), err=errors.open("w")) == (5 if said and not code else code)
    if said and not code:
        assert "sweeper: standard output can't be written (No space left on device)" in errors.read_text()


@pytest.mark.parametrize("line", FIRST)
def test_what_the_terminal_cannot_show_is_shown_otherwise(place, tmp_path_factory, monkeypatch, line):
    code, whole = read_whole(line, monkeypatch, place / "said")
    make_place(tmp_path_factory.mktemp("again"), monkeypatch)
    path = place / "plain"
    assert ended(line, monkeypatch, out=path.open("w", encoding="ascii")) == code
    said = path.read_text(encoding="ascii")
    assert bool(said) == bool(whole)
    assert "\\u" not in said or "\\u" in whole
    assert "?" not in said or "?" in whole


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "1.5 ± 0.1 – é “x” ╬ \\udcff"),
        ("latin-1", '1.5 ± 0.1 - é "x" \\u256c \\udcff'),
        ("cp437", '1.5 ± 0.1 - é "x" ╬ \\udcff'),
        ("ascii", '1.5+/-0.1 - \\xe9 "x" \\u256c \\udcff'),
    ],
)
def test_only_what_an_encoding_lacks_is_replaced(tmp_path, encoding, shown):
    with (tmp_path / "said").open("w", encoding=encoding) as stream:
        assert encodable("1.5 ± 0.1 – é “x” ╬ \udcff", stream) == shown


def test_a_table_keeps_its_width_in_ascii(place, monkeypatch):
    for name, encoding in (("wide", "utf-8"), ("plain", "ascii")):
        ended("report runs/first/full", monkeypatch, out=(place / name).open("w", encoding=encoding))
    wide, plain = ((place / name).read_text().splitlines() for name in ("wide", "plain"))
    rows = [(a, b) for a, b in zip(wide, plain, strict=True) if a.count(" ± ") == 2]
    assert len(rows) >= 3
    for a, b in rows:
        assert b.replace("|", " ") == a.replace(" ± ", "+/-")


@pytest.mark.parametrize(
    ("settings", "command", "code"),
    [
        ({}, "{sweeper} plan tiny.yaml | true; exit ${{PIPESTATUS[0]}}", 0),
        ({}, "{sweeper} --help | true; exit ${{PIPESTATUS[0]}}", 0),
        ({}, "{sweeper} plan none.yaml 2>&1 | true; exit ${{PIPESTATUS[0]}}", 2),
        ({}, "{sweeper} plan tiny.yaml > /dev/full", 5),
        ({}, "{sweeper} --help > /dev/full", 5),
        ({}, "{sweeper} plan tiny.yaml --csv >&-", 0),
        ({}, "{sweeper} plan tiny.yaml 2>&- >&-", 0),
        ({"PYTHONIOENCODING": "ascii"}, "{sweeper} plan tiny.yaml", 0),
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, "{sweeper} plan tiny.yaml", 0),
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, "{sweeper} plan 'né.yaml'", 2),
    ],
)
def test_in_a_shell(place, settings, command, code):
    command = command.format(sweeper=f"{sys.executable} -m sweeper")
    ran = subprocess.run(
        ["bash", "-c", command], env={**os.environ, **settings}, capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr
    assert b"own" not in ran.stderr
