"""A branch is the shorter training that it stands for, and its trunk never knows that it was away."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ledger_lines import event_of
from trial_jobs import job, write_chain

from sweeper.ledger.lines import event_record
from sweeper.runners.training import branches, clock, step_times, training
from sweeper.runners.training.checkpoint import Checkpoints
from sweeper.runners.training.training import Training
from sweeper.runners.training.trial import run_job
from sweeper.values.records import Base
from sweeper.values.schedule import Schedule

AT = (0.25, 0.5, 0.75)
STEPS = 40


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder)
    return folder


@pytest.fixture(autouse=True)
def timed_briefly(monkeypatch):
    monkeypatch.setattr(step_times, "PROBE_WINDOW_SECONDS", 0.01)


def outcome_of(run, **options):
    *_, outcome = run_job(run, **options)
    assert outcome.status == "ok"
    return outcome


def branching(run):
    return replace(run, branch_at=AT)


def shorter(run, fraction):
    """The training that a branch stands for: fewer steps, its warm-up as many steps as the trunk's."""
    recipe, steps = run.config.recipe, round(fraction * run.steps)
    warmup = Schedule.of(run.steps, warmup=recipe.optimizer.warmup, cooldown=0).rising / steps
    optimizer = replace(recipe.optimizer, warmup=warmup)
    return replace(run, config=replace(run.config, recipe=replace(recipe, steps=steps, optimizer=optimizer)))


RECIPES = {
    "adamw": {},
    "muon, accumulated, long warm-up and cooldown": {
        "batch_size": 2, "optimizer": {"name": "muon", "momentum": 0.95, "warmup": 0.1, "cooldown": 0.5},
    },
    "completep, compiled, bf16": {
        "compile": True, "precision": "bf16", "optimizer": {"base": Base(n_layers=2, d_model=16, ffn_hidden=32)},
    },
    "fp8": {"precision": "fp8", "fp8_backend": "torchao", "fp8_filter": "none"},
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_each_branch_is_a_training_of_its_own_and_the_trunk_is_undisturbed(chain, name):
    at = AT if name == "adamw" else (0.5,)
    run = job(chain, steps=STEPS, eval_tokens=1024, seed=3, **RECIPES[name])
    undisturbed, found = outcome_of(run), outcome_of(replace(run, branch_at=at))
    assert (found.val_loss, found.curve, found.tokens) == (undisturbed.val_loss, undisturbed.curve, undisturbed.tokens)
    assert undisturbed.branches == ()
    assert [branch.fraction for branch in found.branches] == list(at)
    for branch in found.branches:
        own = outcome_of(shorter(run, branch.fraction))
        assert (branch.val_loss, branch.val_bpb, branch.tokens) == (own.val_loss, own.val_bpb, own.tokens)
    assert len({branch.val_loss for branch in found.branches} | {found.val_loss}) == len(at) + 1
    assert event_of(event_record(found)).branches == found.branches


def test_bits_per_byte_of_a_branch_are_those_of_its_loss(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"line {i}: {i * i}\n" for i in range(9000)))
    run = job(tmp_path, shape={"vocab_size": 256}, data="text", steps=20, eval_tokens=1024)
    found = outcome_of(replace(run, branch_at=(0.5,)))
    (branch,) = found.branches
    assert branch.val_bpb == outcome_of(shorter(run, 0.5)).val_bpb
    assert branch.val_bpb / branch.val_loss == pytest.approx(found.val_bpb / found.val_loss)


@pytest.fixture
def steps_take(monkeypatch):
    """Makes steps take as long as told, by their number and whether they're a branch's; nothing else takes any time."""

    def settle(seconds):
        now, real = [0.0], Training.step

        def step(self):
            now[0] += seconds(self.step_index, self.schedule.steps < STEPS)
            real(self)

        monkeypatch.setattr(Training, "step", step)
        for module in (clock, training):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    return settle


def test_branches_have_a_clock_of_their_own_and_no_part_in_the_speed(chain, steps_take):
    """Of 20 steps the last 4 are the branch's own, of 30 the last 6."""
    steps_take(lambda step, away: 0.2 if away else 0.005)
    found = outcome_of(replace(job(chain, steps=STEPS, eval_tokens=1024), branch_at=(0.5, 0.75)))
    assert found.seconds["branches"] == pytest.approx(0.2 * (4 + 6))
    assert found.seconds["train"] == pytest.approx(0.005 * STEPS)
    assert sum(found.seconds.values()) == pytest.approx(2.2)
    assert found.speed.windows == pytest.approx([512 / 0.005] * 10)
    first, second = found.branches
    assert first.train_seconds == pytest.approx(16 * 0.005 + 4 * 0.2)
    assert second.train_seconds == pytest.approx(24 * 0.005 + 6 * 0.2)


def test_before_compiling_can_be_told_apart_a_branch_takes_its_own_pace(chain, steps_take):
    steps_take(lambda step, away: 0.01 if step else 1.0)
    found = outcome_of(replace(job(chain, steps=STEPS, eval_tokens=1024), branch_at=(0.1, 0.25, 0.5)))
    assert [branch.train_seconds for branch in found.branches] == pytest.approx([0.04, 0.1, 0.2])
    assert found.seconds["compile"] == pytest.approx(0.99)


def test_a_branch_that_diverges_has_no_loss_and_leaves_its_trunk_alone(chain, monkeypatch):
    real = Training.step

    def spoilt(self):
        real(self)
        if self.schedule.steps == STEPS // 2:
            for parameter in self.model.parameters():
                parameter.data.fill_(float("nan"))

    run = job(chain, steps=STEPS, eval_tokens=1024)
    undisturbed = outcome_of(run)
    monkeypatch.setattr(Training, "step", spoilt)
    found = outcome_of(branching(run))
    assert [branch.val_loss is None for branch in found.branches] == [False, True, False]
    assert found.val_loss == undisturbed.val_loss
    assert "the branch at 50% of the tokens diverged" in found.notes


def test_without_memory_for_the_copy_the_branch_is_left_out_and_said(chain, monkeypatch):
    def none_left(*arguments):
        raise OSError(12, "Cannot allocate memory")

    run = job(chain, steps=STEPS, eval_tokens=1024)
    undisturbed = outcome_of(run)
    monkeypatch.setattr(branches, "mmap", SimpleNamespace(mmap=none_left))
    found = outcome_of(branching(run))
    assert found.val_loss == undisturbed.val_loss
    assert [branch.val_loss for branch in found.branches] == [None] * 3
    assert any("the branch at 25% of the tokens wasn't taken: " in note and "host" in note for note in found.notes)


def test_out_of_memory_in_a_branch_is_the_trials(chain, monkeypatch):
    real = Training.step

    def planted(self):
        if self.schedule.steps < STEPS:
            raise torch.OutOfMemoryError("planted")
        real(self)

    monkeypatch.setattr(Training, "step", planted)
    *_, found = run_job(branching(job(chain, steps=STEPS, eval_tokens=1024)))
    assert found.status == "out_of_memory"
    monkeypatch.setattr(Training, "step", real)
    assert outcome_of(job(chain, steps=STEPS, eval_tokens=1024)).status == "ok"


def test_after_a_nan_under_fp8_the_branches_are_those_in_bf16(chain, monkeypatch):
    real = Training.collect_losses

    def nan_late(self):
        losses = real(self)
        late = self.report.name == "fp8" and self.step_index > 30 and self.schedule.steps == STEPS
        return [float("nan")] * len(losses) if late else losses

    run = job(chain, steps=STEPS, eval_tokens=1024, precision="fp8", fp8_backend="torchao", fp8_filter="none")
    bf16 = outcome_of(branching(job(chain, steps=STEPS, eval_tokens=1024, precision="bf16")))
    monkeypatch.setattr(Training, "collect_losses", nan_late)
    found = outcome_of(branching(run))
    assert found.job.resolved.precision == "bf16"
    assert [branch.val_loss for branch in found.branches] == [branch.val_loss for branch in bf16.branches]


def test_a_training_that_goes_on_from_a_checkpoint_has_the_same_branches(chain, tmp_path):
    run = branching(job(chain, steps=STEPS, eval_tokens=1024, batch_size=4))
    expected, checkpoints = outcome_of(run), Checkpoints(folder=tmp_path, every=7)
    events = run_job(run, checkpoints=checkpoints)
    while next(events).tokens < 24 * 512:
        pass
    events.close()
    found = outcome_of(run, checkpoints=replace(checkpoints, resume=True))
    assert found.environment["resumed"]["step"] == 21
    assert found.val_loss == expected.val_loss
    assert [branch.val_loss for branch in found.branches] == [branch.val_loss for branch in expected.branches]


def test_a_branch_that_a_checkpoint_has_gone_past_is_told_as_missing(chain, tmp_path):
    run, checkpoints = job(chain, steps=STEPS, eval_tokens=1024), Checkpoints(folder=tmp_path, every=15)
    events = run_job(run, checkpoints=checkpoints)
    while next(events).tokens < 18 * 512:
        pass
    events.close()
    found = outcome_of(replace(run, branch_at=(0.25, 0.5)), checkpoints=replace(checkpoints, resume=True))
    assert [branch.val_loss is None for branch in found.branches] == [True, False]
    assert any("the branch at 25% of the tokens wasn't taken: the training was past" in one for one in found.notes)


def test_steps_of_minutes_are_those_that_branches_go_by(chain):
    from sweeper.values.records import Resolved

    run = job(chain, steps=None, minutes=1.0, eval_tokens=1024)
    run = replace(run, resolved=Resolved(steps=STEPS), branch_at=(0.5,))
    (branch,) = outcome_of(run).branches
    assert branch.tokens == STEPS // 2 * 512


def test_the_copy_of_the_state_is_no_part_of_the_memory_that_a_trial_took(chain):
    """A model of 28 MB whose state takes twice that beside it: the copy of all three would show."""
    wide = {"d_model": 768, "ffn_hidden": 2304, "head_dim": 64}
    run = job(chain, steps=3, seq_len=16, tokens_per_step=16, batch_size=1, eval_tokens=64, shape=wide)
    copied = 3 * 4 * run.config.shape.params.total
    without, found = ([*run_job(one)][-1] for one in (run, replace(run, branch_at=(0.7,))))
    assert len(found.branches) == 1
    assert found.peak_memory_bytes < without.peak_memory_bytes + 0.3 * copied


def test_a_branch_leaves_the_stable_part_and_ends_cold():
    for steps in (3, 10, 37, 1000):
        for cooldown in (0.0, 0.2, 0.5, 0.9):
            trunk = Schedule.of(steps, warmup=0.04, cooldown=cooldown)
            for fraction in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
                branch = trunk.branch(fraction, cooldown=cooldown)
                assert branch.stable_until <= trunk.stable_until
                shared = range(branch.stable_until)
                assert [branch.factor(step) for step in shared] == [trunk.factor(step) for step in shared]
                assert branch.factor(branch.steps) == 0
                assert branch.steps == max(1, round(fraction * steps))


def test_branches_that_leave_at_the_same_step_are_all_taken(chain):
    run = replace(job(chain, steps=4, eval_tokens=512), branch_at=(0.45, 0.5, 0.55))
    assert len(branches.planned_branches(run, Schedule.of(4, warmup=0.04, cooldown=0.2))) == 3
    found = outcome_of(run)
    assert len({branch.val_loss for branch in found.branches}) == 1
    assert len(found.branches) == 3
