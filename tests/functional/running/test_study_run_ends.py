"""`sweeper run` that doesn't come to its end: killed, interrupted, with trials that fail."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tiny_study import command, finals, folder, ledger, mlflow_runs, sweeper, write_study

KILLED_IN_A_TRIAL = """
import os, signal
from sweeper.commands.main import main
from sweeper.ledger.file import Ledger
append, seen = Ledger.append, []
def dying(self, record):
    append(self, record)
    seen.append(record["type"])
    if seen.count("final") == 3 and seen[-1] == "rung":
        os.kill(os.getpid(), signal.SIGKILL)
Ledger.append = dying
main()
"""


def test_a_killed_driver_loses_no_finished_trial_and_repeats_none(place):
    """At one moment, in the fourth trial; `tests/campaign/test_kills.py` has twenty."""
    write_study(place)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_A_TRIAL, "run", "tiny.yaml"], cwd=place, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    before = finals(place)
    assert len(before) == 3
    sweeper(place, "run", "tiny.yaml", "--runner", "in-process")
    after = finals(place)
    assert after[:3] == before
    assert Counter(record["trial_id"] for record in after) == Counter({r["trial_id"]: 1 for r in after})
    assert len(after) == 8
    _, (parent,), children = mlflow_runs(place)
    assert Counter(run.data.tags["sweeper.trial_id"] for run in children) == {r["trial_id"]: 1 for r in after}
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}


def wait_for_rungs(place, process):
    while not ((folder(place) / "ledger.jsonl").exists() and any(r["type"] == "rung" for r in ledger(place))):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_trial_of_days_with_the_ledger_whole(place, number):
    """Ctrl-C reaches every process of the terminal, a scheduler's SIGTERM the driver alone."""
    interrupted(place, number)


def interrupted(place, number):
    """Interrupt a study in its first trial, which would take days; the seconds until it has ended."""
    write_study(place, tokens="100G")
    process = subprocess.Popen(
        command("run", "tiny.yaml", "--yes"), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    with process:
        wait_for_rungs(place, process)
        start = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        said, _ = process.communicate()
    took = time.monotonic() - start
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert "***" not in said
    content = (folder(place) / "ledger.jsonl").read_bytes()
    assert content.endswith(b"\n")
    _, (parent,), children = mlflow_runs(place)
    assert "RUNNING" not in {run.info.status for run in [parent, *children]}
    return took


def test_a_failing_trial_is_tried_three_times_and_named(place):
    write_study(place, seeds=1)
    script = (
        "import sweeper.runners.training.training\nfrom sweeper.commands.main import main\n"
        "def boom(self):\n    raise ValueError('planted')\n"
        "sweeper.runners.training.training.Training.step = boom\nraise SystemExit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "tiny.yaml", "--runner", "in-process"],
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stdout + done.stderr
    assert "4 of 4 jobs failed three times" in done.stderr
    assert "planted" in done.stderr
    failures = Counter(record["trial_id"] for record in ledger(place) if record["type"] == "failed")
    assert set(failures.values()) == {3}
    assert "Traceback" in (folder(place) / "logs" / f"{next(iter(failures))}.log").read_text()
    assert Path(folder(place) / "report.html").exists()
