"""A training that was killed and goes on is the one that wasn't, to the last bit; nothing torn or foreign is taken."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trial_jobs import job, write_chain

from sweeper.runners.training.checkpoint import Checkpoints, outlook, read_header
from sweeper.runners.training.training import Training
from sweeper.runners.training.trial import run_job
from sweeper.values.errors import CantWrite, UsageError
from sweeper.values.records import Base

STEPS = 30


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder)
    return folder


def finish(run, checkpoints):
    *_, outcome = run_job(run, checkpoints=checkpoints)
    assert outcome.status == "ok"
    return outcome


def interrupt(run, checkpoints, *, after):
    """Let a job run until it has told of `after` steps, then end it."""
    events = run_job(run, checkpoints=checkpoints)
    while next(events).tokens < after * run.config.recipe.tokens_per_step:
        pass
    events.close()


def same_tensors(one, other):
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def small(path, **settings):
    return job(path, steps=STEPS, batch_size=4, eval_tokens=1024, **settings)


RECIPES = {
    "adamw": {},
    "untied, compiled, bf16": {"compile": True, "precision": "bf16", "shape": {"tie_embeddings": False}},
    "muon": {"optimizer": {"name": "muon", "momentum": 0.95}},
    "completep": {"optimizer": {"base": Base(n_layers=2, d_model=16, ffn_hidden=32)}},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_training_that_goes_on_is_the_one_that_was_never_interrupted(chain, tmp_path, recipe):
    run = small(chain, **recipe)
    whole, parts = Checkpoints(folder=tmp_path / "whole"), Checkpoints(folder=tmp_path / "parts", every=7)
    expected = finish(run, whole)
    interrupt(run, parts, after=17)
    assert read_header(parts.path(run)).step == 14
    outcome = finish(run, replace(parts, resume=True))
    assert outcome.environment["resumed"]["step"] == 14
    assert (outcome.val_loss, outcome.curve, outcome.tokens) == (expected.val_loss, expected.curve, expected.tokens)
    same_tensors(whole.path(run), parts.path(run))


def test_the_second_try_in_bf16_has_its_own_checkpoint(chain, tmp_path, monkeypatch):
    real = Training.collect_losses

    def nan_under_fp8(self):
        losses = real(self)
        return [*losses[:-1], float("nan")] if self.job.precision == "fp8" and self.step_index >= 20 else losses

    monkeypatch.setattr(Training, "collect_losses", nan_under_fp8)
    run = small(chain, precision="fp8", fp8_filter="none")
    whole, parts = Checkpoints(folder=tmp_path / "whole"), Checkpoints(folder=tmp_path / "parts", every=5)
    expected = finish(run, whole)
    events = run_job(run, checkpoints=parts)
    while (event := next(events)).job.precision == "fp8" or event.tokens < 15 * 512:
        pass
    events.close()
    at = {header.precision: header.step for _, header in parts.of(run.config)}
    assert at == {"fp8": 15, "bf16": 15}
    outcome = finish(run, replace(parts, resume=True))
    assert outcome.job.precision == expected.job.precision == "bf16"
    assert outcome.environment["resumed"]["step"] == 15
    assert (outcome.val_loss, outcome.curve) == (expected.val_loss, expected.curve)
    same_tensors(whole.path(outcome.job), parts.path(outcome.job))


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
from safetensors import torch as safetensors_torch
from trial_jobs import job
from sweeper.runners.training.checkpoint import Checkpoints
from sweeper.runners.training.trial import run_job

written = []
def killed_while_writing(tensors, path, metadata):
    written.append(path)
    real(tensors, path, metadata=metadata)
    if len(written) == 3:
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

real, safetensors_torch.save_file = safetensors_torch.save_file, killed_while_writing
from pathlib import Path
run = job({data!r}, steps={steps}, batch_size=4, eval_tokens=1024)
list(run_job(run, checkpoints=Checkpoints(folder=Path({folder!r}), every=5)))
"""


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(chain, tmp_path):
    run = small(chain)
    whole, parts = (Checkpoints(folder=tmp_path / name, every=5) for name in ("whole", "parts"))
    root = Path(__file__).parents[3]
    code = KILLED.format(
        paths=[str(root), str(root / "tests" / "functional")], data=str(chain), steps=STEPS, folder=str(parts.folder)
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(parts.folder.iterdir())) == 2
    assert read_header(parts.path(run)).step == 10
    expected, outcome = finish(run, whole), finish(run, replace(parts, resume=True))
    assert outcome.environment["resumed"]["step"] == 10
    assert outcome.val_loss == expected.val_loss
    same_tensors(whole.path(run), parts.path(run))
    assert [path.name for path in parts.folder.iterdir()] == [parts.path(run).name]


def test_no_part_of_a_checkpoint_is_taken_for_one(chain, tmp_path):
    run, checkpoints = small(chain), Checkpoints(folder=tmp_path, resume=True)
    interrupt(run, checkpoints, after=STEPS)
    path = checkpoints.path(run)
    data = path.read_bytes()
    for size in (0, 4, 8, 50, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert read_header(path) is None
        assert checkpoints.last(run, data_fingerprint="") is None
    path.write_bytes(data)
    assert read_header(path).finished


@pytest.mark.parametrize("contents", [b"not a tensor", {"weight": torch.zeros(2)}])
def test_foreign_files_are_refused_or_not_seen(chain, tmp_path, contents):
    run, checkpoints = small(chain), Checkpoints(folder=tmp_path, resume=True)
    if isinstance(contents, bytes):
        checkpoints.path(run).write_bytes(contents)
        assert checkpoints.last(run, data_fingerprint="") is None
    else:
        save_file(contents, checkpoints.path(run))
        with pytest.raises(UsageError, match="not a checkpoint that sweeper has written"):
            checkpoints.last(run, data_fingerprint="")


def test_the_checkpoint_of_another_training_is_refused(chain, tmp_path):
    run, checkpoints = small(chain), Checkpoints(folder=tmp_path, resume=True)
    interrupt(run, checkpoints, after=12)
    held = read_header(checkpoints.path(run)).data_fingerprint
    assert checkpoints.last(run, data_fingerprint=held) is not None
    with pytest.raises(UsageError, match=f"the data has changed .*{held}, now 0000"):
        checkpoints.last(run, data_fingerprint="0000")
    others = {
        "seed 0, not 1": replace(run, seed=1),
        "steps 30, not 40": replace(run, resolved=replace(run.resolved, steps=40)),
        f"config_id {run.config.config_id}, not": small(chain, shape={"ffn_hidden": 96}),
    }
    data = checkpoints.path(run).read_bytes()
    for said, other in others.items():
        checkpoints.path(other).write_bytes(data)
        with pytest.raises(UsageError, match=f"another training .*{said}"):
            checkpoints.last(other, data_fingerprint=held)


def test_a_training_goes_on_only_when_told_or_tried_again(chain, tmp_path):
    run, anew = small(chain), Checkpoints(folder=tmp_path)
    interrupt(run, anew, after=12)
    held = read_header(anew.path(run)).data_fingerprint
    assert anew.last(run, data_fingerprint=held) is None
    assert anew.last(replace(run, attempt=2), data_fingerprint=held) is not None
    assert "resumed" not in finish(run, anew).environment


def test_what_is_left_is_said(chain, tmp_path):
    run, anew = small(chain), Checkpoints(folder=tmp_path)
    resumed = replace(anew, resume=True)

    def said(checkpoints, *settled):
        return outlook(checkpoints, run.config, settled=settled, data_path=str(chain))

    assert said(anew) == []
    assert said(resumed) == ["no checkpoint to go on from: what is missing begins at its first step"]
    interrupt(run, anew, after=12)
    at = "seed 0 (fp32) has come to step 13 of 30"
    assert said(anew) == [f"{at}; it begins anew, --resume would go on from there"]
    assert said(resumed) == [f"{at}, and goes on from there"]
    assert said(anew, run.trial_id) == []


def test_a_checkpoint_that_cannot_be_written_ends_no_training_but_the_last_is_the_model(chain, tmp_path, monkeypatch):
    real = Checkpoints.save

    def fails(self, training, **options):
        if training.step_index != (STEPS if at_the_end else 10):
            return real(self, training, **options)
        raise CantWrite("the disk is full")

    monkeypatch.setattr(Checkpoints, "save", fails)
    at_the_end = False
    outcome = finish(small(chain), Checkpoints(folder=tmp_path, every=10))
    assert "the checkpoint at step 10 couldn't be written: the disk is full" in outcome.notes
    at_the_end = True
    with pytest.raises(CantWrite, match="the disk is full"):
        finish(small(chain, seed=1), Checkpoints(folder=tmp_path, every=10))


def test_writing_is_no_training_time(chain, tmp_path, monkeypatch):
    real = Checkpoints.save

    def slow(self, *arguments, **options):
        time.sleep(0.05)
        real(self, *arguments, **options)

    monkeypatch.setattr(Checkpoints, "save", slow)
    start = time.perf_counter()
    seconds = finish(small(chain), Checkpoints(folder=tmp_path, every=3)).seconds
    assert seconds["timing"] >= 10 * 0.05
    assert sum(seconds.values()) <= time.perf_counter() - start + 0.01


def test_the_clocks_of_a_training_that_goes_on_are_those_of_all_its_processes(chain, tmp_path):
    run, checkpoints = small(chain), Checkpoints(folder=tmp_path, resume=True)
    interrupt(run, checkpoints, after=20)
    earlier = read_header(checkpoints.path(run)).seconds
    outcome = finish(run, checkpoints)
    assert outcome.environment["resumed"]["seconds"] == earlier
    assert all(outcome.seconds[name] >= earlier[name] for name in ("set_up", "train", "timing"))


@pytest.mark.parametrize("steps", [1, 2, 9, 11, 12, 30, 100])
@pytest.mark.parametrize("every", [None, 1, 7, 10, 1000])
def test_checkpoints_come_as_often_as_asked_and_at_the_end(chain, steps, every):
    checkpoints = Checkpoints(folder=Path(), every=every)
    for start in {0, 1, steps // 2, steps}:
        rest = steps - start
        segments = checkpoints.cut([rest // 2, rest - rest // 2] if rest > 1 else [rest] * (rest > 0), start=start)
        assert sum(segments) == rest
        assert all(segments)
        ends = [start + sum(segments[: index + 1]) for index in range(len(segments))]
        due = [end for end in ends if checkpoints.due(end, steps=steps)]
        if rest:
            assert due[-1] == steps
        if every:
            assert due[:-1] == [step for step in range(start + 1, steps) if step % every == 0]


def test_by_default_a_tenth_of_the_training_is_all_that_is_lost(chain, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, training, **_: saved.append(training.step_index))
    finish(job(chain, steps=100, eval_tokens=1024), Checkpoints(folder=tmp_path))
    assert saved[-1] == 100
    assert all(after - before <= 10 for before, after in zip([11, *saved], saved, strict=False))


def test_studies_leave_none(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    *_, outcome = run_job(small(chain))
    assert outcome.status == "ok"
    assert not list(tmp_path.rglob("*"))


TRAIN = """
import os, signal, sys
from sweeper.runners.training.training import Training
real = Training.step
def killed(self):
    if self.step_index == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self)
Training.step = killed
from sweeper.commands.main import main
sys.exit(main({arguments!r}))
"""


def test_train_goes_on_after_kill_as_if_nothing_had_been(tmp_path):
    """`sweeper train` killed in the middle of its training, then with --resume; and once undisturbed."""
    (tmp_path / "text").mkdir()
    for number in range(30):
        (tmp_path / "text" / f"{number}.txt").write_text(
            "".join(f"line {i} of {number}: {i * number}\n" for i in range(300))
        )
    flags = "train --data text --n_layers 1 --d_model 32 --head_dim 16 --vocab_size 256 --seq_len 64 --batch_size 2"
    flags += " --grad_accum_steps 2 --tokens 6400 --eval_tokens 1024 --precision fp32 --checkpoint_every 5"

    def train(*more, kill_at=-1):
        code = TRAIN.format(step=kill_at, arguments=[*flags.split(), *more])
        return subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip

    assert train("--out", "one", kill_at=18).returncode == -signal.SIGKILL
    resumed, undisturbed = train("--out", "one", "--resume"), train("--out", "two")
    assert resumed.returncode == undisturbed.returncode == 0, resumed.stderr + undisturbed.stderr
    assert "has come to step 15 of 25, and goes on from there" in " ".join(resumed.stdout.split())
    assert "LlamaForCausalLM.from_pretrained" in " ".join(resumed.stdout.split())
    ends = []
    for out in ("one", "two"):
        (ledger,) = (tmp_path / out / "train").glob("*/ledger.jsonl")
        (final,) = (line for line in map(json.loads, ledger.read_text().splitlines()) if line["type"] == "final")
        (path,) = ledger.parent.glob("checkpoints/*.safetensors")
        ends.append((final, path, ledger.parent / "hf" / "s0" / "model.safetensors"))
    (one, one_path, one_model), (two, two_path, two_model) = ends
    assert one["val_loss"] == two["val_loss"]
    assert one["curve"] == two["curve"]
    same_tensors(one_path, two_path)
    assert one_model.read_bytes() == two_model.read_bytes()
