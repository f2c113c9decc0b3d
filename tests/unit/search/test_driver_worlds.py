"""Micro-batch, precision and steps are settled by probes: against brute force in random worlds."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resolving_fakes import TOKENS_PER_STEP, config, driver, final, speed

from sweeper.planning.outcomes import MAX_ATTEMPTS
from sweeper.values.events import Done, Failed, Final
from sweeper.values.records import Job

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


def brute_force(one, batch_sizes, choose, world, *, probed=False):
    """(probes as (depth, precision, micro-batch), what a trial is asked with or why it isn't), rule by rule."""
    recipe, depth = one.recipe, one.shape.n_layers
    if not probed and len(batch_sizes) == 1 and recipe.precision != "auto" and recipe.minutes is None:
        return set(), (batch_sizes[0], None, None)
    probes, measured, broken = set(), {}, []
    for precision in ("bf16", "fp8") if recipe.precision == "auto" else (recipe.precision,):
        fastest = 0.0
        for size in reversed(batch_sizes):
            probes.add((depth, precision, size))
            outcome = world[depth, precision, size]
            if outcome == "broken":
                broken.append(size)
            elif outcome != "oom":
                measured[precision, size] = outcome
                if choose == "fastest" and outcome <= fastest:
                    break
                fastest = outcome
    measured, broken = dict(sorted(measured.items())), sorted(broken)
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
