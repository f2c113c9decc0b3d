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


def wait_for_finals(place, process, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder(place) / "ledger.jsonl").exists() and len(finals(place)) >= count:
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    pytest.fail("no trial ended in time")


def test_a_killed_driver_loses_no_finished_trial_and_repeats_none(place):
    """At one moment; `tests/campaign/test_kills.py` has twenty."""
    kill_after = 3
    write_study(place, tokens="12k")
    process = subprocess.Popen(
        command("run", "tiny.yaml"), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        wait_for_finals(place, process, kill_after)
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
    before = finals(place)
    assert kill_after <= len(before) < 8
    sweeper(place, "run", "tiny.yaml")
    after = finals(place)
    assert after[: len(before)] == before
    assert Counter(record["trial_id"] for record in after) == Counter({r["trial_id"]: 1 for r in after})
    assert len(after) == 8
    _, (parent,), children = mlflow_runs(place)
    assert Counter(run.data.tags["sweeper.trial_id"] for run in children) == {r["trial_id"]: 1 for r in after}
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_in_time_with_the_ledger_whole(place, number):
    """Ctrl-C reaches every process of the terminal, a scheduler's SIGTERM the driver alone."""
    write_study(place, tokens="30k")
    process = subprocess.Popen(
        command("run", "tiny.yaml"), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    with process:
        wait_for_finals(place, process, 1)
        start = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert "***" not in said
    content = (folder(place) / "ledger.jsonl").read_bytes()
    assert content.endswith(b"\n")
    _, (parent,), children = mlflow_runs(place)
    assert "RUNNING" not in {run.info.status for run in [parent, *children]}


def test_a_failing_trial_is_tried_three_times_and_named(place):
    write_study(place, seeds=1)
    script = (
        "import runners.training\nfrom sweeper.cli import main\n"
        "def boom(self):\n    raise ValueError('planted')\n"
        "runners.training.Training.step = boom\nraise SystemExit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "tiny.yaml", "--runner", "in-process"],
        cwd=place, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stdout + done.stderr
    assert "4 of 4 jobs failed three times" in done.stderr
    assert "planted" in done.stderr
    failures = Counter(record["trial_id"] for record in ledger(place) if record["type"] == "failed")
    assert set(failures.values()) == {3}
    assert "Traceback" in (folder(place) / "logs" / f"{next(iter(failures))}.log").read_text()
    assert Path(folder(place) / "report.html").exists()
