"""Whatever the terminal's width: a number is whole or absent, and what is absent is named."""

import io
import re

import pytest
from command_cases import CASES, make_place
from rich.console import Console

from sweeper.commands.main import main
from sweeper.commands.terminal import Terminal
from sweeper.report.open_table import OpenTable

WIDTHS = range(20, 121)
TABLES = [lines[0] for name, lines in CASES.items() if name not in ("sync", "ui", "check", "shape", "schema")]
TABLES += [CASES["report"][2], "status tiny.yaml"]


def shown(renderable, width):
    written = io.StringIO()
    Console(width=width, file=written).print(renderable, crop=False)
    return written.getvalue()


def numbers(text):
    """The words that hold a digit."""
    return {word for word in text.split() if re.search(r"\d", word)}


@pytest.mark.parametrize("line", TABLES)
def test_every_number_that_a_command_prints_is_whole(tmp_path, monkeypatch, line):
    make_place(tmp_path, monkeypatch)
    printed = []
    monkeypatch.setattr(Terminal, "print", lambda terminal, *objects, **options: printed.extend(objects))
    assert main(line.split()) == 0
    for one in printed:
        if isinstance(one, str) and "/" in one:
            continue  # a path may be longer than the terminal is wide, and goes on in the next line
        whole = numbers(shown(one, 2000))
        for width in WIDTHS:
            text = shown(one, width)
            assert numbers(text) <= whole, width
            if width < 110 and "no room for" not in text and numbers(text) != whole:
                assert len(numbers(text)) > 0.8 * len(whole), "from 110 columns shapes have columns of their own"


def the_table(*, may_go):
    table = OpenTable(
        title="9 trials",
        columns={"config": "left", "params": "right", "loss": "right", "speed": "right", "why": "left"},
        may_go=may_go,
    )
    table.add_row("L12 f1024 weight_decay 0.01", "123.4M", "2.085 ± 0.065", "42.3k ± 2.8k", "")
    table.add_row("L6", "1.2M", "–", "", "out of memory at 16.25 GiB of 15.75", style="red")
    return table


@pytest.mark.parametrize("may_go", [(), ("params",), ("loss", "params", "speed")])
def test_a_table_fits_or_stacks_and_says_what_it_leaves_out(may_go):
    whole = numbers(shown(the_table(may_go=may_go), 2000))
    ways = set()
    for width in WIDTHS:
        text = shown(the_table(may_go=may_go), width)
        assert all(len(text_line) <= width for text_line in text.splitlines()), width
        gone = re.search(r"\(no room for ([^)]*)\)", text)
        left_out = set(" ".join(gone[1].split()).split(", ")) if gone else set()
        assert left_out <= set(may_go)
        assert numbers(text) <= whole
        of_left_out = {"params": {"123.4M", "1.2M"}, "loss": {"2.085", "0.065"}, "speed": {"42.3k", "2.8k"}}
        assert whole - numbers(text) == set().union(*(of_left_out[name] for name in left_out)), width
        assert "weight_decay" in text
        ways.add("stacked" if "  loss 2.085" in text else f"without {len(left_out)}")
    assert "stacked" in ways
    assert ways == {"stacked", "without 0", *(f"without {n + 1}" for n in range(len(may_go)))}
