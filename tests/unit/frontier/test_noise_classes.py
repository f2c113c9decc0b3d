"""Where noise differs between configs, and which trials stand out: what a report says of it."""

from __future__ import annotations

import math

import numpy as np
from frontier_fakes import OBJECTIVES, config, final, plan
from ledger_lines import as_lines

from sweeper.frontier.frontiers import frontier
from sweeper.report.facts import noise_sentences
from sweeper.report.frontier_json import frontier_json


def reported(planned, losses, speeds):
    """Of tables [configs, seeds]."""
    records = [
        final(p, seed, float(losses[i, seed]), float(speeds[i, seed]))
        for i, p in enumerate(planned)
        for seed in range(losses.shape[1])
    ]
    return frontier(as_lines(records), study="s", profile="cpu", planned=planned, objectives=OBJECTIVES), records


def tables(seed, configs, seeds, *, loss_sd=0.01, speed_sd=0.005):
    source = np.random.default_rng(seed)
    losses = 1.5 + 0.05 * np.arange(configs)[:, None] + source.normal(0, 1, (configs, seeds)) * loss_sd
    logs = math.log(3e4) - 0.1 * np.arange(configs)[:, None] + source.normal(0, 1, (configs, seeds)) * speed_sd
    return losses, np.exp(logs)


def by_rate():
    return plan([config(layers, 64, lr=lr) for lr in (1e-3, 2e-3, 8e-3) for layers in (1, 2, 3, 4)])


def test_a_rate_at_which_losses_scatter_more_widens_the_intervals_there_alone():
    planned = by_rate()
    sd = np.array([0.01] * 8 + [0.1] * 4)[:, None]
    found, _ = reported(planned, *tables(1, 12, 4, loss_sd=sd))
    (one,) = found.frontiers
    (noisy,) = [c for c in one.noise_classes if c.metric == "val_loss"]
    assert (noisy.by.rsplit(".", 1)[-1], noisy.values) == ("lr", (8e-3,))
    widths = {p.config.recipe.optimizer.lr: [] for p in one.points}
    for point in one.points:
        loss = point.objectives["val_loss"]
        widths[point.config.recipe.optimizer.lr].append(loss.high - loss.low)
    assert min(widths[8e-3]) > 4 * max(widths[1e-3] + widths[2e-3])
    said = " ".join(noise_sentences(one))
    scatter = f"(sd {noisy.sd:.3g} nats against {noisy.others_sd:.3g} nats)"
    assert f"Losses scatter more at learning rate 0.008 {scatter}" in said
    assert not any("scatter" in doubt for doubt in one.doubts)
    plain = frontier_json(found)["frontiers"][0]["noise_classes"]
    assert [(c["metric"], c["values"]) for c in plain] == [("val_loss", (8e-3,))]


def test_shallow_configs_whose_speeds_swing_have_their_own_interval():
    planned = plan([config(layers, ffn) for layers in (1, 2, 4, 6) for ffn in (64, 96)])
    sd = np.array([0.08] * 4 + [0.001] * 4)[:, None]
    found, _ = reported(planned, *tables(3, 8, 4, speed_sd=sd))
    (one,) = found.frontiers
    half = {p.label: p.objectives["tokens_per_s"].high / p.objectives["tokens_per_s"].mean - 1 for p in one.points}
    shallow = [width for label, width in half.items() if label.startswith(("L1", "L2"))]
    deep = [width for label, width in half.items() if label.startswith(("L4", "L6"))]
    assert min(shallow) > 0.02
    assert max(deep) < 0.005
    assert "Speeds scatter more at depth ≤ 2" in " ".join(noise_sentences(one))


def test_a_config_that_is_noisy_for_no_recorded_reason_is_named():
    planned = plan([config(layers, 64) for layers in range(1, 9)])
    losses, speeds = tables(4, 8, 5)
    losses[3] += np.array([0.3, -0.25, 0.2, -0.3, 0.05])
    found, _ = reported(planned, losses, speeds)
    doubts = [doubt for doubt in found.frontiers[0].doubts if "scatters more than the others in loss" in doubt]
    assert len(doubts) == 1
    assert doubts[0].startswith("L4 scatters")


def test_one_far_off_loss_is_named_with_the_command_that_measures_it_again():
    planned = plan([config(layers, 64) for layers in range(1, 9)])
    losses, speeds = tables(0, 8, 3)
    quiet, _ = reported(planned, losses, speeds)
    assert quiet.frontiers[0].outliers == ()
    losses[3, 1] += 0.3
    found, records = reported(planned, losses, speeds)
    (one,) = found.frontiers
    (trial,) = one.outliers
    (record,) = [r for r in records if r["config_id"] == planned[3].config.config_id and r["seed"] == 1]
    assert trial.trial_ids == (record["trial_id"],)
    assert (trial.metric, trial.label, trial.seeds) == ("val_loss", "L4", (1,))
    (doubt,) = [doubt for doubt in one.doubts if "widens all intervals" in doubt]
    assert doubt.startswith("L4, seed 1: the loss lies 0.")
    assert f"--again {record['trial_id']}`" in doubt
    assert not any("scatter" in doubt for doubt in one.doubts), "one trial is not a noisy config"
    assert len(one.ties) < 12, "its config alone has a wide interval: with one variance for all 23 of 28 pairs are tied"


def test_a_trial_at_a_quarter_of_its_speed_is_named():
    planned = plan([config(layers, 64) for layers in range(1, 9)])
    losses, speeds = tables(5, 8, 3)
    speeds[2, 1] /= 4
    (one,) = reported(planned, losses, speeds)[0].frontiers
    (trial,) = one.outliers
    assert (trial.metric, trial.label, trial.seeds) == ("tokens_per_s", "L3", (1,))
    (doubt,) = [doubt for doubt in one.doubts if "widens all intervals" in doubt]
    assert doubt.startswith("L3, seed 1: the speed lies 7")
