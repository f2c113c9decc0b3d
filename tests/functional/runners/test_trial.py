"""The trial against things known otherwise: a chain's entropy, gradient accumulation, its own seed."""

import json
import math
from dataclasses import replace

import pytest
import torch
from trial_jobs import job, write_chain

from sweeper.ledger.lines import event_record
from sweeper.runners.data.dataset import held_out_batches, open_data
from sweeper.runners.training.job_run import DEFAULT_TARGET, JobRun
from sweeper.runners.training.training import Training, build_training, thinned
from sweeper.runners.training.trial import run_job
from sweeper.values.schedule import Schedule
from tests.fakes import FakeTime


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    return folder, write_chain(folder)


def last(run):
    *rungs, outcome = run_job(run)
    assert all(event.type == "rung" for event in rungs)
    json.dumps(event_record(outcome), allow_nan=False)
    return outcome


def chain_entropy(path, matrix, *, eval_tokens, seq_len):
    """Mean -log p(next | this) under the chain itself, over exactly the held-out targets, and their number."""
    dataset = open_data("chain", str(path), 16)
    total, count = 0.0, 0
    for inputs, targets in held_out_batches(
        dataset, eval_tokens=eval_tokens, batch_size=8, seq_len=seq_len, device=torch.device("cpu")
    ):
        p = matrix[inputs.numpy(), targets.numpy()]
        total += -float(sum(map(math.log, p.flatten())))
        count += targets.numel()
    return total / count, count


def test_the_held_out_loss_ends_at_the_sources_entropy_and_not_below(chain):
    path, matrix = chain
    run = job(path, steps=500, tokens_per_step=1024, batch_size=16, eval_tokens=65_536, compile=True)
    outcome = last(run)
    entropy, count = chain_entropy(path, matrix, eval_tokens=65_536, seq_len=64)
    assert count == 65_536
    assert 1.0 < entropy < math.log(16) - 0.5
    assert outcome.status == "ok"
    assert outcome.val_loss < entropy + 0.03
    # For a model within 0.03 nats the log-ratio's variance is about 2 × 0.03; four standard errors of its mean.
    assert outcome.val_loss > entropy - 4 * math.sqrt(0.06 / count)
    assert outcome.val_bpb is None


def test_the_seed_alone_fixes_the_result(chain):
    torch.manual_seed(1)
    first = last(job(chain[0], seed=3))
    torch.manual_seed(2)
    assert last(job(chain[0], seed=3)).val_loss == first.val_loss
    assert last(job(chain[0], seed=4)).val_loss != first.val_loss


def test_the_loss_does_not_depend_on_the_micro_batch_or_on_compiling(chain):
    whole = last(job(chain[0], batch_size=8))
    assert last(job(chain[0], batch_size=2)).val_loss == pytest.approx(whole.val_loss, abs=2e-4)
    assert last(job(chain[0], compile=True)).val_loss == pytest.approx(whole.val_loss, abs=2e-4)


@pytest.mark.parametrize("compile", [False, True])
def test_fp8_ends_within_a_hundredth_of_bf16(chain, compile):
    two_layers = {"n_layers": 2}
    bf16 = last(job(chain[0], shape=two_layers, precision="bf16"))
    unfiltered = {"precision": "fp8", "fp8_backend": "torchao", "fp8_filter": "none"}
    fp8 = last(job(chain[0], shape=two_layers, compile=compile, **unfiltered))
    report = fp8.environment["precision"]
    assert (report["converted"], report["total"], report["emulated"], report["kept_out"]) == (8, 8, True, ())
    assert fp8.environment["graph_breaks"] == 0
    assert fp8.val_loss != bf16.val_loss
    assert fp8.val_loss == pytest.approx(bf16.val_loss, rel=0.01)


def test_fp8_leaves_out_by_default_what_it_slows_down(chain):
    report = last(job(chain[0], precision="fp8", steps=1)).environment["precision"]
    assert (report["converted"], report["total"], report["layer_filter"]) == (0, 4, "auto")
    assert "block 0: attention.out: K 32 ≤ 4096 and N 32 ≤ 1024 (FP8 slower than bf16 there)" in report["kept_out"]


def test_a_trial_that_blows_up_is_diverged(chain):
    for lr in (1e4, 1e38):
        outcome = last(job(chain[0], optimizer={"lr": lr, "grad_clip": 1e9}))
        assert outcome.status == "diverged"


def test_out_of_memory_is_a_result_and_the_next_trial_is_unharmed(chain, monkeypatch):
    real = Training.step

    def planted(self):
        if self.step_index == 5:
            raise torch.OutOfMemoryError("planted")
        real(self)

    monkeypatch.setattr(Training, "step", planted)
    outcome = last(job(chain[0]))
    assert outcome.status == "out_of_memory"
    assert outcome.val_loss is None
    monkeypatch.setattr(Training, "step", real)
    assert last(job(chain[0])).status == "ok"


def test_a_real_allocation_failure_is_out_of_memory(chain):
    monster = job(chain[0], shape={"n_layers": 1, "d_model": 2**21, "head_dim": 2**20, "ffn_hidden": 2**21})
    assert last(monster).status == "out_of_memory"


@pytest.mark.parametrize("vocab_size", [256, 320])
def test_bits_per_byte_are_the_nats_over_the_targets_bytes(tmp_path, vocab_size):
    text = tmp_path / "text"
    text.mkdir()
    for number in range(30):
        (text / f"{number}.txt").write_text("".join(f"line {i} of {number}: {i * number}\n" for i in range(300)))
    outcome = last(job(text, shape={"vocab_size": vocab_size}, data="text", steps=20))
    dataset = open_data("text", str(text), vocab_size)
    targets = [
        token
        for _, batch in held_out_batches(dataset, eval_tokens=8192, batch_size=8, seq_len=64, device="cpu")
        for token in batch.flatten().tolist()
    ]
    size = len(targets) if vocab_size == 256 else sum(int(dataset.token_bytes[token]) for token in targets)
    assert (size > len(targets)) == (vocab_size > 256)
    assert outcome.val_bpb == pytest.approx(outcome.val_loss * len(targets) / math.log(2) / size)


@pytest.mark.parametrize(
    ("steps", "kind", "train", "timing"),
    # Too short a schedule is followed by 10 steps of warm-up and 5 windows of one step each.
    [(1, "train", 0.5, 7.5), (30, "train", 15.0, 0.0), (1, "speed", 0.0, 8.0)],
)
def test_the_six_clocks_add_up_to_what_the_job_took(chain, monkeypatch, steps, kind, train, timing):
    """By a clock that stands still but for steps (0.5 s, the first 2.5 s), evaluating, and whoever reads a rung."""
    real, clock = Training.step, FakeTime()

    def step(self):
        clock.advance(0.5 if self.step_index else 2.5)
        real(self)

    monkeypatch.setattr(Training, "step", step)
    monkeypatch.setattr("sweeper.runners.training.step_times.PROBE_WINDOW_SECONDS", 0.5)
    monkeypatch.setattr("sweeper.runners.training.clock.time", clock)
    monkeypatch.setattr("sweeper.runners.training.training.time", clock)
    monkeypatch.setattr("sweeper.runners.training.evaluation.evaluate", lambda *_: (clock.advance(0.25), (2.0, 512))[1])
    events = run_job(job(chain[0], steps=steps, kind=kind))
    rungs = 0
    while (outcome := next(events)).type == "rung":
        clock.advance(0.125)
        rungs += 1
    expected = {"set_up": 0.125 * rungs, "compile": 2.0, "train": train, "timing": timing, "branches": 0.0}
    assert outcome.seconds == expected | {"evaluate": 0.25 if kind == "train" else 0.0}
    assert sum(outcome.seconds.values()) == clock.now
    assert (rungs > 0) == (kind == "train")


def test_other_errors_are_not_swallowed(chain, monkeypatch):
    def broken(self):
        raise RuntimeError("not a memory matter")

    monkeypatch.setattr(Training, "step", broken)
    with pytest.raises(RuntimeError, match="not a memory matter"):
        last(job(chain[0]))


@pytest.mark.parametrize("steps", [1, 2, 5, 12, 40])
def test_speed_is_measured_after_warm_up_however_short_the_trial(chain, steps):
    outcome = last(job(chain[0], steps=steps))
    assert outcome.tokens == steps * 512
    assert len(outcome.curve) == steps
    assert len(outcome.speed.windows) >= 3
    assert outcome.speed.low <= outcome.speed.tokens_per_s <= outcome.speed.high
    assert outcome.speed.step_ms == pytest.approx(1000 * 512 / outcome.speed.tokens_per_s)


def test_a_probe_measures_speed_alone(chain):
    outcome = last(job(chain[0], kind="speed"))
    assert outcome.type == "speed"
    assert len(outcome.speed.windows) >= 3
    assert outcome.peak_memory_bytes > 1e6


def test_the_record_says_what_the_result_depends_on(chain):
    environment = last(job(chain[0])).environment
    assert environment["epochs"] == pytest.approx(60 * 512 / 400_000, rel=0.01)
    assert len(environment["data_fingerprint"]) == 16
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["graph_breaks"] == 0


def test_more_than_one_pass_is_noted(chain, tmp_path):
    write_chain(tmp_path / "short", train=20_000, held_out=9_000)
    outcome = last(job(tmp_path / "short"))
    assert any("1.54 times" in note for note in outcome.notes)
    assert not any("passed" in note for note in last(job(chain[0])).notes)


def test_weight_decay_and_clipping_are_those_of_adamw(chain):
    """Three steps against a hand-written AdamW on the same gradients."""
    run = job(chain[0], steps=3, optimizer={"warmup": 0.0, "cooldown": 0.0, "weight_decay": 0.5, "grad_clip": 0.1})
    inputs = torch.randint(0, 16, (8, 64), generator=torch.Generator().manual_seed(0))
    batch = (inputs, inputs.roll(-1, dims=1))
    ours = build_training(job=run, device=torch.device("cpu"), batches=iter([batch] * 3))
    theirs = build_training(job=run, device=torch.device("cpu"), batches=iter([]))
    parameters = list(theirs.model.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    for t in range(1, 4):
        ours.step()
        gradients = torch.autograd.grad(theirs.model.loss(*batch), parameters)
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        with torch.no_grad():
            for p, g, (m, v) in zip(parameters, gradients, moments, strict=True):
                clipped = g * min(1.0, 0.1 / (norm.item() + 1e-6))
                m.mul_(0.9).add_(clipped, alpha=0.1)
                v.mul_(0.95).add_(clipped.square(), alpha=0.05)
                if p.dim() > 1:
                    p.mul_(1 - 1e-2 * 0.5)
                p.sub_(1e-2 * (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8))
    for own, other in zip(ours.model.parameters(), parameters, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("steps", "warmup", "cooldown"), [(1, 0.1, 0.2), (7, 0.5, 0.5), (100, 0.04, 0.2), (10, 0, 0)])
def test_the_schedule_rises_stays_falls_and_completes(steps, warmup, cooldown):
    schedule = Schedule.of(steps, warmup=warmup, cooldown=cooldown)
    factors = [schedule.factor(step) for step in range(steps)]
    falling = round(cooldown * steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[-1] <= 1 / (falling + 1) + 1e-12
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert schedule.factor(steps) == 0


def test_a_curve_has_at_most_256_points_and_keeps_the_mean():
    losses = [float(i) for i in range(1000)]
    points = thinned(losses, tokens_per_step=8)
    assert len(points) <= 256
    assert points[-1][0] == 8000
    assert points[0] == (32, 1.5)
    assert thinned([1.0, math.inf, 3.0], tokens_per_step=1) == ((1, 1.0), (3, 3.0))


@torch._dynamo.config.patch(recompile_limit=1)
def test_more_shapes_than_the_recompile_limit_compile_in_one_process(chain):
    for width in (16, 32, 48):
        run = job(chain[0], compile=True, steps=1, eval_tokens=512, shape={"d_model": width, "ffn_hidden": 16})
        assert last(run).environment["graph_breaks"] == 0


def test_other_data_of_the_same_name_fails_before_a_step_is_taken(chain, tmp_path):
    own = open_data("chain", str(chain[0]), 16).fingerprint
    told = job(chain[0], steps=2)
    assert last(replace(told, data_fingerprint=own)).environment["data_fingerprint"] == own
    other = JobRun(replace(told, data_fingerprint="0123456789abcdef"), job_target=DEFAULT_TARGET, logs=tmp_path)
    failed = other.next_event()
    other.close()
    assert failed.type == "failed"
    assert failed.error.startswith(f"DataError: chain: the data where this job runs has fingerprint {own} (")
    assert failed.error.endswith("the driver's has 0123456789abcdef: bring the same files to every node")


def test_data_that_the_driver_has_and_this_machine_lacks_is_missed_by_its_path(tmp_path):
    lost = JobRun(replace(job(tmp_path / "nowhere"), data_fingerprint="abc"), job_target=DEFAULT_TARGET, logs=tmp_path)
    failed = lost.next_event()
    lost.close()
    assert failed.error == (
        f"DataError: data: {tmp_path / 'nowhere'} isn't on the machine of this job: "
        "it has to be at that path on every node"
    )
