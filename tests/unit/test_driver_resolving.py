"""Micro-batch, precision and steps are settled by probes: rule by rule, and against brute force in random worlds."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.shape import derive
from sweeper.records import (
    Config,
    Done,
    Execution,
    Failed,
    Final,
    Job,
    Optimizer,
    Recipe,
    Resolved,
    Speed,
    SpeedSummary,
    Wait,
)
from sweeper.search.driver import MAX_ATTEMPTS, Driver
from sweeper.search.grid import Grid
from sweeper.search.resolving import JobSettings, MicroBatches

GIB = 2**30
TOKENS_PER_STEP = 512


def config(n_layers=1, *, lr=1e-3, **changes):
    fields = {"data": "python-stdlib", "steps": 10, "seq_len": 32, "precision": "fp32", "eval_tokens": 1024}
    recipe = Recipe(tokens_per_step=TOKENS_PER_STEP, optimizer=Optimizer(lr=lr), **{**fields, **changes})
    shape = derive({"n_layers": n_layers, "d_model": 64, "vocab_size": 256, "tie_embeddings": True})
    return Config(shape=shape, recipe=recipe)


def in_minutes(n_layers=1, minutes=1.0, **changes):
    return config(n_layers, steps=None, minutes=minutes, **changes)


def driver(*configs, batch_sizes=(2, 4, 8), choose="fastest", seeds=1, **settings):
    rungs = MicroBatches(executions=tuple(Execution(batch_size=b, compile=False) for b in batch_sizes), choose=choose)
    return Driver(Grid(configs), seeds=seeds, micro_batches=lambda _: rungs, settings=JobSettings(**settings))


def summary(tokens_per_s):
    return SpeedSummary(
        tokens_per_s=tokens_per_s, low=tokens_per_s, high=tokens_per_s, windows=(tokens_per_s,) * 3, step_ms=1.0
    )


def speed(job, tokens_per_s, device=None):
    """A probe's outcome: its speed, out of memory where that is None."""
    return Speed(
        job=job, status="out_of_memory" if tokens_per_s is None else "ok",
        speed=None if tokens_per_s is None else summary(tokens_per_s), peak_memory_bytes=None, seconds={},
        environment={"device": device},
    )  # fmt: skip


def final(job, status="ok", device=None, peak=None):
    return Final(
        job=job, status=status, val_loss=1.0, val_bpb=None, curve=(), tokens=0, seconds={}, speed=None,
        peak_memory_bytes=peak, environment={"device": device},
    )  # fmt: skip


def climb(machine, *speeds, device=None):
    """Answer the next probes with `speeds`; the jobs that were asked."""
    jobs = []
    for tokens_per_s in speeds:
        job = machine.ask()
        assert job.kind == "speed"
        jobs.append(job)
        machine.tell(speed(job, tokens_per_s, device))
    return jobs


def sizes(jobs):
    return [job.execution.batch_size for job in jobs]


def test_a_ladder_takes_the_fastest_and_its_trials_say_so():
    machine = driver(config(), seeds=2)
    assert sizes(climb(machine, 100.0, 300.0, 200.0)) == [2, 4, 8]
    for seed in (0, 1):
        job = machine.ask()
        assert (job.kind, job.seed, job.execution.batch_size, job.resolved) == ("train", seed, 4, Resolved())
        machine.tell(final(job))
    assert isinstance(machine.ask(), Done)


def test_a_ladder_ends_where_memory_does():
    machine = driver(config(), batch_sizes=(2, 4, 8, 16))
    assert len(machine.states()) == 5
    assert sizes(climb(machine, 100.0, None)) == [2, 4]
    job = machine.ask()
    assert (job.kind, job.execution.batch_size) == ("train", 2)
    machine.tell(final(job))
    assert isinstance(machine.ask(), Done)
    assert list(machine.states().values()) == ["done"] * 3
    assert [machine.is_boundary(job_id) for job_id in machine.states()] == [False, True, False]


def test_one_probe_of_a_ladder_at_a_time_while_others_go_on():
    machine = driver(config(1), config(2))
    first, second = machine.ask(), machine.ask()
    assert [(job.config.shape.n_layers, job.execution.batch_size) for job in (first, second)] == [(1, 2), (2, 2)]
    assert isinstance(machine.ask(), Wait)
    machine.tell(speed(first, 100.0))
    third = machine.ask()
    assert (third.config.shape.n_layers, third.execution.batch_size) == (1, 4)
    assert isinstance(machine.ask(), Wait)
    machine.tell(speed(third, None))
    training = machine.ask()
    assert (training.kind, training.config.shape.n_layers) == ("train", 1), "the other ladder isn't waited for"


def test_configs_that_differ_in_nothing_that_speed_depends_on_share_a_ladder():
    machine = driver(config(lr=1e-3), config(lr=2e-3), config(data="python-packages"), seeds=2)
    assert sizes(climb(machine, 1.0, 3.0, 2.0)) == [2, 4, 8]
    trainings = []
    while isinstance(job := machine.ask(), Job):
        trainings.append(job)
        machine.tell(final(job))
    assert [job.kind for job in trainings] == ["train"] * 6
    assert set(sizes(trainings)) == {4}


def test_a_config_that_nothing_has_memory_for_is_not_trained_and_says_why():
    machine = driver(config(1), config(2), seeds=2)
    climb(machine, None)
    assert sizes(climb(machine, 1.0, 2.0, 3.0)) == [2, 4, 8]
    trained = []
    while isinstance(job := machine.ask(), Job):
        trained.append(job.config.shape.n_layers)
        machine.tell(final(job))
    assert trained == [2, 2]
    assert set(machine.states().values()) == {"done"}
    starved = [machine.reason(f"{config(1).config_id}-s{seed}") for seed in (0, 1)]
    assert [reason.state for reason in starved] == ["out_of_memory"] * 2
    assert "batch_size 2" in starved[0].why
    assert machine.reason(f"{config(2).config_id}-s0") is None


def fail(machine, times=MAX_ATTEMPTS):
    for attempt in range(1, times + 1):
        job = machine.ask()
        assert (job.kind, job.attempt) == ("speed", attempt)
        machine.tell(Failed(job=job, error="boom"))
    return job


def test_a_rung_that_fails_for_good_is_passed_over():
    machine = driver(config())
    climb(machine, 100.0)
    assert fail(machine).execution.batch_size == 4
    climb(machine, 50.0)
    assert machine.ask().execution.batch_size == 2


def test_where_no_probe_could_measure_a_speed_the_trials_have_failed():
    machine = driver(config(), batch_sizes=(2, 4), seeds=2)
    fail(machine)
    fail(machine)
    assert isinstance(machine.ask(), Done)
    assert list(machine.states().values()) == ["failed"] * 4
    assert machine.reason(f"{config().config_id}-s1").state == "failed"


def test_a_probe_without_a_figure_decides_nothing():
    machine = driver(config(), batch_sizes=(2, 4))
    job = machine.ask()
    machine.tell(replace(speed(job, 1.0), speed=None))
    climb(machine, 5.0)
    assert machine.ask().execution.batch_size == 4


def test_auto_is_the_faster_of_bf16_and_fp8():
    for speeds, precision, batch_size in (((10.0, 20.0), "fp8", 4), ((20.0, 20.0), "bf16", 4)):
        machine = driver(config(precision="auto", fp8_backend="torchao"), batch_sizes=(4,))
        probes = climb(machine, *speeds)
        assert [(job.precision, job.config.recipe.fp8_backend) for job in probes] == [
            ("bf16", None), ("fp8", "torchao"),
        ]  # fmt: skip
        job = machine.ask()
        assert (job.kind, job.precision, job.execution.batch_size) == ("train", precision, batch_size)
        assert job.resolved == Resolved(precision=precision)
        assert job.config.recipe.precision == "auto"
        assert job.probe_id == next(probe.probe_id for probe in probes if probe.precision == precision)


def test_auto_climbs_a_ladder_in_each_precision_and_shares_that_of_bf16():
    machine = driver(config(precision="auto"), config(precision="bf16"))
    probes = climb(machine, 10.0, 12.0, 11.0, 11.0, 13.0, None)
    assert [(job.precision, job.execution.batch_size) for job in probes] == [
        (precision, size) for precision in ("bf16", "fp8") for size in (2, 4, 8)
    ]
    auto, plain = machine.ask(), machine.ask()
    assert (auto.precision, auto.execution.batch_size) == ("fp8", 4)
    assert (plain.precision, plain.execution.batch_size, plain.resolved) == ("bf16", 4, Resolved())


def test_minutes_become_whole_steps_of_the_winner():
    machine = driver(in_minutes(minutes=0.5))
    assert climb(machine, 100.0, 1000.0, 500.0)[0].steps is None
    job = machine.ask()
    assert job.resolved.steps == job.steps == math.floor(30 * 1000 / TOKENS_PER_STEP)
    slow = driver(in_minutes(minutes=0.5), batch_sizes=(2,))
    climb(slow, 0.01)
    assert slow.ask().steps == 1


def test_seeds_are_resolved_as_the_trainings_were_that_there_are():
    """The ladder was edited, or its probe lost: what was trained for 7 steps goes on with 7."""
    one = in_minutes(precision="auto")
    machine = driver(one, seeds=3)
    done = Job(
        kind="train", config=one, execution=Execution(batch_size=2, compile=False), seed=1,
        resolved=Resolved(steps=7, precision="bf16"),
    )  # fmt: skip
    machine.tell(final(done))
    climb(machine, 100.0, 200.0, 150.0, 1000.0, 900.0, None)
    jobs = [machine.ask() for _ in range(2)]
    assert [job.seed for job in jobs] == [0, 2]
    assert {job.resolved for job in jobs} == {done.resolved}
    assert set(sizes(jobs)) == {4}, "the fastest in that precision"


def test_a_second_try_in_bf16_is_the_trial_and_other_seeds_start_in_fp8():
    machine = driver(config(precision="fp8"), batch_sizes=(4,), seeds=3)
    first = machine.ask()
    machine.tell(final(replace(first, resolved=Resolved(precision="bf16"))))
    second = machine.ask()
    assert (second.seed, second.precision) == (1, "fp8")
    machine.tell(final(replace(second, resolved=Resolved(precision="bf16")), status="out_of_memory"))
    assert machine.ask().seed == 2
    assert Counter(machine.states().values()) == {"done": 2, "running": 1}


def test_of_auto_other_seeds_follow_a_second_try():
    machine = driver(config(precision="auto"), seeds=2)
    climb(machine, 10.0, 30.0, 20.0, 50.0, 60.0, 70.0)
    first = machine.ask()
    assert (first.precision, first.execution.batch_size) == ("fp8", 8)
    machine.tell(final(replace(first, resolved=Resolved(precision="bf16"))))
    second = machine.ask()
    assert (second.precision, second.execution.batch_size) == ("bf16", 4)


def test_training_out_of_memory_at_the_winner_is_its_outcome():
    machine = driver(config())
    climb(machine, 1.0, 2.0, 3.0)
    machine.tell(final(machine.ask(), "out_of_memory"))
    assert isinstance(machine.ask(), Done)
    assert set(machine.states().values()) == {"done"}


def test_settings_reach_every_job():
    given_settings = {"memory_bytes": 4 * GIB, "shared_ok": True, "data_path": "/data", "device": "cuda"}
    machine = driver(config(), batch_sizes=(2, 4), **given_settings)
    (probe, _), training = climb(machine, 1.0, 2.0), machine.ask()
    for job in (probe, training):
        assert {name: getattr(job, name) for name in given_settings} == given_settings


def ended(machine, speeds, **told):
    """Run to the end in a world where a micro-batch has its speed; the events."""
    events = []
    while isinstance(job := machine.ask(), Job):
        known = speed(job, speeds[job.execution.batch_size], **told) if job.kind == "speed" else final(job, **told)
        events.append(known)
        machine.tell(known)
    return events


def test_another_cap_on_memory_settles_no_probe_and_keeps_trainings_that_fit():
    one, at_batch = config(), {2: 10.0, 4: 20.0, 8: None}
    events = ended(
        driver(one, memory_bytes=16 * GIB),
        at_batch,
    )
    assert [event.status for event in events] == ["ok", "ok", "out_of_memory", "ok"]
    for cap, tried in ((16 * GIB, []), (32 * GIB, [2, 4, 8]), (None, [2, 4, 8])):
        again = driver(one, memory_bytes=cap)
        for event in events:
            again.tell(event)
        assert sizes([event.job for event in ended(again, {2: 1.0, 4: 2.0, 8: 3.0})]) == tried
    hungry = replace(events[-1], job=replace(events[-1].job, memory_bytes=None), peak_memory_bytes=20 * GIB)
    for cap, asked in ((16 * GIB, 1), (24 * GIB, 0), (None, 0)):
        machine = driver(one, memory_bytes=cap, batch_sizes=(4,))
        machine.tell(hungry)
        assert len(ended(machine, at_batch)) == asked


def test_a_training_out_of_memory_under_another_cap_is_tried_again():
    machine = driver(config(), batch_sizes=(4,), memory_bytes=8 * GIB)
    starved = final(machine.ask(), "out_of_memory")
    machine.tell(starved)
    assert isinstance(machine.ask(), Done)
    wider = driver(config(), batch_sizes=(4,), memory_bytes=16 * GIB)
    wider.tell(starved)
    assert wider.ask().memory_bytes == 16 * GIB


def test_speeds_of_another_kind_of_device_settle_nothing_here():
    """Seed 0 was trained on an A100. Until an H200 has spoken its probes are taken, then the H200's own are made."""
    one = in_minutes()
    earlier = ended(driver(one), {2: 100.0, 4: 200.0, 8: 150.0}, device="A100")
    machine = driver(one, config(2), seeds=3)
    for event in earlier:
        machine.tell(event)
    here = machine.ask()
    assert (here.kind, here.config.shape.n_layers) == ("speed", 2)
    machine.tell(speed(here, 10.0, "H200"))
    there = [event.job for event in ended(machine, {2: 900.0, 4: 800.0, 8: 700.0}, device="H200")]
    mine = [job for job in there if job.config == one]
    assert [(job.kind, job.execution.batch_size) for job in mine] == [
        ("speed", 2), ("speed", 4), ("speed", 8), ("train", 2), ("train", 2),
    ]  # fmt: skip
    assert [job.seed for job in mine[-2:]] == [1, 2], "seed 0 is a trial, wherever it was trained"
    assert {job.steps for job in mine[-2:]} == {math.floor(60 * 900 / TOKENS_PER_STEP)}


def test_one_run_on_several_kinds_of_device_comes_to_an_end():
    machine, devices = driver(config(1), config(2), config(3), seeds=3), iter(["A", "B", "C"] * 100)
    asked = 0
    while isinstance(job := machine.ask(), Job):
        asked += 1
        machine.tell(speed(job, 5.0, next(devices)) if job.kind == "speed" else final(job, device=next(devices)))
    assert asked == 3 * 3 + 3 * 3
    assert set(machine.states().values()) == {"done"}


# ---- random worlds -------------------------------------------------------------------------------------------------

OUTCOMES = st.one_of(
    st.floats(1, 1e5), st.floats(1, 1e5), st.integers(1, 3).map(float), st.just("oom"), st.just("broken")
)


@st.composite
def worlds(draw):
    """Configs that share probes or not, their micro-batches, and what every (depth, precision, micro-batch) does."""
    batch_sizes = draw(st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, unique=True).map(sorted))
    configs = draw(
        st.lists(
            st.builds(
                lambda depth, lr, precision, length: config(depth, lr=lr, precision=precision, **length),
                st.integers(1, 2),
                st.sampled_from([1e-3, 2e-3]),
                st.sampled_from(["fp8", "bf16", "auto"]),
                st.sampled_from([{"steps": 10}, {"steps": None, "minutes": 0.1}, {"steps": None, "minutes": 3.0}]),
            ),
            min_size=1, max_size=5, unique=True,
        )
    )  # fmt: skip
    keys = [(depth, p, b) for depth in (1, 2) for p in ("bf16", "fp8") for b in batch_sizes]
    outcomes = dict(zip(keys, draw(st.lists(OUTCOMES, min_size=len(keys), max_size=len(keys))), strict=True))
    return configs, tuple(batch_sizes), draw(st.sampled_from(["each", "fastest"])), outcomes


def brute_force(one, batch_sizes, choose, world):
    """(probes as (depth, precision, micro-batch), what a trial is asked with or why it isn't), rule by rule."""
    recipe, depth = one.recipe, one.shape.n_layers
    if len(batch_sizes) == 1 and recipe.precision != "auto" and recipe.minutes is None:
        return set(), (batch_sizes[0], None, None)
    probes, measured, broken = set(), {}, []
    for precision in ("bf16", "fp8") if recipe.precision == "auto" else (recipe.precision,):
        for size in batch_sizes:
            probes.add((depth, precision, size))
            outcome = world[depth, precision, size]
            if outcome == "broken":
                broken.append(size)
            elif outcome != "oom":
                measured[precision, size] = outcome
            elif choose == "fastest":
                break
    if not measured:
        if not broken:
            return probes, "out_of_memory"
        if choose == "fastest" or recipe.precision == "auto" or recipe.minutes is not None:
            return probes, "failed"
        return probes, (broken[0], None, None)
    best = max(measured.values())
    precision, size = next(key for key, value in measured.items() if value == best)
    if choose == "each":
        size = min(s for p, s in measured if p == precision)
    steps = None
    if recipe.minutes is not None:
        steps = max(1, int(recipe.minutes * 60 * measured[precision, size] // TOKENS_PER_STEP))
    return probes, (size, precision if recipe.precision == "auto" else None, steps)


def outcome(job, world):
    if job.kind == "train":
        return final(job)
    known = world[job.config.shape.n_layers, job.precision, job.execution.batch_size]
    if known == "broken":
        return Failed(job=job, error="boom")
    return speed(job, None if known == "oom" else known)


def play(machine, world, rng, *, concurrency, flaky=0.0, until=math.inf):
    """Run jobs in any order, failing some; the events until so many or the end."""
    events, running = [], []
    while len(events) < until:
        while len(running) < concurrency and isinstance(answer := machine.ask(), Job):
            assert answer.job_id not in {job.job_id for job in running}
            running.append(answer)
        if not running:
            assert isinstance(machine.ask(), Done)
            break
        job = running.pop(rng.randrange(len(running)))
        first = job.attempt == 1 and rng.random() < flaky
        events.append(Failed(job=job, error="flaky") if first else outcome(job, world))
        machine.tell(events[-1])
    return events


def trials(events):
    return {
        event.job.job_id: (event.job.execution.batch_size, event.job.resolved.precision, event.job.resolved.steps)
        for event in events
        if isinstance(event, Final)
    }


@given(world=worlds(), seeds=st.integers(1, 2), rng=st.randoms(use_true_random=False), flaky=st.sampled_from([0, 0.4]))
@settings(deadline=None, max_examples=60)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_decisions_are_those_of_brute_force(world, seeds, rng, flaky, concurrency):
    configs, batch_sizes, choose, outcomes = world
    machine = driver(*configs, batch_sizes=batch_sizes, choose=choose, seeds=seeds)
    events = play(machine, outcomes, rng, concurrency=concurrency, flaky=flaky)
    wanted = [brute_force(one, batch_sizes, choose, outcomes) for one in configs]
    probed = {
        (event.job.config.shape.n_layers, event.job.precision, event.job.execution.batch_size)
        for event in events
        if event.job.kind == "speed"
    }
    assert probed == set().union(*(probes for probes, _ in wanted))
    assert trials(events) == {
        f"{one.config_id}-s{seed}": choice
        for one, (_, choice) in zip(configs, wanted, strict=True)
        for seed in range(seeds)
        if isinstance(choice, tuple)
    }
    ends = Counter(event.job.job_id for event in events if not isinstance(event, Failed))
    assert set(ends.values()) <= {1}
    failures = Counter(event.job.job_id for event in events if isinstance(event, Failed))
    assert all(count <= MAX_ATTEMPTS for count in failures.values())
    for one, (_, choice) in zip(configs, wanted, strict=True):
        reason = machine.reason(f"{one.config_id}-s0")
        assert (reason.state if reason else None) == (choice if isinstance(choice, str) else None)
    states = machine.states()
    assert set(ends) | {job_id for job_id, n in failures.items() if n == MAX_ATTEMPTS} == {
        job_id for job_id in states if machine.reason(job_id) is None
    }


@given(world=worlds(), rng=st.randoms(use_true_random=False), concurrency=st.sampled_from([1, 4]))
@settings(deadline=None, max_examples=40)
def test_killed_at_any_moment_and_replayed_in_any_order_the_same_is_decided(world, rng, concurrency):
    configs, batch_sizes, choose, outcomes = world

    def fresh():
        return driver(*configs, batch_sizes=batch_sizes, choose=choose, seeds=2)

    undisturbed = play(fresh(), outcomes, rng, concurrency=1)
    for kept in range(len(undisturbed) + 1):
        events = undisturbed[:kept]
        replay = rng.sample(events, len(events))
        machine = fresh()
        for event in replay:
            machine.tell(event)
        events += play(machine, outcomes, rng, concurrency=concurrency)
        assert trials(events) == trials(undisturbed)
        jobs = Counter(event.job.job_id for event in events)
        assert jobs == Counter(event.job.job_id for event in undisturbed)


@given(world=worlds(), rng=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_killed_again_and_again_every_job_has_exactly_one_outcome(world, rng):
    configs, batch_sizes, choose, outcomes = world
    ledger = []
    for _life in range(200):
        machine = driver(*configs, batch_sizes=batch_sizes, choose=choose, seeds=2)
        for event in ledger:
            machine.tell(event)
        events = play(machine, outcomes, rng, concurrency=3, flaky=0.2, until=rng.randrange(1, 4))
        ledger += events
        if not events:
            break
    assert not events
    ends = Counter(event.job.job_id for event in ledger if not isinstance(event, Failed))
    assert set(ends.values()) <= {1}
    assert len(trials(ledger)) == sum(
        2 * isinstance(brute_force(one, batch_sizes, choose, outcomes)[1], tuple) for one in configs
    )


def test_a_large_study_is_asked_for_in_no_time():
    """A thousand configs of three rungs: the cost of a decision must not grow to matter beside a trial."""
    import time

    configs = [config(depth, lr=lr / 1e5) for depth in range(1, 21) for lr in range(1, 51)]
    machine = driver(*configs, seeds=3)
    rng, world = random.Random(0), {(d, "fp32", b): 10.0 * b for d in range(1, 21) for b in (2, 4, 8)}
    start = time.process_time()
    events = play(machine, world, rng, concurrency=8, until=400)
    assert len(events) == 400
    assert (time.process_time() - start) / 400 < 0.05
