"""What asking for branches changes: what a trial is to have, what it costs, and never which trial it is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ledger_lines import event_of

from sweeper.ledger.lines import asked_record, event_record
from sweeper.ledger.typed import line_of
from sweeper.measurements.utilization import of_own_seconds
from sweeper.planning.estimates import assumed, branch_tokens
from sweeper.planning.plan import make_plan, plan_json
from sweeper.planning.resolving import JobSettings, MicroBatches
from sweeper.running.study_run import StudyRun
from sweeper.search.driver import Driver
from sweeper.search.grid import Grid
from sweeper.study.loader import load
from sweeper.study.schema import LoadedStudy, Study, Trial
from sweeper.values.events import Done
from sweeper.values.records import Execution, Job, Optimizer, Recipe
from sweeper.values.run_folder import RunFolder
from sweeper.values.schedule import Branch, Schedule
from tests.fakes import make_final, make_job

MODEL = {
    "n_layers": 2, "d_model": 64, "head_dim": 16, "n_kv_heads": 2, "ffn_hidden": 128, "vocab_size": 256,
    "tie_embeddings": True,
}  # fmt: skip
CONFIGS = [make_job(n_layers=layers).config for layers in (1, 2)]


def taken(*fractions):
    return tuple(
        Branch(fraction=f, tokens=round(100 * f) * 1024, val_loss=2 - f, val_bpb=None, train_seconds=f)
        for f in fractions
    )


def driver(*branch_at):
    return Driver(
        Grid(list(CONFIGS)),
        seeds=1,
        micro_batches=lambda config: MicroBatches(executions=(Execution(batch_size=4, compile=False),)),
        settings=JobSettings(branch_at=branch_at),
    )


def test_no_id_knows_of_branches_and_the_job_and_the_record_do():
    plain, branching = driver().ask(), driver(0.25, 0.5).ask()
    assert plain.ids() == branching.ids()
    assert branching.branch_at == (0.25, 0.5)
    assert Job.from_dict(json.loads(json.dumps(branching.to_dict()))) == branching
    assert asked_record(branching)["job"]["branch_at"] == [0.25, 0.5]
    final = make_final(branching, branches=taken(0.25, 0.5))
    record = json.loads(json.dumps(event_record(final)))
    assert event_of(record).branches == final.branches
    assert "branches" not in event_record(make_final(plain))


@pytest.mark.parametrize(
    ("asked", "status", "have", "again"),
    [
        ((0.25, 0.5), "ok", (), True),
        ((0.25, 0.5), "ok", (0.25,), True),
        ((0.25, 0.5), "ok", (0.25, 0.5), False),
        ((0.25,), "ok", (0.25, 0.5), False),
        ((), "ok", (0.25,), False),
        ((0.25,), "diverged", (), False),
        ((0.25,), "stopped_early", (), False),
    ],
)
def test_a_trial_without_a_branch_that_is_asked_for_now_is_trained_again(asked, status, have, again):
    machine = driver(*asked)
    for config in CONFIGS:
        job = replace(make_job(), config=config)
        machine.tell(make_final(job, status=status, branches=taken(*have)))
    answer = machine.ask()
    assert isinstance(answer, Done) != again
    if again:
        assert answer.config == CONFIGS[0]
        machine.tell(make_final(answer, branches=taken(*asked)))
        machine.tell(make_final(machine.ask(), branches=taken(*asked)))
        assert isinstance(machine.ask(), Done)


def test_a_branch_that_diverged_has_been_taken():
    machine = driver(0.5)
    lost = replace(taken(0.5)[0], val_loss=None)
    machine.tell(make_final(replace(make_job(), config=CONFIGS[0]), branches=(lost,)))
    assert machine.ask().config == CONFIGS[1]


def test_what_this_run_itself_has_trained_is_never_asked_for_again():
    machine = driver(0.5)
    for _ in CONFIGS:
        machine.tell(make_final(machine.ask()))
    assert isinstance(machine.ask(), Done)


def plan(trial, **fields):
    study = Study(name="s", model=MODEL, trial=trial, **fields)
    return make_plan(LoadedStudy(study=study, profile="full", file=Path("s.yaml"), resolved={}), cpus=2)


def test_what_branches_cost_is_planned():
    """Cooldowns of 20% of 4, 8 and 12 steps (1, 2 and 2), and three more evaluations, by hand."""
    trial = Trial(tokens=16 * 512, seq_len=64, eval_tokens=4096)
    bare = plan(trial, axes={"n_layers": (1, 2, 3)})
    made = plan(trial.model_copy(update={"branch_at": (0.25, 0.5, 0.75)}), axes={"n_layers": (1, 2, 3)})
    assert [p.config.config_id for p in made.configs] == [p.config.config_id for p in bare.configs]
    for branching, other in zip(made.configs, bare.configs, strict=True):
        assert branching.branch_tokens == 5 * 512
        assert branching.tokens == other.tokens
        flops = (5 * 512 + 4096) * branching.train_flops_per_token
        assert branching.seconds - other.seconds == pytest.approx(flops / assumed(gpus=0, cpus=2).achieved_flops_per_s)
    assert made.totals.tokens == 3 * (16 + 5) * 512
    assert made.totals.branch_tokens == 3 * 5 * 512
    assert made.totals.train_flops == sum(21 * 512 * p.train_flops_per_token for p in made.configs)
    assert made.totals.seconds == pytest.approx(sum(p.seconds for p in made.configs))
    assert bare.totals.branch_tokens == 0
    assert plan_json(made)["configs"][0]["branch_tokens"] == 5 * 512
    (note,) = set(made.notes) - set(bare.notes)
    assert "at 25%, 50% and 75% of their tokens" in note


def test_branches_add_no_pass_over_the_data():
    from sweeper.planning.train_tokens import TrainTokens

    def epochs(trial):
        study = Study(name="s", model=MODEL, trial=trial)
        loaded = LoadedStudy(study=study, profile="full", file=Path("s.yaml"), resolved={})
        held = TrainTokens(tokens=4096, exact=True, source="x")
        made = make_plan(loaded, cpus=2, train_tokens=lambda name, vocab_size: held)
        return made.configs[0].epochs, made.totals.max_epochs

    trial = Trial(tokens=8192, seq_len=64)
    assert epochs(trial) == epochs(trial.model_copy(update={"branch_at": (0.5,)})) == (2.0, 2.0)


def test_planned_branch_steps_are_those_that_are_taken():
    recipe = Recipe(
        data="x", steps=1, seq_len=8, tokens_per_step=16, precision="fp32", optimizer=Optimizer(cooldown=0.3),
        eval_tokens=64,
    )  # fmt: skip
    steps, at = np.arange(1, 400), (0.1, 0.25, 0.5, 0.9)
    own = [
        sum(Schedule.of(int(n), warmup=0, cooldown=0.3).branch(fraction, cooldown=0.3).falling for fraction in at)
        for n in steps
    ]
    assert (branch_tokens(steps * 16, recipe, at) == 16 * np.array(own)).all()
    assert branch_tokens(100 * 16, recipe, at) == 16 * own[99]


def test_branches_are_useful_time():
    seconds = {"set_up": 1.0, "compile": 1.0, "train": 4.0, "evaluate": 1.0, "branches": 2.0, "timing": 1.0}
    assert of_own_seconds(seconds) == pytest.approx(0.7)


STUDY = """\
name: x
model: {d_model: 64, vocab_size: 256, tie_embeddings: true}
axes: {n_layers: [1, 2]}
trial: {data: python-stdlib, tokens: 1M, seq_len: 64, batch_size: 4, precision: fp32, branch_at: [25%, 50%]}
profiles: {fast: {trial: {branch_at: null}}}
"""


def test_a_study_asks_for_them_and_a_profile_may_take_them_out(tmp_path):
    (tmp_path / "x.yaml").write_text(STUDY)
    runs = {}
    for profile in ("full", "fast"):
        loaded = load(tmp_path / "x.yaml", profile=profile)
        runs[profile] = StudyRun(loaded=loaded, plan=make_plan(loaded, cpus=2), folder=RunFolder(root=tmp_path))
    job = runs["full"].search.driver().ask()
    assert job.branch_at == (0.25, 0.5)
    bare = runs["fast"].search.driver().ask()
    assert (bare.branch_at, bare.trial_id) == ((), job.trial_id)
    assert all(point.branch_at == (0.25, 0.5) for point in runs["full"].search.points_of({job.config.config_id}))


def test_the_census_says_which_are_trained_again_for_their_branches(tmp_path):
    from sweeper.running.preparation import census
    from sweeper.search.on_kinds import OnKinds

    (tmp_path / "x.yaml").write_text(STUDY)
    loaded = load(tmp_path / "x.yaml", profile="full")
    run = StudyRun(loaded=loaded, plan=make_plan(loaded, cpus=2), folder=RunFolder(root=tmp_path))
    job = run.search.driver().ask()
    records = [line_of(make_final(job))]
    said = census(OnKinds(run.replayed(records)), records, branch_at=(0.25, 0.5))
    assert said == "0 kept, 2 to do, 1 of them again, as they ran without these branches"
    records = [line_of(make_final(job, branches=taken(0.25, 0.5)))]
    assert census(OnKinds(run.replayed(records)), records, branch_at=(0.25, 0.5)) == "1 kept, 1 to do"
