"""Several device types measured a study: all losses count on each, speeds on their own alone."""

from dataclasses import replace

import pytest
from frontier_fakes import LOSSES, OBJECTIVES, PROXY, SPEEDS, config, environment, final, plan, probe
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_lines import as_lines, event_of

from sweeper.compare.comparison import compare, sides_of
from sweeper.frontier.frontiers import frontier
from sweeper.report.facts import noise_sentences
from sweeper.running.standing_so_far import standings
from sweeper.values.records import Resolved

PLANNED = plan([config(n, f) for n, f in PROXY[:4]])


def trial(point, seed, device, **changes):
    layers = point.config.shape.n_layers
    loss, speed = LOSSES[layers] + seed / 100, SPEEDS[layers] * (5 if device == "H200" else 1)
    return final(point, seed, loss, speed, **{"environment": environment(device=device), **changes})


def speed(point, device):
    return probe(point, SPEEDS[point.config.shape.n_layers] * (5 if device == "H200" else 1), device=device)


def found(records, planned=PLANNED):
    return frontier(as_lines(records), study="s", profile="full", planned=planned, objectives=OBJECTIVES, seeds=3)


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
            assert point.objectives["tokens_per_s"].mean == pytest.approx(factor * SPEEDS[point.config.shape.n_layers])
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
    (pair,) = compare(sides_of(found(records), as_lines(records), PLANNED, 3)).pairs
    assert [row.val_loss for row in pair.rows] == [None] * 4
    assert all(row.tokens_per_s.ratio == pytest.approx(5) for row in pair.rows)


def test_seeds_are_counted_wherever_they_ran():
    split = [trial(p, seed, "H100" if seed else "H200") for p in PLANNED for seed in range(3)]
    records = [speed(p, device) for device in ("H100", "H200") for p in PLANNED] + split
    doubts = " ".join(doubt for one in found(records).frontiers for doubt in one.doubts)
    assert "seed" not in doubts, doubts


def fp8(emulated):
    return {
        "name": "fp8",
        "backend": "torchao",
        "layer_filter": "all",
        "converted": 7,
        "total": 7,
        "emulated": emulated,
    }


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("declared", ["fp8", "auto"])
def test_a_loss_in_real_fp8_is_none_of_where_it_is_emulated(declared, emulated):
    """Configs that differ in the learning rate share a probe, which carries the id of one of them."""
    points = plan([config(2, 624, lr=lr, precision=declared, fp8_backend="torchao") for lr in (1e-3, 2e-3)])
    resolved = Resolved(precision="fp8") if declared == "auto" else Resolved()
    there, here = (
        environment(device=name, precision=fp8(flag)) for name, flag in (("H100", False), ("A100", emulated))
    )
    precisions = ["fp8", "bf16"] if declared == "auto" else [None]
    probes = []
    for at in (there, here):
        for precision in precisions:
            record = probe(points[0], 100.0, precision, device=at["device"])
            own = {} if precision == "bf16" else {"precision": at["precision"]}
            probes.append({**record, "environment": {**record["environment"], **own}})
    trials = [final(p, s, 1.5 + s / 10, 100.0, environment=there, resolved=resolved) for p in points for s in range(3)]
    on = by_device(probes + trials, points)
    assert len(on["H100"].points) == 2
    assert len(on["A100"].points if "A100" in on else ()) == (0 if emulated else 2)


def test_follow_ups_and_branches_that_ran_elsewhere_count():
    longer = {p.config.config_id: replace(p, config=config(*PROXY[n], steps=1952)) for n, p in enumerate(PLANNED)}
    records = [speed(p, device) for device in ("H100", "H200") for p in PLANNED]
    records += [trial(p, seed, ("H100", "H200")[seed % 2]) for p in PLANNED for seed in range(2)]
    records += [trial(p, seed, ("H200", "H100")[seed % 2]) for p in longer.values() for seed in range(2)]
    for record in records:
        if record["type"] == "final":
            took = 1.0 if record["device"] == "H100" else 5.0
            branch = {"fraction": 0.5, "tokens": 1, "val_loss": record["val_loss"] + 0.1, "val_bpb": None}
            record["branches"] = [{**branch, "train_seconds": took}]
    result = frontier(
        as_lines(records), study="s", profile="full", planned=PLANNED, objectives=OBJECTIVES, seeds=2, follow_ups=longer
    )
    for one in result.frontiers:
        assert [loss.n for loss in one.follow_up.before] == [2] * 4
        assert [loss.n for loss in one.follow_up.after] == [2] * 4
        assert one.follow_up.agreement.tau == 1
        assert [loss.n for loss in one.horizons.horizons[0].losses] == [2] * 4
        own = 1.0 if one.device == "H100" else 5.0
        assert one.horizons.horizons[0].losses[0].train_seconds == own, "of those that ran here"


def test_a_trial_that_had_no_memory_here_counts_by_what_it_came_to_elsewhere():
    own = [trial(p, seed, "H200") for p in PLANNED for seed in range(3)]
    own[0] = trial(PLANNED[0], 0, "H200", status="out_of_memory") | {"val_loss": None}
    on = by_device([trial(PLANNED[0], 0, "H100"), *own])
    (point,) = [p for p in on["H200"].points if p.config_id == PLANNED[0].config.config_id]
    assert [(s.seed, s.device) for s in point.samples] == [(0, "H100"), (1, None), (2, None)]


def test_further_seeds_go_by_one_kind_of_device():
    outcomes = [speed(p, device) for device in ("H100", "H200") for p in PLANNED[: 4 if device == "H100" else 3]]
    outcomes += [trial(p, seed, "H100") for p in PLANNED for seed in range(2)]
    found = standings(list(map(event_of, outcomes)), PLANNED, OBJECTIVES)
    assert sorted(one.config_id for one in found) == sorted(p.config.config_id for p in PLANNED)
