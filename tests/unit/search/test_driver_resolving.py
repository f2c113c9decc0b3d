"""Micro-batch, precision and steps are settled by probes: rule by rule."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from resolving_fakes import GIB, TOKENS_PER_STEP, climb, config, driver, final, in_minutes, sizes, speed

from sweeper.planning.outcomes import MAX_ATTEMPTS
from sweeper.values.events import Done, Failed, Wait
from sweeper.values.records import Execution, Job, Resolved


def test_a_ladder_takes_the_fastest_and_its_trials_say_so():
    machine = driver(config(), seeds=2)
    assert sizes(climb(machine, 200.0, 300.0, 100.0)) == [8, 4, 2]
    for seed in (0, 1):
        job = machine.ask()
        assert (job.kind, job.seed, job.execution.batch_size, job.resolved) == ("train", seed, 4, Resolved())
        machine.tell(final(job))
    assert isinstance(machine.ask(), Done)


@pytest.mark.parametrize(("speeds", "chosen"), [((300.0, 200.0), 8), ((300.0, 300.0), 4), ((None, 9.0, 8.0), 4)])
def test_a_ladder_ends_where_a_smaller_micro_batch_is_no_faster(speeds, chosen):
    """Of equal speeds the smaller micro-batch's counts, which needs less memory."""
    machine = driver(config(), batch_sizes=(1, 2, 4, 8))
    assert len(machine.states()) == 5
    assert sizes(climb(machine, *speeds)) == [8, 4, 2][: len(speeds)]
    job = machine.ask()
    assert (job.kind, job.execution.batch_size) == ("train", chosen)
    machine.tell(final(job))
    assert isinstance(machine.ask(), Done)
    assert list(machine.states().values()) == ["done"] * (len(speeds) + 1)


def test_a_ladder_begins_where_memory_ends():
    machine = driver(config(), batch_sizes=(2, 4, 8, 16))
    assert sizes(climb(machine, None, 100.0, 90.0)) == [16, 8, 4]
    job = machine.ask()
    assert (job.kind, job.execution.batch_size) == ("train", 8)
    machine.tell(final(job))
    assert isinstance(machine.ask(), Done)
    assert list(machine.states().values()) == ["done"] * 4
    assert [machine.is_boundary(job_id) for job_id in machine.states()] == [False, False, True, False]


def test_a_ledger_whose_ladder_was_climbed_up_is_gone_on_with():
    """Above what was out of memory nothing is tried, and all that was measured is chosen from."""
    told, machine = driver(config(), batch_sizes=(2, 4, 8, 16)), driver(config(), batch_sizes=(2, 4, 8, 16))
    probes = {job.execution.batch_size: job for job in told.jobs.values() if job.kind == "speed"}
    for size, tokens_per_s in ((2, 30.0), (4, 10.0), (8, None)):
        machine.tell(speed(probes[size], tokens_per_s))
    job = machine.ask()
    assert (job.kind, job.execution.batch_size) == ("train", 2)


def test_one_probe_of_a_ladder_at_a_time_while_others_go_on():
    machine = driver(config(1), config(2))
    first, second = machine.ask(), machine.ask()
    assert [(job.config.shape.n_layers, job.execution.batch_size) for job in (first, second)] == [(1, 8), (2, 8)]
    assert isinstance(machine.ask(), Wait)
    machine.tell(speed(first, 100.0))
    third = machine.ask()
    assert (third.config.shape.n_layers, third.execution.batch_size) == (1, 4)
    assert isinstance(machine.ask(), Wait)
    machine.tell(speed(third, 90.0))
    training = machine.ask()
    assert (training.kind, training.config.shape.n_layers) == ("train", 1), "the other ladder isn't waited for"


def test_configs_that_differ_in_nothing_that_speed_depends_on_share_a_ladder():
    machine = driver(config(lr=1e-3), config(lr=2e-3), config(data="python-packages"), seeds=2)
    assert sizes(climb(machine, 2.0, 3.0, 1.0)) == [8, 4, 2]
    trainings = []
    while isinstance(job := machine.ask(), Job):
        trainings.append(job)
        machine.tell(final(job))
    assert [job.kind for job in trainings] == ["train"] * 6
    assert set(sizes(trainings)) == {4}


def test_a_config_that_nothing_has_memory_for_is_not_trained_and_says_why():
    machine = driver(config(1), config(2), seeds=2)
    climb(machine, None, None, None)
    assert sizes(climb(machine, 1.0, 2.0, 3.0)) == [8, 4, 2]
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
    assert machine.ask().execution.batch_size == 8


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
    assert machine.ask().execution.batch_size == 2


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
    probes = climb(machine, 10.0, 12.0, 11.0, 11.0, 13.0, 12.0)
    assert [(job.precision, job.execution.batch_size) for job in probes] == [
        (precision, size) for precision in ("bf16", "fp8") for size in (8, 4, 2)
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
    climb(machine, 100.0, 200.0, 150.0, 1000.0, 900.0)
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
    climb(machine, 10.0, 30.0, 20.0, 70.0, 60.0)
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
    assert [event.status for event in events] == ["out_of_memory", "ok", "ok", "ok"]
    for cap, tried in ((16 * GIB, []), (32 * GIB, [8, 4]), (None, [8, 4])):
        again = driver(one, memory_bytes=cap)
        for event in events:
            again.tell(event)
        assert sizes([event.job for event in ended(again, {2: 1.0, 4: 2.0, 8: 3.0})]) == tried
    hungry = replace(events[-1], job=replace(events[-1].job, memory_bytes=None), peak_memory_bytes=20 * GIB)
    with_context = replace(hungry, beside_memory_bytes=5 * GIB)
    for told, cap, asked in (
        (hungry, 16 * GIB, 1), (hungry, 24 * GIB, 0), (hungry, None, 0),
        (with_context, 24 * GIB, 1), (with_context, 25 * GIB, 0),
    ):  # fmt: skip
        machine = driver(one, memory_bytes=cap, batch_sizes=(4,))
        machine.tell(told)
        assert len(ended(machine, at_batch)) == asked, (told.beside_memory_bytes, cap)


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
        ("speed", 8), ("speed", 4), ("speed", 2), ("train", 2), ("train", 2),
    ]  # fmt: skip
    assert [job.seed for job in mine[-2:]] == [1, 2], "seed 0 is a trial, wherever it was trained"
    assert {job.steps for job in mine[-2:]} == {math.floor(60 * 900 / TOKENS_PER_STEP)}


def test_one_run_on_several_kinds_of_device_comes_to_an_end():
    machine, devices = driver(config(1), config(2), config(3), seeds=3), iter(["A", "B", "C"] * 100)
    asked = 0
    while isinstance(job := machine.ask(), Job):
        asked += 1
        machine.tell(speed(job, 5.0, next(devices)) if job.kind == "speed" else final(job, device=next(devices)))
    assert asked == 3 * 2 + 3 * 3
    assert set(machine.states().values()) == {"done"}


# ---- random worlds -------------------------------------------------------------------------------------------------
