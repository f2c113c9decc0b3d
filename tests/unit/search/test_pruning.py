"""What is slower and hardly likely to be better is put last; nothing else is, and nothing by a bad surrogate."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_lines import event_of

from sweeper.planning.resolving import MicroBatches
from sweeper.search import make_strategy
from sweeper.search.driver import Driver
from sweeper.search.pruning import UNLIKELY, Pruning, PutLast
from sweeper.stats.gaussian_process import LEAST_KNOWN
from sweeper.values.records import Execution, Job
from tests.unit.frontier_fakes import OBJECTIVES, config, final, plan, probe
from tests.unit.frontier_fakes import play as played

AXES = ("n_layers", "ffn_hidden")
CONFIGS = [config(n, f) for n in (1, 2, 3, 4, 6, 8) for f in (64, 256, 512, 1024)]
BY_ID = {one.config_id: one for one in CONFIGS}


def true_loss(one, best=3.0):
    """A valley over log depth, which goes down with the FFN."""
    return 2.0 + 0.3 * (np.log2(one.shape.n_layers) - np.log2(best)) ** 2 - 0.05 * np.log2(one.shape.ffn_hidden / 64)


def speed(one):
    return 1e6 / (one.shape.n_layers * (200 + one.shape.ffn_hidden))


def judged(finished, *, noise=0.005, rng=0, loss=true_loss):
    draw = np.random.default_rng(rng)
    losses = {one.config_id: loss(one) + draw.normal(0, noise) for one in finished}
    return losses, Pruning(axes=AXES).judge(CONFIGS, losses, {one.config_id: speed(one) for one in CONFIGS})


def test_nothing_is_put_last_before_enough_is_known():
    some = random.Random(1).sample(CONFIGS, LEAST_KNOWN)
    assert judged(some[:-1])[1] == {}


def test_what_is_put_last_is_slower_and_worse_as_said():
    losses, found = judged(random.Random(2).sample(CONFIGS, 15))
    assert len(found) >= 5
    for config_id, why in found.items():
        assert config_id not in losses
        assert why.than in losses
        assert why.chance < UNLIKELY
        assert why.tokens_per_s == speed(BY_ID[config_id]) < why.than_tokens_per_s == speed(BY_ID[why.than])


def test_the_chance_is_kept_over_many_studies():
    """Of all that is put last, less than 5% has the lower loss in truth."""
    wrong = total = 0
    for rng in range(40):
        source = random.Random(rng)
        best, noise = source.uniform(1, 8), source.choice([0.002, 0.01, 0.03])
        loss = lambda one, best=best: true_loss(one, best)  # noqa: E731
        _, found = judged(source.sample(CONFIGS, source.randint(6, 20)), noise=noise, rng=rng, loss=loss)
        assert all(why.chance < UNLIKELY for why in found.values())
        total += len(found)
        wrong += sum(loss(BY_ID[i]) < loss(BY_ID[why.than]) for i, why in found.items())
    assert total > 150
    assert wrong / total < UNLIKELY


def test_a_config_that_is_faster_than_all_is_never_put_last():
    """However bad its loss will be: speed is an objective."""
    fastest = max(CONFIGS, key=speed)
    others = [one for one in CONFIGS if one is not fastest]
    for rng in range(5):
        assert fastest.config_id not in judged(random.Random(rng).sample(others, 15))[1]


def test_pure_noise_puts_hardly_anything_last():
    found = [
        judged(random.Random(rng).sample(CONFIGS, 15), noise=0.1, rng=rng, loss=lambda one: 2.0)[1] for rng in range(10)
    ]
    assert sum(map(len, found)) / (10 * 15) < 0.1


def driver(method="random", trials=12, spare=2, seeds=1, configs=CONFIGS, pruning=Pruning):
    ladder = MicroBatches(executions=(Execution(batch_size=4, compile=True),), probed=True)
    asked = None if trials is None else trials * spare
    return Driver(
        make_strategy(method, configs, trials=asked, seed=3, axes=AXES, objectives=OBJECTIVES),
        seeds=seeds,
        micro_batches=lambda config: ladder,
        pruning=pruning(axes=AXES),
        most_configs=trials,
    )


def outcome(job):
    point = plan([BY_ID[job.config.config_id]])[0]
    if job.kind == "speed":
        return event_of(probe(point, speed(job.config)))
    return event_of(final(point, job.seed, true_loss(job.config) + 0.001 * job.seed, speed(job.config)))


def play(machine, **how):
    return played(machine, outcome, **how)


def trained(events):
    return [event.job.config.config_id for event in events if event.job.kind == "train"]


def test_every_shape_is_probed_before_anything_is_trained():
    kinds = [event.job.kind for event in play(driver("grid", trials=None))]
    assert kinds == ["speed"] * len(CONFIGS) + ["train"] * len(CONFIGS)


def test_a_grid_trains_what_is_put_last_at_the_end():
    machine = driver("grid", trials=None, seeds=2)
    events = play(machine)
    assert Counter(trained(events)) == Counter(dict.fromkeys(BY_ID, 2))
    seconds = [event.job.config.config_id for event in events if event.job.kind == "train" and event.job.seed == 1]
    first_last = next(i for i in reversed(trained(events)) if Counter(trained(events))[i])
    assert list(trained(events)) != [*BY_ID, *BY_ID], "the order is another"
    assert seconds[-1] == first_last, "what was put last has its seeds at the end"
    assert not machine.put_last


@pytest.mark.parametrize("method", ["random", "space_filling", "tpe"])
def test_others_are_trained_in_place_of_what_is_put_last(method):
    machine = driver(method)
    events = play(machine)
    assert len(set(trained(events))) == len(trained(events)) == 12
    assert machine.put_last
    assert set(machine.seeds) == set(trained(events)), "what is put last is no longer asked for"
    assert not set(machine.put_last) & set(trained(events))
    assert set(machine.states().values()) == {"done"}
    assert machine.to_propose == 0


class Fickle(Pruning):
    """Puts the first config that waits last while an odd number of losses is known, and nothing else."""

    def judge(self, configs, losses, speeds):
        waiting = [one.config_id for one in configs if one.config_id not in losses and one.config_id in speeds]
        if len(losses) % 2 == 0 or not waiting:
            return {}
        than = next(iter(losses))
        return {waiting[0]: PutLast(config_id=waiting[0], than=than, chance=0.0, tokens_per_s=1, than_tokens_per_s=2)}


def test_a_judgement_that_changes_costs_no_trial_more():
    machine = driver(pruning=Fickle)
    events = play(machine)
    assert len(trained(events)) == 12
    assert set(machine.seeds) == set(trained(events))
    assert set(machine.states().values()) == {"done"}


def test_what_is_put_last_is_trained_where_trials_are_left():
    few = CONFIGS[:20]
    events = play(driver("random", trials=20, configs=few))
    assert sorted(trained(events)) == sorted(one.config_id for one in few)


@pytest.mark.parametrize("method", ["grid", "random", "tpe"])
@pytest.mark.parametrize("killed_at", [25])
def test_at_one_job_at_a_time_a_killed_study_trains_what_it_would_have_trained(method, killed_at, tmp_path):
    """Resumed from its ledger: what was asked is adopted, as the session does."""
    trials = None if method == "grid" else 12
    undisturbed = play(driver(method, trials))
    first = driver(method, trials)
    events = play(first, until=killed_at)
    asked = [*(event.job for event in events), *([job] if isinstance(job := first.ask(), Job) else [])]
    again = driver(method, trials)
    for job, event in zip(asked, [*events, None], strict=False):
        again.adopt(job)
        if event is not None:
            again.tell(event)
    events += play(again)
    assert [event.job.job_id for event in events] == [event.job.job_id for event in undisturbed]


def test_what_an_earlier_run_asked_for_is_not_put_last():
    """Its outcome may be on its way: every asked job gets one."""
    machine = driver()
    events = play(machine)
    last = next(iter(machine.put_last))
    again = driver()
    for event in events[:-1]:
        again.adopt(event.job)
    again.adopt(Job(kind="train", config=BY_ID[last], execution=Execution(batch_size=4, compile=True)))
    for event in events[:-1]:
        again.tell(event)
    assert last not in again.put_last
    assert last in trained(play(again))


@given(rng=st.randoms(use_true_random=False), kept=st.integers(0, 40))
@settings(deadline=None, max_examples=5)
def test_at_several_jobs_every_asked_one_has_exactly_one_outcome(rng, kept):
    events = play(driver(), concurrency=4, rng=rng, until=kept)
    machine = driver()
    for event in events:
        machine.adopt(event.job)
    for event in events:
        machine.tell(event)
    events += play(machine, concurrency=4, rng=rng)
    assert set(Counter(event.job.job_id for event in events).values()) == {1}
    assert len(trained(events)) == 12


def test_a_config_that_ran_out_of_memory_is_settled_and_not_put_last():
    def oom(job):
        event = outcome(job)
        too_large = job.config.shape.n_layers == 8
        return replace(event, status="out_of_memory", speed=None) if too_large and job.kind == "speed" else event

    machine = driver("grid", trials=None)
    while isinstance(job := machine.ask(), Job):
        machine.tell(oom(job))
    large = {i for i, one in BY_ID.items() if one.shape.n_layers == 8}
    assert set(machine.states().values()) == {"done"}
    assert not large & set(machine.put_last)
