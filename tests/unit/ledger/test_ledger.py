"""The ledger keeps what it was given, survives a torn last line, and has one writer."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_lines import as_lines, record_of

from sweeper.ledger.file import Ledger, read
from sweeper.values.errors import DamagedLedger, UsageError

RUNG = record_of("rung")


@pytest.fixture
def place(tmp_path):
    return {"path": tmp_path / "run" / "ledger.jsonl", "lock": tmp_path / "run" / ".lock"}


def opened(place):
    return Ledger(place["path"], lock=place["lock"])


def test_what_is_appended_is_read_back(place):
    with opened(place) as ledger:
        first = ledger.append(record_of("failed", error="a\nb – ü"))
        assert read(place["path"]) == [first]
        assert first.error == "a\nb – ü"
        second = ledger.append(RUNG)
    assert read(place["path"]) == [first, second]


@given(cut=st.integers(1, 200), more=st.booleans())
def test_a_torn_last_line_costs_that_line_alone(tmp_path_factory, cut, more):
    folder = tmp_path_factory.mktemp("torn")
    place = {"path": folder / "ledger.jsonl", "lock": folder / ".lock"}
    records = [{"type": "started", "devices": n, "command": "x" * 20} for n in range(5)]
    with opened(place) as ledger:
        for record in records:
            ledger.append(record)
    content = place["path"].read_bytes()
    left = content[: max(0, len(content) - cut)]
    place["path"].write_bytes(left)
    whole = left.count(b"\n")
    assert read(place["path"]) == as_lines(records[:whole])
    if more:
        with opened(place) as ledger:
            assert ledger.records == as_lines(records[:whole])
            ledger.append(RUNG)
        assert read(place["path"]) == as_lines([*records[:whole], RUNG])


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"no": "type"}', b'{"type": "final"}', b"\xff\xfe"])
def test_a_damaged_line_in_the_middle_is_named_and_kept(place, line):
    with opened(place) as ledger:
        ledger.append(RUNG)
    before = place["path"].read_bytes() + line + b"\n" + json.dumps(RUNG).encode() + b"\n"
    place["path"].write_bytes(before)
    with pytest.raises(DamagedLedger, match=r"ledger\.jsonl:2: "):
        opened(place)
    assert place["path"].read_bytes() == before


def test_a_second_writer_is_refused_while_the_first_lives(place):
    with opened(place), pytest.raises(UsageError, match="another sweeper run"):
        opened(place)
    with opened(place):
        pass


def test_a_killed_writer_holds_nothing(place):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom sweeper.ledger.file import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]), lock=Path(sys.argv[2]))\n"
        "ledger.append({'type': 'started', 'devices': 1})\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(place["path"]), str(place["lock"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        with pytest.raises(UsageError):
            opened(place)
        writer.kill()
    with opened(place) as ledger:
        assert ledger.records == as_lines([{"type": "started", "devices": 1}])


def test_nan_is_refused_and_nothing_is_written(place):
    with opened(place) as ledger, pytest.raises(ValueError, match="JSON"):
        ledger.append({**RUNG, "loss": float("nan")})
    assert read(place["path"]) == []


def test_each_line_is_plain_json(place):
    with opened(place) as ledger:
        ledger.append(RUNG)
    assert [json.loads(line) for line in place["path"].read_text().splitlines()] == [RUNG]
    assert os.stat(place["path"]).st_size > 0
