"""Run by test_disk_full.py in a mount namespace of its own: commands whose files lie on a small disk that fills up.

Prints, as JSON, what became of each: exit code and message, then the exit code once there is room.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_cases import TRAIN, make_place

from sweeper.commands.main import main
from sweeper.ledger.file import read
from sweeper.ledger.typed import FinalLine
from sweeper.runners.training import step_times, trial
from sweeper.tracking.tracker import Tracker

RUN = "run tiny.yaml --runner in-process"
SIZES = ("8k", "16k", "64k")


@contextlib.contextmanager
def disk(folder, size):
    Path(folder).mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def enlarge(folder):
    subprocess.run(["mount", "-o", "remount,size=50m", folder], check=True)


def ended(line):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()) as said:
        code = main(line.split())
    return code, errors.getvalue() + said.getvalue()[-600:]


def of_results(size):
    """A run whose folder is on the small disk."""
    with disk("results", size):
        line = f"{RUN} --out results"
        code, said = ended(line)
        ledger = Path("results/tiny/full/ledger.jsonl")
        torn = ledger.exists() and not ledger.read_bytes().endswith(b"\n") and ledger.stat().st_size > 0
        before = len(read(ledger))
        left_over = [path.name for path in Path("results").rglob("*.writing")]
        enlarge("results")
        again, then = ended(line)
        finals = [one.trial_id for one in read(ledger) if isinstance(one, FinalLine)]
        whole = all((ledger.parent / name).stat().st_size for name in ("frontier.png", "report.html", "plan.json"))
    return {
        "size": size, "code": code, "said": said, "torn": bool(torn), "before": before, "left_over": left_over,
        "again": again, "then": then, "finals": len(finals), "whole": whole,
    }  # fmt: skip


def of_store():
    """A run whose MLflow store is on the small disk, all else where there is room."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path.cwd() / 'store' / 'mlflow.db'}"
    with disk("store", "300k"):
        code, said = ended(f"{RUN} --out elsewhere")
        finals = len([one for one in read(Path("elsewhere/tiny/full/ledger.jsonl")) if isinstance(one, FinalLine)])
        enlarge("store")
        again, then = ended("sync elsewhere/tiny/full")
    return {"code": code, "said": said, "finals": finals, "again": again, "then": then}


def of_train():
    """A training whose checkpoints, 12 bytes a parameter, don't fit where its ledger does."""
    line = f"{TRAIN} --out trained".replace("--d_model 32", "--d_model 128")
    with disk("trained", "900k"):
        code, said = ended(line)
        left_over = [path.name for path in Path("trained").rglob("*.writing")]
        enlarge("trained")
        again, then = ended(line)
        models = len(list(Path("trained").rglob("model.safetensors")))
    return {"code": code, "said": said, "left_over": left_over, "again": again, "then": then, "models": models}


if __name__ == "__main__":
    real, real_job = Tracker, trial.run_job
    with pytest.MonkeyPatch.context() as patch:
        make_place(Path(sys.argv[1]), patch)
        found = {"results": [of_results(size) for size in SIZES]}
        patch.setattr(trial, "run_job", real_job)
        patch.setattr(step_times, "PROBE_WINDOW_SECONDS", 0.02)
        found["train"] = of_train()
        patch.setattr("sweeper.tracking.tracker.Tracker", real)
        patch.setattr("sweeper.tracking.sync.Tracker", real)
        found["store"] = of_store()
    print(json.dumps(found))
