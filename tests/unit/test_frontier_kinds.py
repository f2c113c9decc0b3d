"""Several kinds of device measured a study: all losses count on each, speeds on their own alone."""

import pytest
from frontier_fakes import LOSSES, OBJECTIVES, PROXY, SPEEDS, config, environment, final, plan, probe
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.compare import compare, sides_of
from sweeper.frontier import frontier
from sweeper.records import Resolved
from sweeper.report.facts import noise_sentences

PLANNED = plan([config(n, f) for n, f in PROXY[:4]])


def trial(point, seed, device, **changes):
    layers = point.config.shape.n_layers
    loss, speed = LOSSES[layers] + seed / 100, SPEEDS[layers] * (5 if device == "H200" else 1)
    return final(point, seed, loss, speed, **{"environment": environment(device=device), **changes})


def speed(point, device):
    return probe(point, SPEEDS[point.config.shape.n_layers] * (5 if device == "H200" else 1), device=device)


def found(records, planned=PLANNED):
    return frontier(records, study="s", profile="full", planned=planned, objectives=OBJECTIVES, seeds=3)


def by_device(records, planned=PLANNED):
    return {one.device: one for one in found(records, planned).frontiers}


@given(places=st.lists(st.sampled_from(["H100", "H200"]), min_size=12, max_size=12))
@settings(deadline=None, max_examples=25)
def test_wherever_trials_ran_each_kind_has_all_losses_and_its_own_speeds(places):
    probes = [speed(point, device) for device in ("H100", "H200") for point in PLANNED]
    where = dict(zip([(p.config.config_id, seed) for p in PLANNED for seed in range(3)], places, strict=True))
    trials = [trial(p, seed, where[p.config.config_id, seed]) for p in PLANNED for seed in range(3)]
    on = by_device(probes + trials)
    assert set(on) == {"H100", "H200"}
    for device, one in on.items():
        assert {p.config_id: p.objectives["val_loss"].mean for p in one.points} == pytest.approx(
            {p.config.config_id: LOSSES[p.config.shape.n_layers] + 0.01 for p in PLANNED}
        )
        factor = 5 if device == "H200" else 1
        for point in one.points:
            assert point.objectives["tokens_per_s"].mean == pytest.approx(factor * SPEEDS[point.shape["n_layers"]])
            ran = {seed: where[point.config_id, seed] for seed in range(3)}
            assert {s.seed: s.device for s in point.samples} == {n: None if d == device else d for n, d in ran.items()}
            assert all((s.tokens_per_s is None) == (s.device is not None) for s in point.samples)
        elsewhere = sum(place != device for place in places)
        said = f"{elsewhere} of the 12 trials ran on {'H100' if device == 'H200' else 'H200'}: their losses count"
        assert any(said in sentence for sentence in noise_sentences(one)) == (elsewhere > 0)
        assert not one.incomplete


def test_a_kind_that_measured_speeds_alone_has_a_frontier_too():
    records = [trial(p, seed, "H100") for p in PLANNED for seed in range(3)] + [speed(p, "H200") for p in PLANNED[:3]]
    on = by_device(records)
    assert [len(on[device].points) for device in ("H100", "H200")] == [4, 3]
    assert len(on["H200"].incomplete) == 1
    assert on["H200"].seeds == (0, 1, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": environment(device="H100", data_fingerprint="beef")},
        {"environment": environment(device="H100", versions={"torch": "2.12.0"})},
        {"environment": environment(device="H100", precision={"name": "bf16"})},
        {"resolved": Resolved(steps=7)},
    ],
)
def test_what_was_trained_otherwise_elsewhere_does_not_count_here(changes):
    own = [trial(p, seed, "H200") for p in PLANNED for seed in (0, 1)]
    other = [trial(p, 2, "H100", **{"environment": environment(device="H100"), **changes}) for p in PLANNED]
    alike = [trial(p, 2, "H100") for p in PLANNED]
    assert {p.objectives["val_loss"].n for p in by_device([*other, *own])["H200"].points} == {2}
    assert {p.objectives["val_loss"].n for p in by_device([*alike, *own])["H200"].points} == {3}
    assert not by_device([*other, *own])["H200"].left_out, "nothing of its own is left out"


def test_a_trial_that_went_wrong_here_is_not_replaced_by_one_elsewhere():
    wrong = trial(PLANNED[0], 0, "H200", status="diverged") | {"val_loss": None}
    own = [wrong, *[trial(p, seed, "H200") for p in PLANNED for seed in range(3) if (p, seed) != (PLANNED[0], 0)]]
    on = by_device([*[trial(PLANNED[0], seed, "H100") for seed in range(3)], *own])
    (point,) = [p for p in on["H200"].points if p.config_id == PLANNED[0].config.config_id]
    assert [s.seed for s in point.samples] == [1, 2]


def test_one_trial_is_not_compared_with_itself():
    records = [trial(p, seed, "H100") for p in PLANNED for seed in range(3)] + [speed(p, "H200") for p in PLANNED]
    (pair,) = compare(sides_of(found(records), records, PLANNED, 3)).pairs
    assert [row.val_loss for row in pair.rows] == [None] * 4
    assert all(row.tokens_per_s.ratio == pytest.approx(5) for row in pair.rows)
