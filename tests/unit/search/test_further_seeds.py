"""Further seeds go to configs of which it isn't decided whether they're on the frontier, and to no other."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_lines import as_lines, event_of

from sweeper.frontier.frontiers import frontier
from sweeper.planning.resolving import MicroBatches
from sweeper.running.standing_so_far import standings
from sweeper.search import make_strategy
from sweeper.search.driver import Driver
from sweeper.search.further_seeds import FIRST_REPEATED, Contender, FurtherSeeds
from sweeper.values.events import Wait
from sweeper.values.records import Execution, Job
from tests.unit.frontier_fakes import OBJECTIVES, PROXY, config, final, plan, play, play_after_a_kill, probe

POINTS = plan([config(n, f) for n, f in PROXY])
BY_ID = {point.config.config_id: point for point in POINTS}
SPEEDS = [10_000.0 * 2**n for n in range(len(POINTS))]
"""Each point is twice as fast as the one before it: the speeds are surely ordered."""


def chosen(*found, most=5, trained=1):
    further = FurtherSeeds(most=most, standings=lambda outcomes: found)
    return further.choose([], Counter({one.config_id: trained for one in found}))


def standing(name, p, beaten_by=0):
    return Contender(config_id=name, p_frontier=p, beaten_by=beaten_by)


def test_what_is_decided_gets_none_and_the_least_decided_comes_first():
    found = [standing(name, p) for name, p in {"a": 0.04, "b": 0.9, "c": 0.45, "d": 0.96, "e": 0.2, "f": 0.05}.items()]
    assert chosen(*found) == ["c", "e", "b"]


def test_none_beyond_the_most():
    assert chosen(standing("a", 0.5), standing("b", 0.5), most=2, trained=2) == []


def test_a_single_config_has_nothing_to_be_compared_with():
    assert chosen(standing("a", None), standing("a", None)) == []


def test_where_no_noise_is_known_those_nearest_to_the_frontier_are_repeated():
    found = [standing(name, None, beaten_by) for beaten_by, name in enumerate("hgfedcba")]
    assert len(chosen(*found)) == FIRST_REPEATED
    assert chosen(*found) == list("hgfe")
    assert chosen(*[standing(name, None) for name in "abcdef"], standing("g", None, 1)) == list("abcdef")


def test_a_config_that_is_undecided_at_one_of_its_micro_batches_is_chosen_once():
    assert chosen(standing("a", 0.01), standing("a", 0.3), standing("a", 0.6), standing("b", 1.0)) == ["a"]


def driver(first=2, most=6):
    ladder = MicroBatches(executions=(Execution(batch_size=4, compile=True),))
    configs = [point.config for point in POINTS]
    return Driver(
        make_strategy("grid", configs, trials=None, seed=0, axes=(), objectives=OBJECTIVES),
        seeds=first,
        micro_batches=lambda config: ladder,
        further_seeds=FurtherSeeds(most=most, standings=lambda outcomes: standings(outcomes, POINTS, OBJECTIVES)),
    )


def world(losses, noise, rng):
    """Of each job its outcome: true loss + noise, at speeds that are surely ordered.

    The third point and the fourth have the same noise, so that what lies between them is no matter of chance.
    """
    draw = np.random.default_rng(rng)
    errors = draw.normal(0, noise, (len(POINTS), 8))
    errors[3] = errors[2]
    jitter = draw.normal(0, 0.01, (len(POINTS), 8))

    def outcome(job):
        place = list(BY_ID).index(job.config.config_id)
        point, speed = POINTS[place], SPEEDS[place] * np.exp(jitter[place, job.seed])
        return event_of(final(point, job.seed, losses[place] + errors[place, job.seed], speed))

    return outcome


def seeds_of(events):
    return Counter(event.job.config.config_id for event in events)


# In pairs: a slower point must have the lower loss to be on the frontier. The third is a tie with the fourth.
LOSSES = [1.0, 1.2, 1.5, 1.5005, 1.8, 2.1, 2.4]


def test_further_seeds_go_where_the_frontier_is_open_and_nowhere_else():
    events = play(driver(), world(LOSSES, 0.01, rng=1))
    each = [seeds_of(events)[config_id] for config_id in BY_ID]
    assert each[2] == 6, "tied with the next, which is faster: not decided by any number of seeds"
    assert each[:2] + each[3:] == [2] * 6
    trained = {
        config_id: sorted(e.job.seed for e in events if e.job.config.config_id == config_id) for config_id in BY_ID
    }
    assert all(seeds == list(range(len(seeds))) for seeds in trained.values()), "the lowest seeds, each once"


def test_a_round_is_what_the_frontier_of_all_before_leaves_open():
    """Against the report's own probabilities, from the ledger of the first pass."""
    outcome = world([2.0, 2.01, 2.02, 2.03, 2.04, 2.05, 2.06], 0.02, rng=3)
    machine, events = driver(), []
    for _ in range(2 * len(POINTS)):
        events.append(outcome(machine.ask()))
        machine.tell(events[-1])
    records = [final(BY_ID[e.job.config.config_id], e.job.seed, e.val_loss, e.speed.tokens_per_s) for e in events]
    found = frontier(as_lines(records), study="s", profile="full", planned=POINTS, objectives=OBJECTIVES, seeds=2)
    open_ones = {p.config_id for p in found.frontiers[0].points if 0.05 < p.p_frontier < 0.95}
    assert 1 < len(open_ones) < len(POINTS)
    asked = [machine.ask() for _ in open_ones]
    assert {job.config.config_id for job in asked} == open_ones
    assert {job.seed for job in asked} == {2}
    assert machine.seeds == {config_id: 3 if config_id in open_ones else 2 for config_id in BY_ID}


def test_the_end_is_where_all_is_decided_or_has_the_most():
    events = play(machine := driver(most=4), world([2.0 + 0.01 * n for n in range(7)], 0.02, rng=3))
    seeds = seeds_of(events)
    assert set(seeds.values()) <= {2, 3, 4}
    records = [final(BY_ID[e.job.config.config_id], e.job.seed, e.val_loss, e.speed.tokens_per_s) for e in events]
    found = frontier(
        as_lines(records), study="s", profile="full", planned=POINTS, objectives=OBJECTIVES, seeds=machine.seeds
    )
    for point in found.frontiers[0].points:
        assert seeds[point.config_id] == 4 or not 0.05 < point.p_frontier < 0.95
    again = frontier(
        as_lines(records),
        study="s",
        profile="full",
        planned=POINTS,
        objectives=OBJECTIVES,
        seeds=machine.seeds,
        most_seeds=4,
    )
    undecided = [p.label for p in found.frontiers[0].points if 0.05 < p.p_frontier < 0.95]
    (doubt,) = set(again.frontiers[0].doubts) - set(found.frontiers[0].doubts)
    assert undecided
    assert all(label in doubt for label in undecided)
    assert "at 4 seeds: a larger `seeds.max` may decide" in doubt
    assert found.to_do == 0
    assert found.jobs == {"ok": len(events)}


def test_one_seed_each_is_enough_to_begin_with():
    events = play(driver(first=1, most=5), world(LOSSES, 0.01, rng=2))
    each = seeds_of(events)
    assert len(each) == len(POINTS)
    assert max(each.values()) > 1
    assert sum(each.values()) < 5 * len(POINTS)


def test_a_range_costs_less_than_its_most_for_all():
    """How much depends on the world; that it's less is the point of it."""
    total = sum(len(play(driver(first=1, most=5), world(LOSSES, 0.01, rng=rng))) for rng in range(10))
    assert total < 0.7 * 10 * 5 * len(POINTS)


@given(rng=st.randoms(use_true_random=False), kept=st.integers(0, 40), concurrency=st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=15)
def test_killed_and_replayed_in_any_order_the_same_seeds_are_trained(rng, kept, concurrency):
    outcome = world(LOSSES, 0.02, rng=4)
    again, undisturbed = play_after_a_kill(driver, outcome, rng=rng, kept=kept, concurrency=concurrency)
    assert again == undisturbed


def test_a_round_is_not_decided_while_a_job_runs():
    machine, outcome = driver(), world(LOSSES, 0.01, rng=1)
    jobs = [machine.ask() for _ in range(2 * len(POINTS))]
    for job in jobs[:-1]:
        machine.tell(outcome(job))
    assert isinstance(machine.ask(), Wait)
    assert set(machine.seeds.values()) == {2}
    machine.tell(outcome(jobs[-1]))
    assert isinstance(machine.ask(), Job)


def test_states_know_the_seeds_to_come_as_ask_does():
    outcome = world(LOSSES, 0.01, rng=1)
    machine = driver()
    for event in play(driver(), outcome, until=2 * len(POINTS)):
        machine.tell(event)
    missing = {job_id for job_id, state in machine.states().items() if state == "missing"}
    job = machine.ask()
    assert missing == {job.job_id}
    assert job.seed == 2


@pytest.mark.parametrize("status", ["diverged", "stopped_early", "out_of_memory"])
def test_a_config_without_a_loss_gets_no_further_seed(status):
    ok = world(LOSSES, 0.01, rng=1)

    def outcome(job):
        place = list(BY_ID).index(job.config.config_id)
        bad = event_of(final(POINTS[place], job.seed, None, None, status=status))
        return bad if place == 2 else ok(job)

    each = seeds_of(play(driver(), outcome))
    assert each[POINTS[2].config.config_id] <= 2


def test_of_two_micro_batches_of_one_training_the_slower_is_beaten():
    points = plan([config(2, 624)], (2, 4))
    outcomes = [event_of(final(points[0], 0, 2.0, 1000.0)), event_of(probe(points[1], 2000.0))]
    assert sorted(one.beaten_by for one in standings(outcomes, points, OBJECTIVES)) == [0, 1]
