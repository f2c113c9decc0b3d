"""`sweeper run` says how long it will take, and asks on a terminal before it takes long."""

import io
from functools import partial

import pytest
from rich.console import Console
from tiny_study import folder, ledger, sweeper, write_study

from sweeper.commands import main, run, terminal


class Keyboard(io.StringIO):
    def isatty(self):
        return True


def agreed(monkeypatch, seconds, *, answer="", yes=False, terminal=True):
    monkeypatch.setattr("sys.stdin", Keyboard(f"{answer}\n") if terminal else io.StringIO())
    console = Console(file=io.StringIO(), force_terminal=terminal)
    said = run.agreed(console, seconds, yes=yes)
    return said, "Start?" in console.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "given", "starts", "asks"),
    [
        (3500.0, {}, True, False),
        (3700.0, {"answer": "y"}, True, True),
        (3700.0, {"answer": " YES "}, True, True),
        (3700.0, {"answer": "n"}, False, True),
        (3700.0, {"answer": ""}, False, True),
        (3700.0, {"yes": True}, True, False),
        (3700.0, {"terminal": False}, True, False),
    ],
)
def test_it_asks_only_where_it_is_long_and_somebody_is_there(monkeypatch, seconds, given, starts, asks):
    assert agreed(monkeypatch, seconds, **given) == (starts, asks)


def test_what_is_not_agreed_on_leaves_all_as_it_was(place, monkeypatch, capsys):
    write_study(place)
    monkeypatch.chdir(place)
    monkeypatch.setattr(run, "ASK_SECONDS", 0.0)
    monkeypatch.setattr("sys.stdin", Keyboard("n\n"))
    monkeypatch.setattr(terminal, "console", partial(Console, force_terminal=True))
    assert main.main(["run", "tiny.yaml"]) == 130
    assert "8 jobs to do, about" in capsys.readouterr().out
    assert ledger(place) == []
    assert not folder(place).joinpath("report.html").exists()


def test_the_time_is_that_of_what_is_missing_and_no_more_than_the_hours_left(place):
    write_study(place, tokens="2M")
    said = sweeper(place, "run", "tiny.yaml", "--runner", "in-process", "--set", "search.method=random",
                   "--set", "search.trials=1", "--set", "search.max_gpu_hours=0.0001", "--set", "trial.seeds=1",
                   "--set", "trial.tokens=5k")  # fmt: skip
    assert "1 jobs to do, about 0 s" in said
