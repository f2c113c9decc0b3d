"""A kind of config that isn't ours to build, from a study's plan to what is recommended of it, and on after a break."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from fake_program import LOSSES, program
from ledger_lines import plain_lines
from mlflow import MlflowClient
from rich.console import Console

from sweeper.ledger.file import read
from sweeper.planning.plan import LatticeCounts, PlannedConfig, make_plan, plan_csv, plan_json
from sweeper.recommend.choices import recommendation_json
from sweeper.recommend.limits import Limits
from sweeper.recommend.recommendation import recommend
from sweeper.report.recommendation import recommendation_text
from sweeper.report.tables import plan_table, status_json, summary
from sweeper.runners import in_process
from sweeper.running.study_run import StudyRun
from sweeper.running.under_way import Devices, run_study
from sweeper.study.loader import load
from sweeper.tracking.store_uri import sqlite_uri
from sweeper.values.records import Execution
from sweeper.values.run_folder import RunFolder

STUDY = """\
name: theirs
question: Deep or wide, in somebody else's script?
model: {vocab_size: 256, d_model: 32, head_dim: 16, n_kv_heads: 1, tie_embeddings: true, ffn_hidden: 64}
axes: {n_layers: [1]}
trial: {data: text, tokens: 2k, seq_len: 64, batch_size: 4, precision: fp32, compile: false, seeds: 2}
"""


def planned(n_layer, n_embd):
    config = program(n_layer, n_embd)
    return PlannedConfig(
        config=config, executions=(Execution(batch_size=4, compile=False),), choose="each", params=config.shape.params,
        off_target=None, train_flops_per_token=None, memory_bytes=None, tokens=None, branch_tokens=0, seconds=None,
        epochs=None, warnings=(),
    )  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The study, with a program's configs in place of its own: studies can't declare any yet."""
    monkeypatch.chdir(tmp_path)
    Path("text").mkdir()
    Path("text/a.txt").write_text("some text\n")
    Path("theirs.yaml").write_text(STUDY)
    loaded = load(Path("theirs.yaml"), profile="full")
    plan = replace(
        make_plan(loaded, cpus=2),
        configs=tuple([planned(*axes) for axes in LOSSES]),
        lattice=LatticeCounts(points=4, feasible=4, dropped={}),
    )
    return StudyRun(loaded=loaded, plan=plan, folder=RunFolder(root=tmp_path / "runs" / "theirs" / "full"))


class Breaks:
    """A session that is interrupted, as by Ctrl-C, when it is asked for one job more than `most`."""

    def __init__(self, session, most):
        self.session, self.left = session, most
        self.kinds, self.tell = session.kinds, session.tell

    def ask(self, free=()):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self.session.ask(free)


def drive(run, tmp_path, *, most=10_000):
    """`sweeper run`: what it says, and what MLflow has then."""
    told = io.StringIO()

    def runner(session):
        in_process.run(Breaks(session, most), job_target="fake_program:train", logs=run.folder.logs)

    run.folder.root.mkdir(parents=True, exist_ok=True)
    uri = sqlite_uri(tmp_path / "mlflow.db")
    try:
        devices = Devices(
            runner=runner, device="cpu", at_a_time=1,
            fingerprint_of=lambda name, vocab_size: pytest.fail("a program's data is none of ours"),
        )  # fmt: skip
        run_study(run, devices, console=Console(file=told, width=120), tracking_uri=uri)
    except KeyboardInterrupt:
        told.write("interrupted")
    return told.getvalue(), MlflowClient(uri)


def shown(renderable):
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    return console.file.getvalue()


def is_of_a_program(plain):
    own = plain["program"]
    return "shape" not in plain and "recipe" not in plain and set(own) == {"name", "fingerprint", "axes"}


def test_a_program_goes_from_its_plan_to_what_is_recommended(run, tmp_path):
    plain = json.loads(json.dumps(plan_json(run.plan)))
    assert all(map(is_of_a_program, plain["configs"]))
    assert plain["configs"][0]["program"]["axes"] == {"n_layer": 2, "n_embd": 64}
    assert "n_layer 2 n_embd 64" in shown(plan_table(plain))
    table = io.StringIO()
    plan_csv(run.plan, table)
    assert len(table.getvalue().splitlines()) == 5

    said, _ = drive(run, tmp_path, most=3)
    assert "interrupted" in said
    before = plain_lines(run.folder.ledger)
    done = [record["trial_id"] for record in before if record["type"] == "final"]
    assert len(done) == 3
    said, client = drive(run, tmp_path)
    assert "3 kept, 5 to do" in said
    records = plain_lines(run.folder.ledger)
    finals = [record for record in records if record["type"] == "final"]
    assert records[: len(before)] == before
    assert len({record["trial_id"] for record in finals}) == len(finals) == 8
    assert all(map(is_of_a_program, finals))
    assert all(is_of_a_program(record["job"]["config"]) for record in records if record["type"] == "asked")
    said, _ = drive(run, tmp_path)
    assert "8 kept, 0 to do" in said

    lines = read(run.folder.ledger)
    found = run.frontier(lines)
    (one,) = found.frontiers
    assert {point.label: point.objectives["val_loss"].n for point in one.points} == {
        f"n_layer {depth} n_embd {width}": 2 for depth, width in LOSSES
    }
    best = min(one.points, key=lambda point: point.objectives["val_loss"].mean)
    assert best.config == program(4, 128)
    assert "n_layer 4 n_embd 128" in shown(summary(found))
    (written,) = json.loads(run.folder.frontier.read_text())["frontiers"]
    assert all(map(is_of_a_program, written["points"]))
    page = run.folder.report.read_text()
    assert page.count("n_layer 4 n_embd 128") > 3
    states = status_json(lines, run.points(run.replayed(lines), lines), seeds=2)
    assert states["jobs"] == {"ok": 8}

    answer = recommend(run.loaded.study, run.plan, found, lines, Limits())
    by_use = {choice.use_case: choice for choice in answer.choices}
    assert by_use["quality"].choice.config == program(4, 128)
    assert (by_use["quality"].argv, by_use["quality"].llama_config) == ((), None)
    told = json.loads(json.dumps(recommendation_json(answer)))
    assert all(is_of_a_program(choice["choice"]) for choice in told["choices"] if choice["choice"])
    text = shown(recommendation_text(answer))
    assert "4 of 4 feasible configs are measured.\n\n" in text
    assert "Best quality under 200M parameters: n_layer 4 n_embd 128" in text
    assert "sweeper train" not in text

    (experiment,) = [one for one in client.search_experiments() if one.name == "theirs"]
    runs = client.search_runs([experiment.experiment_id])
    trials = [one for one in runs if "sweeper.trial_id" in one.data.tags]
    assert {one.info.status for one in trials} == {"FINISHED"}
    assert {one.data.params["n_layer"] for one in trials} == {"2", "4"}
    assert {one.data.params["program"] for one in trials} == {"nanoGPT"}
    named = {one.data.tags["sweeper.trial_id"]: one for one in trials}
    for record in finals:
        own = named[record["trial_id"]].data
        assert own.metrics["val_loss"] == pytest.approx(record["val_loss"])
        assert own.params["params.total"] == str(record["params"]["total"])
        assert math.isclose(own.metrics["tokens_per_s"], record["speed"]["tokens_per_s"])
