"""The Driver asks for each job once, in order; failures are tried three times; resume is a replay."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_lines import plain_lines

from sweeper.ledger.file import Ledger
from sweeper.ledger.typed import AskedLine
from sweeper.model.shape import derive
from sweeper.planning.outcomes import MAX_ATTEMPTS
from sweeper.planning.resolving import MicroBatches
from sweeper.running.session import Session
from sweeper.search import make_strategy
from sweeper.search.driver import Driver
from sweeper.search.early_stop import SuccessiveHalving
from sweeper.values.events import Done, Failed, Final, Rung, Speed, Stop, Wait
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe

OBJECTIVES = {"val_loss": "min"}
RECIPE = Recipe(
    data="python-stdlib", steps=10, seq_len=32, tokens_per_step=128, precision="fp32", optimizer=Optimizer(),
    eval_tokens=1024,
)  # fmt: skip


def configs(count):
    return [
        Config(
            shape=derive({"n_layers": n + 1, "d_model": 64, "vocab_size": 256, "tie_embeddings": True}), recipe=RECIPE
        )
        for n in range(count)
    ]


def driver(count=3, *, seeds=2, batch_sizes=(4,), method="grid", trials=None, max_device_seconds=None):
    strategy = make_strategy(method, configs(count), trials=trials, seed=0, axes=("n_layers",), objectives=OBJECTIVES)
    ladder = tuple(Execution(batch_size=size, compile=False) for size in batch_sizes)
    return Driver(
        strategy, seeds=seeds, micro_batches=lambda config: MicroBatches(executions=ladder),
        max_device_seconds=max_device_seconds,
    )  # fmt: skip


def final(job, status="ok", **seconds):
    return Final(
        job=job, status=status, val_loss=1.0, val_bpb=None, curve=(), tokens=0, seconds=seconds, speed=None,
        peak_memory_bytes=None, environment={},
    )  # fmt: skip


def outcome(job):
    if job.kind == "train":
        return final(job)
    return Speed(job=job, status="ok", speed=None, peak_memory_bytes=None, seconds={}, environment={})


def run_to_end(machine):
    asked = []
    while isinstance(job := machine.ask(), Job):
        asked.append(job)
        machine.tell(outcome(job))
    assert isinstance(job, Done)
    return asked


def test_seeds_are_outermost_so_that_configs_are_compared_early():
    asked = run_to_end(driver(3, seeds=2))
    assert [(job.config.shape.n_layers, job.seed) for job in asked] == [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1)]


def test_a_strategy_that_learns_is_asked_when_nothing_else_is_left_and_before_later_seeds():
    machine = driver(30, seeds=2, method="tpe", trials=6, batch_sizes=(1, 2))
    assert (machine.to_propose, machine.states()) == (12, {})
    asked = run_to_end(machine)
    first, later = [("speed", 0), ("speed", 0), ("train", 0)], ("train", 1)
    assert [(job.kind, job.seed) for job in asked] == first * 6 + [later] * 6
    assert machine.to_propose == 0
    trained = [job.config.config_id for job in asked if job.kind == "train"]
    assert trained[:6] == trained[6:]
    assert len(set(trained)) == 6


@pytest.mark.parametrize("method", ["tpe", "nsga2", "gp"])
@pytest.mark.parametrize("killed_at", [1, 7, 14, 20])
def test_a_strategy_that_learns_goes_on_after_a_kill_as_if_there_had_been_none(method, killed_at, tmp_path):
    """At one job at a time; the job that was running when the process died is asked for again."""

    def well(job):
        loss = (job.config.shape.n_layers - 20.5) ** 2
        return Final(**{**vars(final(job)), "val_loss": loss})

    def run(one, jobs=None):
        asked = []
        while jobs is None or len(asked) < jobs:
            job = one.ask()
            if isinstance(job, Done):
                break
            asked.append(job.config.config_id)
            if len(asked) != jobs:
                one.tell(well(job))
        return asked

    with Ledger(tmp_path / "whole", lock=tmp_path / "a") as ledger:
        undisturbed = run(Session(driver(60, seeds=1, method=method, trials=22), ledger))
    assert len(set(undisturbed)) == 22
    with Ledger(tmp_path / "killed", lock=tmp_path / "b") as ledger:
        first = run(Session(driver(60, seeds=1, method=method, trials=22), ledger), jobs=killed_at)
    with Ledger(tmp_path / "killed", lock=tmp_path / "b") as ledger:
        second = run(Session(driver(60, seeds=1, method=method, trials=22), ledger))
    assert first[-1] == second[0]
    assert first + second[1:] == undisturbed


def test_jobs_that_were_running_at_the_kill_are_asked_for_again_however_many():
    first, second = (driver(40, seeds=1, method="tpe", trials=12) for _ in range(2))
    running = [first.ask() for _ in range(8)]
    for job in running:
        second.adopt(job)
    assert [second.ask().job_id for _ in range(8)] == [job.job_id for job in running]
    assert second.ask().job_id not in {job.job_id for job in running}
    assert second.to_propose == 3


def test_a_trial_that_was_stopped_early_is_settled_and_its_config_gets_no_further_seeds():
    machine = driver(3, seeds=2)
    first = machine.ask()
    machine.tell(final(first, status="stopped_early"))
    asked = run_to_end(machine)
    assert [(job.config.shape.n_layers, job.seed) for job in asked] == [(2, 0), (3, 0), (2, 1), (3, 1)]
    assert list(machine.states().values()) == ["done"] * 5


def test_rungs_are_replayed_so_that_a_resumed_study_stops_what_it_would_have_stopped(tmp_path):
    def started(path):
        strategy = make_strategy("grid", configs(8), trials=None, seed=0, axes=(), objectives={})
        once = MicroBatches(executions=(Execution(batch_size=4, compile=False),))
        halving = SuccessiveHalving(grace=0.3)
        machine = Driver(strategy, seeds=1, micro_batches=lambda config: once, early_stop=halving)
        return Session(machine, Ledger(path, lock=path.with_suffix(".lock")))

    def train(session, loss):
        job = session.ask()
        answer = session.tell(Rung(job=job, tokens=5 * 128, loss=loss))
        session.tell(final(job, status="stopped_early" if isinstance(answer, Stop) else "ok"))
        return isinstance(answer, Stop)

    whole = started(tmp_path / "whole")
    undisturbed = [train(whole, loss) for loss in (3.0, 2.0, 4.0, 1.0, 5.0, 2.5)]
    assert undisturbed == [False, False, True, False, True, True]
    first = started(tmp_path / "killed")
    told = [train(first, loss) for loss in (3.0, 2.0, 4.0)]
    first._ledger.close()
    second = started(tmp_path / "killed")
    assert told + [train(second, loss) for loss in (1.0, 5.0, 2.5)] == undisturbed
    for session in (whole, second):
        session._ledger.close()


def test_several_micro_batches_cost_probes_and_never_a_training():
    asked = run_to_end(driver(2, seeds=2, batch_sizes=(1, 2, 4)))
    kinds = Counter(job.kind for job in asked)
    assert kinds == {"speed": 2 * 3, "train": 2 * 2}
    assert [job.kind for job in asked[:6]] == ["speed"] * 6
    assert {job.execution.batch_size for job in asked if job.kind == "speed"} == {1, 2, 4}


def test_no_job_starts_once_the_device_seconds_are_spent():
    machine = driver(4, seeds=2, max_device_seconds=100.0)
    first, second = machine.ask(), machine.ask()
    machine.tell(final(first, train=50.0, set_up=49.0))
    third = machine.ask()
    machine.tell(final(second, train=2.0))
    assert machine.device_seconds == 101.0
    assert isinstance(machine.ask(), Wait), "the third still runs"
    machine.tell(final(third, train=30.0))
    assert isinstance(machine.ask(), Done)
    assert Counter(machine.states().values()) == {"done": 3, "missing": 5}
    assert machine.is_spent


def test_earlier_runs_count_and_more_hours_go_on():
    told = [final(job, train=60.0) for job in run_to_end(driver(2, seeds=1))]
    for limit, asked in ((120.0, 0), (121.0, 1)):
        machine = driver(3, seeds=1, max_device_seconds=limit)
        for event in told:
            machine.tell(event)
        assert len(run_to_end(machine)) == asked


def test_a_failed_job_is_tried_three_times_in_all():
    machine = driver(1, seeds=1)
    attempts = []
    while isinstance(job := machine.ask(), Job):
        attempts.append(job.attempt)
        machine.tell(Failed(job=job, error="boom"))
    assert attempts == [1, 2, 3] == list(range(1, MAX_ATTEMPTS + 1))
    assert list(machine.states().values()) == ["failed"]


@pytest.mark.parametrize("status", ["out_of_memory", "diverged"])
def test_a_bad_outcome_is_an_outcome(status):
    machine = driver(1, seeds=1)
    machine.tell(final(machine.ask(), status))
    assert isinstance(machine.ask(), Done)
    assert list(machine.states().values()) == ["done"]


def test_wait_while_the_last_job_runs_and_take_it_again_if_it_fails():
    machine = driver(1, seeds=1)
    job = machine.ask()
    assert isinstance(machine.ask(), Wait)
    machine.tell(Rung(job=job, tokens=1, loss=2.0))
    assert isinstance(machine.ask(), Wait)
    machine.tell(Failed(job=job, error="boom"))
    assert machine.ask().attempt == 2


def test_what_is_not_asked_any_more_is_ignored():
    wide, narrow = driver(3, seeds=1), driver(2, seeds=1)
    stranger = next(job for job in wide.jobs.values() if job.config.shape.n_layers == 3)
    narrow.tell(final(stranger))
    assert len(run_to_end(narrow)) == 2


def test_random_is_a_sample_without_repeats_that_grows_in_place():
    def chosen(trials):
        return [job.config.config_id for job in run_to_end(driver(20, seeds=1, method="random", trials=trials))]

    assert len(set(chosen(7))) == 7
    assert chosen(12)[:7] == chosen(7)
    assert chosen(7) != [config.config_id for config in configs(20)][:7]
    assert len(chosen(50)) == 20


@given(seed=st.integers(0, 10_000), concurrency=st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_any_interleaving_with_kills_gives_every_job_exactly_one_outcome(tmp_path_factory, seed, concurrency):
    """A simulated world: jobs end in any order, fail at times, and the driver's process dies at any moment."""
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("world")
    finals = Counter()
    failures = Counter()
    wanted = set(driver(4, seeds=2).jobs)
    for _life in range(50):
        with Ledger(folder / "ledger.jsonl", lock=folder / ".lock") as ledger:
            machine = driver(4, seeds=2)
            session = Session(machine, ledger)
            running = []
            while True:
                while len(running) < concurrency and isinstance(answer := session.ask(), Job):
                    assert answer.job_id not in {job.job_id for job in running}
                    running.append(answer)
                if not running or rng.random() < 0.1:
                    break
                job = running.pop(rng.randrange(len(running)))
                if rng.random() < 0.2:
                    failures[job.job_id] += 1
                    session.tell(Failed(job=job, error="boom"))
                else:
                    finals[job.job_id] += 1
                    session.tell(final(job))
            if not running:
                break
    assert all(count == 1 for count in finals.values())
    assert all(failures[job_id] == 3 for job_id in wanted - set(finals))
    assert all(count <= 3 for count in failures.values())


def test_asked_is_in_the_ledger_before_the_job_is_handed_out(tmp_path):
    with Ledger(tmp_path / "ledger.jsonl", lock=tmp_path / ".lock") as ledger:
        seen = []
        session = Session(driver(1, seeds=1), ledger, observers=[seen.append])
        job = session.ask()
        written = (tmp_path / "ledger.jsonl").read_text()
        assert job.trial_id in written
        asked = seen[-1]
        assert isinstance(asked, AskedLine)
        assert asked.job == job
        assert asked.time.endswith("+00:00")


def test_every_run_starts_with_its_own_line(tmp_path):
    for _life in range(2):
        with Ledger(tmp_path / "ledger.jsonl", lock=tmp_path / ".lock") as ledger:
            session = Session(driver(1, seeds=1), ledger, devices=2, command="sweeper run s.yaml")
            session.ask()
    records = plain_lines(tmp_path / "ledger.jsonl")
    assert [record["type"] for record in records] == ["started", "asked"] * 2
    assert {key: value for key, value in records[0].items() if key != "time"} == {
        "schema": 1, "type": "started", "devices": 2, "command": "sweeper run s.yaml",
    }  # fmt: skip


def test_a_resumed_study_counts_each_earlier_failure_once(tmp_path):
    """Two failures in one life leave one more try in the next, and no more."""
    tries = 0
    for expected in (2, 3):
        with Ledger(tmp_path / "ledger.jsonl", lock=tmp_path / ".lock") as ledger:
            session = Session(driver(1, seeds=1), ledger)
            while tries < expected and isinstance(job := session.ask(), Job):
                tries += 1
                assert job.attempt == tries
                session.tell(Failed(job=job, error="boom"))
    with Ledger(tmp_path / "ledger.jsonl", lock=tmp_path / ".lock") as ledger:
        assert isinstance(Session(driver(1, seeds=1), ledger).ask(), Done)
    assert tries == 3


def test_another_micro_batch_keeps_the_training_and_asks_for_its_speed():
    earlier, later = driver(2, seeds=2, batch_sizes=(4,)), driver(2, seeds=2, batch_sizes=(2,))
    while isinstance(job := earlier.ask(), Job):
        event = outcome(job)
        earlier.tell(event)
        later.tell(event)
    asked = run_to_end(later)
    assert [(job.kind, job.execution.batch_size) for job in asked] == [("speed", 2)] * 2


def test_out_of_memory_is_settled_at_its_own_micro_batch_alone():
    wide, narrow = driver(1, seeds=1, batch_sizes=(4,)), driver(1, seeds=1, batch_sizes=(2,))
    starved = final(wide.ask(), "out_of_memory")
    for machine in (wide, narrow):
        machine.tell(starved)
    assert isinstance(wide.ask(), Done)
    assert narrow.ask().execution.batch_size == 2


def test_a_ladder_trains_at_the_first_micro_batch_that_has_memory():
    machine = driver(1, seeds=1, batch_sizes=(8, 4, 2))
    for status in ("out_of_memory", "ok", "ok"):
        job = machine.ask()
        machine.tell(Speed(job=job, status=status, speed=None, peak_memory_bytes=None, seconds={}, environment={}))
    training = machine.ask()
    assert (training.kind, training.execution.batch_size) == ("train", 4)
