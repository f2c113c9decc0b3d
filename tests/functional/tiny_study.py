"""A study of seconds over a folder of text, and what `sweeper` leaves of it: for tests of whole runs."""

import contextlib
import io
import subprocess
import sys

from ledger_lines import plain_lines
from mlflow import MlflowClient

from sweeper.commands.main import main
from sweeper.tracking.store_uri import sqlite_uri

STUDY = """\
name: tiny
question: Is this road whole?
model: {{vocab_size: 256, head_dim: 16, n_kv_heads: 1, tie_embeddings: true, ffn_hidden: 64}}
axes:
  n_layers: [1, 2]
  d_model: [32, 48]
budget:
  params: {{min: 10k, max: 60k}}
trial:
  data: text
  tokens: {tokens}
  seq_len: 64
  tokens_per_step: 256
  batch_size: {batch_size}
  precision: fp32
  compile: false
  seeds: {seeds}
  eval_tokens: 4096
"""


def write_text(folder):
    """Thirty files of text, a few hundred kB."""
    folder.mkdir()
    for number in range(30):
        lines = "".join(f"line {i} of file {number}: {i * number}\n" for i in range(400))
        (folder / f"{number}.txt").write_text(lines)


def write_study(place, *, tokens="5k", seeds=2, batch_size=4, edit=None):
    text = STUDY.format(tokens=tokens, seeds=seeds, batch_size=batch_size)
    (place / "tiny.yaml").write_text(edit(text) if edit else text)


def command(*arguments):
    return [sys.executable, "-m", "sweeper", *arguments]


def sweeper(place, *arguments, expect=0):
    """What a command says. In this process, unless it starts Ray: importing torch takes longer than these studies."""
    if arguments[0] == "run" and "in-process" not in arguments:
        done = subprocess.run(command(*arguments), cwd=place, capture_output=True, text=True, check=False)
        code, said = done.returncode, done.stdout + done.stderr
    else:
        with contextlib.chdir(place), io.StringIO() as out, io.StringIO() as err:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main([str(argument) for argument in arguments])
            said = out.getvalue() + err.getvalue()
    assert code == expect, said
    assert "Traceback" not in said
    return said


def folder(place):
    return place / "runs" / "tiny" / "full"


def ledger(place):
    return plain_lines(folder(place) / "ledger.jsonl")


def finals(place):
    return [record for record in ledger(place) if record["type"] == "final"]


def mlflow_runs(place):
    client = MlflowClient(sqlite_uri(place / "runs" / "mlflow.db"))
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    return client, parents, children
