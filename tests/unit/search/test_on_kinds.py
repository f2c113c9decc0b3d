"""Several device types in one cluster: speeds measured on each, trainings anywhere, the search by the first."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_lines import as_lines
from resolving_fakes import config, driver, final, in_minutes, speed, summary
from test_driver_worlds import brute_force, trials, worlds

from sweeper.ledger.lines import asked_record, event_record
from sweeper.ledger.typed import MeasuredLine
from sweeper.planning.outcomes import MAX_ATTEMPTS
from sweeper.planning.resolving import MicroBatches
from sweeper.running.preparation import kinds_as_before
from sweeper.search import make_strategy
from sweeper.search.driver import Driver
from sweeper.search.grid import Grid
from sweeper.search.job_states import replay
from sweeper.search.on_kinds import OnKinds
from sweeper.values.events import Done, Failed, Final, Wait
from sweeper.values.records import Execution, Job

KINDS = ("H100", "A100")


def on_kinds(*configs, **of):
    return OnKinds(driver(*configs, probed=True, **of), KINDS)


def device(job):
    return f"NVIDIA {job.on}"


def outcome(job, worlds_of, rng, *, bad=0.0):
    """By the world of its kind; a training may go wrong on another kind than the first."""
    if job.kind == "train":
        if job.beside and rng.random() < bad:
            return rng.choice([Failed(job=job, error="boom"), final(job, "out_of_memory", device(job))])
        return final(job, device=device(job))
    known = worlds_of[job.on][job.config.shape.n_layers, job.precision, job.execution.batch_size]
    if known == "broken":
        return Failed(job=job, error="boom")
    return speed(job, None if known == "oom" else known, device(job))


def play(machine, worlds_of, rng, *, room=2, bad=0.0, until=float("inf")):
    """Run jobs in any order, on so many devices of each kind; the ledger's lines until so many or the end."""
    records, running, ended = [], [], 0
    while ended < until:
        while True:
            taken = Counter(job.on for job in running)
            answer = machine.ask(tuple(kind for kind in KINDS if taken[kind] < room))
            if not isinstance(answer, Job):
                break
            assert taken[answer.on] < room
            assert answer.job_id not in {job.job_id for job in running}
            assert answer.beside or answer.on == "H100"
            running.append(answer)
            records.append(asked_record(answer))
        if not running:
            assert isinstance(machine.ask(KINDS), Done)
            break
        assert isinstance(machine.ask(()), Wait)
        event = outcome(running.pop(rng.randrange(len(running))), worlds_of, rng, bad=bad)
        records.append(event_record(event))
        machine.tell(event)
        ended += 1
    return records


def events_of(records):
    class Kept:
        def __init__(self):
            self.events = []

        def adopt(self, job):
            pass

        def tell(self, event):
            self.events.append(event)

    kept = Kept()
    replay(as_lines(records), kept)
    return kept.events


def speeds_by_brute_force(configs, batch_sizes, choose, world):
    """The speeds that are measured beside: of all micro-batches, or those up to the first out of memory."""
    found = set()
    for one in configs:
        for precision in ("bf16", "fp8") if one.recipe.precision == "auto" else (one.recipe.precision,):
            for size in batch_sizes:
                found.add((one.shape.n_layers, precision, size))
                if choose == "fastest" and world[one.shape.n_layers, precision, size] == "oom":
                    break
    return found


def others(world, draw):
    return dict(zip(world, draw(st.permutations(list(world.values()))), strict=True))


@st.composite
def two_worlds(draw):
    configs, batch_sizes, choose, first = draw(worlds())
    return configs, batch_sizes, choose, {"H100": first, "A100": others(first, draw)}


@given(world=two_worlds(), rng=st.randoms(use_true_random=False), bad=st.sampled_from([0.0, 0.5]))
@settings(deadline=None, max_examples=60)
def test_all_is_decided_by_the_first_kind_and_measured_on_each(world, rng, bad):
    configs, batch_sizes, choose, each = world
    machine = on_kinds(*configs, batch_sizes=batch_sizes, choose=choose, seeds=2)
    events = events_of(play(machine, each, rng, bad=bad))
    wanted = [brute_force(one, batch_sizes, choose, each["H100"], probed=True) for one in configs]
    ended = [event for event in events if not (event.job.beside and getattr(event, "status", "") == "out_of_memory")]
    assert trials(ended) == {
        f"{one.config_id}-s{seed}": choice
        for one, (_, choice) in zip(configs, wanted, strict=True)
        for seed in range(2)
        if isinstance(choice, tuple)
    }
    once = Counter(event.job.job_id for event in ended if not isinstance(event, Failed))
    assert set(once.values()) <= {1}
    assert all(n <= MAX_ATTEMPTS for n in Counter(e.job.job_id for e in events if isinstance(e, Failed)).values())
    for kind in KINDS:
        probes = [e for e in events if e.job.kind == "speed" and e.job.on == kind]
        assert all(e.job.beside == (kind != "H100") for e in probes)
        probed = {(e.job.config.shape.n_layers, e.job.precision, e.job.execution.batch_size) for e in probes}
        first, beside = (
            (probes for probes, _ in wanted),
            speeds_by_brute_force(configs, batch_sizes, choose, each[kind]),
        )
        assert probed == (set().union(*first) if kind == "H100" else beside)
    assert set(machine.states().values()) <= {"done", "failed"}


@given(world=two_worlds(), rng=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_a_training_runs_on_another_kind_only_where_its_speed_was_measured_there(world, rng):
    configs, batch_sizes, choose, each = world
    measured, wrong = set(), set()
    for event in events_of(
        play(on_kinds(*configs, batch_sizes=batch_sizes, choose=choose, seeds=2), each, rng, bad=0.3)
    ):
        job = event.job
        if job.kind == "speed" and job.on == "A100" and not isinstance(event, Failed) and event.status == "ok":
            measured.add(job.probe_id)
        elif job.kind == "train" and job.on == "A100":
            assert job.probe_id in measured
            assert job.job_id not in wrong, "it has gone wrong there once"
            if isinstance(event, Failed) or event.status != "ok":
                wrong.add(job.job_id)


@given(world=two_worlds(), rng=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_killed_again_and_again_every_job_has_one_outcome(world, rng):
    configs, batch_sizes, choose, each = world
    ledger = []
    for _life in range(300):
        machine = on_kinds(*configs, batch_sizes=batch_sizes, choose=choose, seeds=2)
        replay(as_lines(ledger), machine)
        records = play(machine, each, rng, until=rng.randrange(1, 5))
        ledger += records
        if not any(record["type"] != "asked" for record in records):
            break
    else:
        raise AssertionError("it never came to an end")
    ends = Counter(line.job_id for line in as_lines(ledger) if isinstance(line, MeasuredLine))
    assert set(ends.values()) <= {1}
    plain = driver(*configs, batch_sizes=batch_sizes, choose=choose, seeds=2, probed=True)
    replay(as_lines(ledger), plain)
    assert set(plain.states().values()) <= {"done", "failed"}, "the report's Driver, which knows no kinds, agrees"
    assert plain.states().items() <= machine.states().items()


def test_another_kind_takes_trainings_while_the_first_is_busy():
    machine = on_kinds(*[config(depth) for depth in range(1, 7)], batch_sizes=(4,), choose="each", seeds=4)
    world = {(depth, "fp32", 4): 100.0 for depth in range(1, 7)}
    events = events_of(play(machine, dict.fromkeys(KINDS, world), random.Random(0), room=1))
    finals = [event for event in events if isinstance(event, Final)]
    assert len(finals) == 24
    assert {final.job.on for final in finals} == set(KINDS)


@pytest.mark.parametrize(("emulated", "taken"), [(False, True), (True, False)])
def test_where_fp8_is_only_emulated_nothing_is_trained_in_it(emulated, taken):
    def probed(kind, says):
        probe = machine.ask((kind,))
        assert probe.kind == "speed"
        environment = {"device": f"NVIDIA {kind}", "precision": {"name": "fp8", "emulated": says}}
        machine.tell(replace(speed(probe, 9.0), environment=environment))

    machine = on_kinds(config(1, precision="fp8"), batch_sizes=(4,), choose="each")
    probed("H100", False)
    probed("A100", emulated)
    answer = machine.ask(("A100",))
    assert isinstance(answer, Job) == taken
    assert machine.ask(KINDS).on == "H100" if not taken else answer.kind == "train"


def test_steps_that_follow_from_a_speed_follow_from_the_first_kinds():
    slow_and_fast = {"H100": {(1, "fp32", 4): 512.0}, "A100": {(1, "fp32", 4): 51200.0}}
    machine = on_kinds(in_minutes(), batch_sizes=(4,), choose="each", seeds=8)
    finals = [e for e in events_of(play(machine, slow_and_fast, random.Random(1))) if isinstance(e, Final)]
    assert {final.job.resolved.steps for final in finals} == {60}
    assert {final.job.on for final in finals} == set(KINDS)


def test_without_room_on_the_first_kind_what_only_it_can_do_is_waited_for():
    machine = on_kinds(in_minutes(), batch_sizes=(4,), choose="each")
    probe = machine.ask(("A100",))
    assert (probe.on, probe.beside, probe.kind) == ("A100", True, "speed")
    machine.tell(speed(probe, 10.0, "NVIDIA A100"))
    assert isinstance(machine.ask(("A100",)), Wait)
    assert isinstance(machine.ask(()), Wait)
    assert machine.ask(KINDS).on == "H100"


def test_hours_count_what_runs_beside_and_end_it_too():
    machine = on_kinds(config(1), config(2), batch_sizes=(4,), choose="each")
    machine.driver._max_device_seconds = 10.0
    probe = machine.ask(("A100",))
    machine.tell(replace(speed(probe, 10.0, "NVIDIA A100"), seconds={"train": 11.0}))
    assert machine.driver.device_seconds == 11.0
    assert isinstance(machine.ask(KINDS), Done)


def test_the_sampler_hears_of_the_first_kinds_speed():
    class Heard(Grid):
        learns = True

        def observe(self, final):
            heard.append(final)

    heard = []
    rungs = MicroBatches(executions=(Execution(batch_size=4, compile=False),), probed=True)
    machine = OnKinds(Driver(Heard([config(1)]), seeds=1, micro_batches=lambda _: rungs), KINDS)
    first = machine.ask(("H100",))
    machine.tell(speed(first, 100.0, "NVIDIA H100"))
    machine.tell(speed(machine.ask(("A100",)), 30.0, "NVIDIA A100"))
    training = machine.ask(("A100",))
    assert (training.kind, training.on) == ("train", "A100")
    machine.tell(replace(final(training, device="NVIDIA A100"), speed=summary(31.0)))
    assert [one.speed.tokens_per_s for one in heard] == [100.0]


def test_a_search_that_learns_keeps_the_other_kinds_at_work():
    """With one seed there is never a training left over by the first kind: configs are proposed ahead."""
    feasible = [config(depth, lr=lr / 1e4) for depth in range(1, 11) for lr in (10, 20, 30, 40)]
    strategy = make_strategy(
        "nsga2", feasible, trials=30, seed=0, axes=("n_layers", "optimizer.lr"), objectives={"val_loss": "min"}
    )
    rungs = MicroBatches(executions=(Execution(batch_size=4, compile=False),), probed=True)
    machine = OnKinds(Driver(strategy, seeds=1, micro_batches=lambda _: rungs), KINDS)
    world = {(depth, "fp32", 4): 100.0 for depth in range(1, 11)}
    running, busy, trained, now = [], Counter(), Counter(), 0
    while True:
        taken = Counter(job.on for _, job in running)
        answer = machine.ask(tuple(kind for kind in KINDS if taken[kind] < 4))
        if isinstance(answer, Job):
            running.append((now + (1 if answer.kind == "speed" else 50), answer))
            busy[answer.on] += running[-1][0] - now
            continue
        if not running:
            break
        now, job = min(running, key=lambda one: one[0])
        running.remove((now, job))
        trained[job.on] += job.kind == "train"
        machine.tell(outcome(job, dict.fromkeys(KINDS, world), random.Random(0)))
    assert sum(trained.values()) == 30
    assert all(busy[kind] / (4 * now) > 0.7 for kind in KINDS), busy


def test_the_kind_that_a_study_went_by_stays_the_first():
    probe = replace(speed(config_job(), 1.0, "NVIDIA A100"), job=replace(config_job(), on="A100"))
    beside = replace(probe, job=replace(probe.job, on="H100", beside=True))
    records = [event_record(probe), event_record(beside)]
    assert kinds_as_before(("H100", "A100", "L4"), as_lines(records)) == ("A100", "H100", "L4")
    assert kinds_as_before(("H100", "L4"), as_lines(records)) == ("H100", "L4")
    assert kinds_as_before(("H100", "A100"), []) == ("H100", "A100")
    assert kinds_as_before((), as_lines(records)) == ()


def config_job():
    return Job(kind="speed", config=config(1), execution=Execution(batch_size=4, compile=False))


def test_one_kind_is_no_kind():
    machine = OnKinds(driver(config(1), batch_sizes=(4,), choose="each"), ("H100",))
    job = machine.ask()
    assert (job.kind, job.on, job.beside) == ("train", None, False)
    assert machine.kinds == ()
