"""A few configs are trained longer when a study is done: chosen from its outcomes alone, the same after every kill."""

import io
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_lines import as_lines, event_of
from rich.console import Console
from scipy.stats import kendalltau

from sweeper.ledger.lines import event_record
from sweeper.planning.plan import make_plan, plan_json
from sweeper.planning.resolving import JobSettings, MicroBatches
from sweeper.planning.tokens import longer as longer_recipe
from sweeper.report.frontier_json import frontier_json
from sweeper.report.page.html import render
from sweeper.report.tables import status_json, summary
from sweeper.running.preparation import census
from sweeper.running.study_run import StudyRun
from sweeper.search.follow_up import Candidate, FollowUp, FollowUpDriver, chosen
from sweeper.search.grid import Grid
from sweeper.search.on_kinds import OnKinds
from sweeper.study.loader import load
from sweeper.values.events import Continue, Rung, SpeedSummary, Wait
from sweeper.values.records import Execution, Job
from sweeper.values.run_folder import RunFolder
from tests.fakes import make_final
from tests.unit.frontier_fakes import PROXY, config, final, plan, play, play_after_a_kill

POINTS = plan([config(n, f) for n, f in PROXY])
BY_ID = {point.config.config_id: point for point in POINTS}


def longer(one):
    return replace(one, recipe=replace(one.recipe, steps=4 * one.recipe.steps))


LONG = {longer(point.config).config_id: config_id for config_id, point in BY_ID.items()}


def candidates(outcomes):
    """By the mean loss of a config: what no faster one is as good as."""
    losses, speeds = {}, {}
    for event in outcomes:
        losses.setdefault(event.job.config.config_id, []).append(event.val_loss)
        speeds[event.job.config.config_id] = event.speed.tokens_per_s
    means = {config_id: float(np.mean(values)) for config_id, values in losses.items()}
    return [
        Candidate(
            config_id=one,
            val_loss=means[one],
            tokens_per_s=speeds[one],
            on_frontier=not any(speeds[o] >= speeds[one] and means[o] < means[one] for o in means),
            p_frontier=1 / (1 + sum(means[o] < means[one] for o in means)),
        )
        for one in means
    ]


def driver(**options):
    return FollowUpDriver(
        Grid([point.config for point in POINTS]),
        follow_up=FollowUp(shapes=3, candidates=candidates, longer=longer),
        seeds=2,
        micro_batches=lambda config: MicroBatches(executions=(Execution(batch_size=4, compile=True),)),
        settings=JobSettings(branch_at=()),
        **options,
    )


def world(rng=0):
    draw = np.random.default_rng(rng)
    losses = {one: 2 + draw.normal(0, 0.05, 2) + 0.02 * n for n, one in enumerate([*BY_ID, *LONG])}

    def outcome(job):
        config_id = job.config.config_id
        point = BY_ID[LONG.get(config_id, config_id)]
        speed = 10_000.0 * (1 + list(BY_ID).index(point.config.config_id))
        made = final(replace(point, config=job.config), job.seed, float(losses[config_id][job.seed]), speed)
        return event_of(made)

    return outcome


def test_follow_ups_come_after_all_else_and_are_those_that_are_chosen():
    events = play(machine := driver(), outcome := world())
    own, later = events[: 2 * len(POINTS)], events[2 * len(POINTS) :]
    assert {event.job.config.config_id for event in own} == set(BY_ID)
    wanted = chosen(candidates(own), 3)
    assert Counter(LONG[event.job.config.config_id] for event in later) == dict.fromkeys(wanted, 2)
    assert {event.job.seed for event in later} == {0, 1}
    assert set(machine.states().values()) == {"done"}
    assert set(machine.followed.values()) == set(wanted)
    assert set(machine.seeds) == set(BY_ID), "the study's own configs alone"
    assert outcome(later[0].job) is not None


@given(rng=st.randoms(use_true_random=False), kept=st.integers(0, 20), concurrency=st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=25)
def test_killed_and_replayed_in_any_order_the_same_are_trained_longer(rng, kept, concurrency):
    outcome = world(3)
    again, undisturbed = play_after_a_kill(driver, outcome, rng=rng, kept=kept, concurrency=concurrency)
    assert again == undisturbed


def test_none_is_chosen_while_the_study_runs():
    machine, outcome = driver(), world()
    jobs = [machine.ask() for _ in range(2 * len(POINTS))]
    for job in jobs[:-1]:
        machine.tell(outcome(job))
    assert isinstance(machine.ask(), Wait)
    assert (machine.followed, machine.to_follow) == ({}, 6)
    machine.tell(outcome(jobs[-1]))
    job = machine.ask()
    assert job.config.config_id in LONG
    assert machine.to_follow == 0
    assert machine.states()[job.job_id] == "running"
    assert machine.owner(job.job_id) == job.config
    assert isinstance(machine.tell(Rung(job=job, tokens=1024, loss=9.9)), Continue)


def test_hours_that_are_spent_end_follow_ups_too():
    each = 21.0
    events = play(driver(max_device_seconds=each * (2 * len(POINTS) + 1)), world())
    assert len(events) == 2 * len(POINTS) + 1
    assert events[-1].job.config.config_id in LONG


def test_no_other_kind_of_device_goes_on_with_follow_ups_of_a_study_that_is_spent():
    events = play(driver(), outcome := world())
    seconds = sum(events[0].seconds.values())
    for hours, is_left in ((len(events), True), (2 * len(POINTS) + 1, False)):
        machine = driver(max_device_seconds=seconds * hours)
        for event in events[: 2 * len(POINTS)]:
            machine.tell(event)
        machine.tell(outcome(machine.ask()))
        assert (machine.ask_training(lambda job: True) is not None) == is_left


def test_a_study_that_is_spent_waits_for_what_still_runs():
    machine, outcome = driver(max_device_seconds=21.0 * (2 * len(POINTS) + 1)), world()
    for _ in range(2 * len(POINTS)):
        machine.tell(outcome(machine.ask()))
    running = [machine.ask(), machine.ask()]
    machine.tell(outcome(running[0]))
    assert isinstance(machine.ask(), Wait)


def at(name, loss, speed, on=True, p=1.0):
    return Candidate(config_id=name, val_loss=loss, tokens_per_s=speed, on_frontier=on, p_frontier=p)


def test_ends_then_the_nearest_off_it_then_the_knee():
    line = [at("a", 3.0, 80.0), at("b", 2.2, 70.0), at("c", 2.1, 40.0), at("d", 2.0, 10.0)]
    off = [at("far", 2.9, 20.0, on=False, p=0.01), at("near", 2.15, 39.0, on=False, p=0.3)]
    assert chosen([*off, *line], 4) == ["a", "d", "near", "b"]
    assert chosen([*off, *line], 6) == ["a", "d", "near", "b", "c", "far"]
    assert chosen([*off, *line], 2) == ["a", "d"]
    assert chosen([at("a", 2.0, 10.0), *off], 3) == ["a", "near", "far"]
    assert chosen([], 3) == []


@pytest.mark.parametrize("shapes", [1, 2, 3, 7, 12])
def test_never_more_than_asked_for_nor_one_twice(shapes):
    outcomes = [world()(Job(kind="train", config=p.config, execution=p.execution)) for p in POINTS]
    found = chosen(candidates(outcomes), shapes)
    assert len(found) == len(set(found)) == min(shapes, len(POINTS))


STUDY = """\
name: x
model: {d_model: 64, vocab_size: 256, tie_embeddings: true}
axes: {n_layers: [1, 2, 3, 4, 6]}
trial: {data: python-stdlib, tokens: 1M, seq_len: 64, batch_size: 4, precision: fp32, seeds: 3}
resources: {reference_every: off}
follow_up: {shapes: 3, tokens: %s}
profiles: {fast: {follow_up: null}}
"""


def open_study(tmp_path, tokens="4x", profile="full"):
    (tmp_path / "x.yaml").write_text(STUDY % tokens)
    loaded = load(tmp_path / "x.yaml", profile=profile)
    return StudyRun(loaded=loaded, plan=make_plan(loaded, cpus=2), folder=RunFolder(root=tmp_path / "run"))


def trained(job):
    """Shallow is faster, deep is better; trained longer, the deepest is the worst."""
    depth, is_longer = job.config.shape.n_layers, job.config.recipe.tokens > 2_000_000
    loss = 2.0 - 0.1 * depth + 0.01 * job.seed + 0.001 * ((7 * depth + 3 * job.seed) % 5)
    if is_longer:
        loss = 1.0 - 0.05 * depth + (0.3 if depth == 6 else 0.0) + 0.001 * ((5 * depth + job.seed) % 4)
    speed = 1e5 / depth * (1 + 0.001 * job.seed)
    windows = SpeedSummary(tokens_per_s=speed, low=speed, high=speed, windows=(speed,), step_ms=1.0)
    return make_final(job, val_loss=loss, speed=windows, tokens=job.config.recipe.tokens)


def records_of(run, until=10_000):
    records = []
    for event in play(run.search.driver(), trained, until=until):
        records.append({**event_record(event), "time": f"2026-01-01T00:00:{len(records):02d}Z"})
    return records


def test_a_study_is_followed_up_reported_and_done(tmp_path):
    run = open_study(tmp_path)
    records = records_of(run)
    assert len(records) == 5 * 3 + 3 * 3
    driver = run.replayed(as_lines(records))
    assert set(driver.states().values()) == {"done"}
    followed = [record for record in records if record["recipe"]["tokens"] > 2_000_000]
    assert {record["recipe"]["steps"] for record in followed} == {4 * run.plan.configs[0].config.recipe.steps}
    found = run.frontier(as_lines(records))
    assert (found.to_do, found.jobs) == (0, {"ok": 24})
    assert len(found.frontiers[0].points) == 5, "follow-ups are no part of the frontier"
    (plain,) = json.loads(json.dumps(frontier_json(found), allow_nan=False))["frontiers"]
    said = plain["follow_up"]
    depths = {one["label"]: int(one["label"][1:]) for one in said["before"]}
    assert depths.keys() == {one["label"] for one in said["after"]}
    before = [2.0 - 0.1 * depth for depth in depths.values()]
    after = [1.0 - 0.05 * depth + (0.3 if depth == 6 else 0) for depth in depths.values()]
    assert said["agreement"]["tau"] == pytest.approx(kendalltau(before, after).statistic)
    assert {flip["labels"][0] for flip in said["agreement"]["flips"]} == {"L6"}
    console = Console(width=140, file=io.StringIO())
    console.print(summary(found, details=True))
    text = " ".join(console.file.getvalue().split())
    assert "Would it hold for longer?" in text
    assert "config 1.00M tokens 4.00M tokens" in text
    assert "after training for longer, beyond noise both times" in text
    assert run.search.labeller()(driver.jobs[followed[0]["trial_id"]]).endswith(" for longer")
    page = render(
        found, plan_json=plan_json(run.plan), study=run.loaded.resolved, records=as_lines(records), command="sweeper"
    )
    assert page.count(", for longer</td>") == len(followed), "each has a row of its own"


def test_what_is_to_come_is_planned_and_counted(tmp_path):
    run = open_study(tmp_path)
    (note,) = [note for note in run.plan.notes if "follow_up" in note]
    assert "up to 3 configs are trained once more, at 4x their length" in note
    assert "9 trials, about 36" in note
    whole = run.seconds_missing(run.search.driver())
    without = open_study(tmp_path, profile="fast")
    assert without.seconds_missing(without.search.driver()) < whole
    assert not any("follow_up" in note for note in without.plan.notes)
    assert census(OnKinds(run.search.driver()), []) == "24 jobs to do"
    records = records_of(run, until=17)
    lines = as_lines(records)
    driver = run.replayed(lines)
    assert census(OnKinds(driver), lines) == "17 kept, 7 to do"
    assert run.frontier(lines).to_do == 7
    points = [*run.points(driver, lines), *run.follow_ups(driver).values()]
    status = status_json(lines, points, seeds=run.seeds(driver, lines), live=False)
    assert sum(row["missing"] for row in status["configs"]) == 7
    assert 0 < run.seconds_missing(driver) < whole


def test_absolute_tokens_and_what_would_not_grow(tmp_path):
    run = open_study(tmp_path, tokens="3M")
    lengths = {record["recipe"]["tokens"] for record in records_of(run)}
    assert max(lengths) == pytest.approx(3_000_000, rel=1e-3)
    config = run.plan.configs[0].config
    assert run.search._grows(config)
    assert not run.search._grows(run.search.longer(config))
    minutes = replace(config.recipe, steps=None, minutes=2.0)
    assert longer_recipe(minutes, 4.0).minutes == 8.0
    assert longer_recipe(minutes, 10**6).minutes is None
