"""Every command in each of its forms, as it may be typed in one folder, without training, MLflow or a server."""

import shutil
from pathlib import Path

from test_doctor import facts

from sweeper.values import machine
from tests.fakes import make_final

RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "first"
STUDY = """\
name: tiny
model: {vocab_size: 256, d_model: 32, head_dim: 16, n_kv_heads: 1, tie_embeddings: true, ffn_hidden: 64}
axes:
  n_layers: [1, 2]
trial:
  data: text
  tokens: 512
  seq_len: 64
  tokens_per_step: 256
  batch_size: 4
  precision: fp32
  compile: false
  eval_tokens: 1024
"""
TRAIN = (
    "train --data text --vocab_size 256 --n_layers 1 --d_model 32 --n_heads 2 --tokens 512 --seq_len 64 --batch_size 1 "
    "--grad_accum_steps 4"
)
CASES = {
    "check": ["check tiny.yaml", "check none.yaml"],
    "plan": ["plan tiny.yaml", "plan tiny.yaml --json", "plan tiny.yaml --csv", "plan none.yaml"],
    "run": ["run tiny.yaml --runner in-process", "run none.yaml"],
    "status": ["status runs/first/full", "status runs/first/full --json"],
    "report": [
        "report runs/first/full", "report runs/first/full --json", "report runs/first/full other",
        "report runs/first/full other --json",
    ],
    "recommend": ["recommend runs/first/full", "recommend runs/first/full --json"],
    "merge": ["merge runs/first/full other --out merged", "merge runs/first/full other --out merged --json"],
    "sync": ["sync runs/first/full"],
    "shape": ["shape", "shape --json", "shape --n_layers 0"],
    "train": [TRAIN, f"{TRAIN} --dry_run"],
    "ui": ["ui", "ui --out nowhere"],
    "doctor": ["doctor", "doctor --json"],
    "schema": ["schema"],
}  # fmt: skip
"""By command, what may be written. Some are refused: that goes to standard error."""
LINES = [line for lines in CASES.values() for line in lines] + ["--help", "--version", "nonsense", "plan --help"]


class NoTracker:
    """Takes all that a Tracker takes, and keeps none of it."""

    warning, error, refused, unwritable = None, "", "", ""

    def __init__(self, **fields):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __getattr__(self, name):
        return lambda *values, **named: True


def quick_job(job, **options):
    seen = {"device": "cpu", "versions": {}, "data_fingerprint": job.data_fingerprint}
    yield make_final(job, environment=seen)


def go_to_a_study(folder, monkeypatch, text=STUDY):
    """A study and its data in `folder`, gone to."""
    (folder / "text").mkdir()
    for number in range(10):
        lines = "".join(f"line {i} of file {number}: {i * number}\n" for i in range(200))
        (folder / "text" / f"{number}.txt").write_text(lines)
    (folder / "tiny.yaml").write_text(text)
    monkeypatch.chdir(folder)


def make_place(folder, monkeypatch):
    """Fill `folder` with what CASES name, go there, and let commands do next to nothing."""
    go_to_a_study(folder, monkeypatch)
    for name in ("runs/first/full", "other"):
        shutil.copytree(RECORDED, folder / name)
    (folder / "runs" / "mlflow.db").touch()
    monkeypatch.setattr(machine, "gpu_count", lambda: 0)
    monkeypatch.setattr("sweeper.tracking.tracker.Tracker", NoTracker)
    monkeypatch.setattr("sweeper.tracking.sync.Tracker", NoTracker)
    monkeypatch.setattr("sweeper.runners.training.trial.run_job", quick_job)
    monkeypatch.setattr("sweeper.runners.training.job_run.settle_threads", lambda cpus: None)
    monkeypatch.setattr("sweeper.runners.device.probes.run_all", lambda: facts(folder))
    monkeypatch.setattr("subprocess.call", lambda *words, **options: 0)
    monkeypatch.setattr("sweeper.tracking.tracker._say_links", lambda base: None)
