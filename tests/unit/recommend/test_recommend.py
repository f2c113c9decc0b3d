"""What is recommended, against brute force over made ledgers; never surer than frontier.json."""

import json
import math
import re
import shlex

import numpy as np
import pytest
from ledger_lines import as_lines

from sweeper.commands.main import main
from sweeper.frontier.frontiers import frontier
from sweeper.planning.plan import make_plan
from sweeper.recommend.criteria import QUALITY, Lead, at_stake, lead
from sweeper.study.loader import load
from tests.unit.frontier_fakes import LOSSES, OBJECTIVES, SPEEDS, environment, final, plan, study

STUDY = """\
name: made
model: {vocab_size: 256, head_dim: 16, n_kv_heads: 1, tie_embeddings: true}
axes: {n_layers: [2, 3, 4, 6, 8, 12], d_model: [64, 96, 128, 192, 256], ffn_ratio: [3]}
trial: {data: python-stdlib, tokens: 5M, seq_len: 256, batch_size: 4, precision: fp32, seeds: 3}
"""


def shape_of(config):
    return config.shape.n_layers, config.shape.d_model


def loss(config):
    depth, width = shape_of(config)
    return 2 + 0.15 * (math.log(depth / 5)) ** 2 + 0.2 * (math.log(width / 150)) ** 2


def speed(config):
    depth, width = shape_of(config)
    return 2e7 / (depth * (width + 40))


@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
    """Writes a run folder with what `trained` says of each config, and runs a command on it."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "made"

    def make(
        *, loss=loss, trained=lambda config: True, noise=0.002, seeds=3, beside=None, devices=("a CPU",), text=STUDY
    ):
        root.mkdir(exist_ok=True)
        (root / "study.yaml").write_text(text)
        configs = [one.config for one in make_plan(load(root / "study.yaml"), cpus=2).configs]
        draw, lines = np.random.default_rng(0), []
        for device in devices:
            for seed in range(seeds):
                for point in plan([config for config in configs if trained(config)]):
                    value = loss(point.config) + 0.05 * seed + draw.normal(0, noise)
                    tokens = speed(point.config) * math.exp(draw.normal(0, 0.01))
                    where = environment(device=device)
                    line = final(point, seed, float(value), float(tokens), environment=where)
                    lines.append(line | ({} if beside is None else {"beside_memory_bytes": beside}))
        (root / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return configs

    def run(*flags, code=0):
        assert main(["recommend", str(root), *flags]) == code
        out, err = capsys.readouterr()
        return err if code else out

    return make, run


def answers(run, *flags):
    found = json.loads(run("--json", *flags))
    assert found["schema"] == 1
    return found, {choice["use_case"]: choice for choice in found["choices"]}


def at(described):
    return described["shape"]["n_layers"], described["shape"]["d_model"]


def test_the_four_uses_are_those_of_brute_force(made):
    make, run = made
    configs = make(noise=0.0005)
    found, by = answers(run)
    assert found["points"] == len(configs) == 30
    fastest, best = max(configs, key=speed), min(configs, key=loss)
    assert at(by["fastest"]["choice"]) == shape_of(fastest)
    assert at(by["quality"]["choice"]) == at(by["memory"]["choice"]) == shape_of(best)
    ends = np.array([[math.log(speed(one)), loss(one)] for one in (fastest, best)])
    distances = {}
    for config in configs:
        x, y = (np.array([math.log(speed(config)), loss(config)]) - ends[1]) / (ends[0] - ends[1])
        distances[shape_of(config)] = (x + (1 - y) - 1) / math.sqrt(2)  # y is 1 at the fastest, whose loss is worst
    knee = max(distances, key=lambda key: distances[key])
    balanced = by["balanced"]
    assert knee in [at(balanced["choice"]), *(at(rival["config"]) for rival in balanced["tied_with"])]
    assert by["quality"]["choice"]["basis"] == "measured"
    slower = by["fastest"]["runner_up"]
    second = sorted(configs, key=speed)[-2]
    assert at(slower["config"]) == shape_of(second)
    assert slower["ahead"]["low"] < math.log(speed(fastest) / speed(second)) < slower["ahead"]["high"]


def test_a_tie_is_called_a_tie(made, capsys):
    make, run = made
    make(noise=0.3)
    _, by = answers(run)
    quality = by["quality"]
    assert len(quality["tied_with"]) > 3
    ids = {rival["config"]["config_id"] for rival in quality["tied_with"]}
    assert main(["report", "made", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["frontiers"]
    ties = [{tie["a"], tie["b"]} for tie in one["ties"]]
    chosen = quality["choice"]["config_id"]
    assert ids == {other for pair in ties if chosen in pair for other in pair - {chosen}}
    assert "a tie" in next(line for line in run().splitlines() if line.startswith("Best quality"))


def test_one_seed_tells_nothing_apart(made):
    make, run = made
    make(seeds=1)
    _, by = answers(run)
    assert len(by["quality"]["tied_with"]) == 29
    assert by["quality"]["runner_up"] is None
    assert by["quality"]["to_be_sure"]["seeds"] == 2
    assert "Without an estimate of the noise" in run()


def test_a_config_that_was_not_run_is_chosen_where_it_is_shown_to_be_better(made):
    make, run = made
    middle = {(4, 128), (4, 192), (6, 128), (6, 192)}
    make(noise=0.0005, trained=lambda config: shape_of(config) not in middle)
    found, by = answers(run)
    assert found["predicted"] == 4
    assert not any(model["doubt"] for model in found["surrogates"].values())
    quality = by["quality"]
    assert at(quality["choice"]) in middle
    assert quality["choice"]["basis"] == "predicted"
    low, high = quality["choice"]["val_loss"]["low"], quality["choice"]["val_loss"]["high"]
    depth, width = at(quality["choice"])
    assert low < 2.05 + 0.15 * math.log(depth / 5) ** 2 + 0.2 * math.log(width / 150) ** 2 < high
    assert quality["to_be_sure"]["how"] == "run it"
    assert quality["to_be_sure"]["trials"] == 3
    assert quality["to_be_sure"]["device_s"] > 0
    assert "predicted, not run" in run()


def test_nothing_beyond_the_measured_is_predicted_unless_asked(made):
    make, run = made
    make(trained=lambda config: config.shape.d_model <= 128)
    found, _ = answers(run)
    assert (found["predicted"], found["outside"]) == (0, 12)
    asked, by = answers(run, "--extrapolate")
    assert (asked["predicted"], asked["outside"]) == (12, 12)
    assert "--extrapolate" in run()
    assert at(by["quality"]["choice"])[1] >= 128


def test_limits_are_kept_and_where_nothing_keeps_them_the_nearest_is_named(made):
    make, run = made
    configs = make()
    limits = ("--max-params", "0.9M", "--min-tokens-per-s", "12k", "--max-memory", "1GiB")
    _, by = answers(run, *limits)
    for choice in by.values():
        assert choice["choice"]["params"] <= 900_000
        assert choice["choice"]["tokens_per_s"]["mean"] >= 12_000
        assert choice["choice"]["memory_bytes"] <= 2**30
        assert choice["assumed"] == []
    allowed = [c for c in configs if c.shape.params.total <= 900_000 and speed(c) >= 12_000]
    best = by["quality"]
    near = {at(best["choice"]), *(at(rival["config"]) for rival in best["tied_with"])}
    assert shape_of(min(allowed, key=loss)) in near
    said = run("--max-params", "10k", code=3)
    smallest = min(config.shape.params.total for config in configs)
    assert f"--max-params {smallest} would let it in" in said
    _, by = answers(run, "--max-params", str(smallest))
    assert by["quality"]["choice"]["params"] == smallest


def test_what_lies_beside_the_peak_counts_to_the_memory_limit(made):
    """Every trial reserved 400 MiB, and 600 MiB lay beside."""
    make, run = made
    middle = {(4, 128), (4, 192), (6, 128), (6, 192)}
    make(noise=0.0005, trained=lambda config: shape_of(config) not in middle, beside=600 * 2**20)
    _, by = answers(run, "--max-memory", "1GiB")
    assert by["fastest"]["choice"]["memory_bytes"] == 1000 * 2**20
    assert by["quality"]["choice"]["basis"] == "predicted"
    assert by["quality"]["choice"]["memory_bytes"] > 600 * 2**20
    assert "none of 26 measured configs, and none of 4 predicted, keeps" in run("--max-memory", "599MiB", code=3)
    make()
    _, by = answers(run, "--max-memory", "500MiB")
    assert by["fastest"]["choice"]["memory_bytes"] == 400 * 2**20, "as recorded before"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--max-params", "big", "--max-memory", "16GB"], ["--max-params: 'big' is no number", "--max-memory: GB"]),
        (["--min-tokens-per-s", "0"], ["--min-tokens-per-s: 0 is too small"]),
        (["--max-memory", "16"], ["--max-memory: 16 is too small; at least 1MiB"]),
        (["--device", "H200"], ["--device H200: no device type that was measured; there are a CPU"]),
    ],
)
def test_bad_limits_say_what_would_be_right(made, flags, expected):
    make, run = made
    make()
    said = run(*flags, code=2)
    assert all(text in said for text in expected), said


def test_of_two_kinds_of_device_one_answers(made):
    make, run = made
    make(devices=("card A", "card B"))
    found, _ = answers(run, "--device", "card b")
    assert found["device"] == "card B"
    assert found["other_devices"] == ["card A"]
    assert "--device a" not in run("--device", "card", code=2)
    assert "Measured on card B too" in run()


def test_the_terminal_keeps_its_width_and_commands_can_be_copied(made, monkeypatch):
    make, run = made
    make()
    found, by = answers(run)
    for width in (120, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        said = run()
        assert max(map(len, said.splitlines())) <= width
        commands = re.findall(r"^  (sweeper train (?:.*\\\n)*.*)$", said, re.MULTILINE)
        copied = {tuple(shlex.split(command.replace("\\\n", ""))) for command in commands}
        assert copied == {tuple(choice["argv"]) for choice in by.values()}
    assert all(shlex.split(choice["command"]) == choice["argv"] for choice in by.values())
    configs = re.findall(r"LlamaConfig: (\{[^}]*\})", said)
    assert {json.loads(text)["num_hidden_layers"] for text in configs} == {
        choice["llama_config"]["num_hidden_layers"] for choice in by.values()
    }
    assert found["choices"][0]["trained_as"] == found["choices"][0]["choice"]["config_id"]


def test_the_lead_in_loss_is_the_frontiers_own_difference():
    planned, records = study(LOSSES, SPEEDS)
    (one,) = frontier(as_lines(records), study="s", profile="p", planned=planned, objectives=OBJECTIVES).frontiers
    for a in one.points:
        for b in one.points:
            expected = one.fits["val_loss"].difference(b.config_id, a.config_id)
            found = lead(QUALITY, a, b, one.fits)
            if a is not b:
                assert (found.value, found.low, found.high) == pytest.approx(
                    (expected.value, expected.low, expected.high)
                )


def test_at_stake_is_the_intervals_end_against_the_choice():
    def of(low, high):
        return at_stake(Lead(value=0.02, standard_error=0.01, degrees_of_freedom=10, low=low, high=high))

    assert of(-0.01, 0.05) == 0.01
    assert of(0.01, 0.03) == 0.0
    assert of(None, None) is None


def test_a_tie_says_what_is_at_stake_and_what_another_seed_of_all_takes(made):
    make, run = made
    make()
    _, by = answers(run)
    quality = by["quality"]
    sure, tied = quality["to_be_sure"], quality["tied_with"]
    worst = min(tied, key=lambda rival: rival["ahead"]["low"])
    assert (sure["how"], sure["rival"]) == ("further seeds", worst["config"]["label"])
    assert sure["at_stake"] == pytest.approx(-worst["ahead"]["low"])
    assert (sure["seeds"], sure["trials"]) == (quality["choice"]["seeds"] + 1, 1 + len(tied))
    assert f"may be up to {sure['at_stake']:.3f} nats lower in loss (95%)" in " ".join(run().split())


def test_what_a_nuisance_axis_was_measured_at_counts_as_measured(made):
    make, run = made
    axes = STUDY.replace("axes: {", "axes: {optimizer.lr: [1e-3, 2e-3], ") + "nuisance: [optimizer.lr]\n"
    configs = make(text=axes)
    assert len(configs) == 60
    found, _ = answers(run)
    assert found["points"] == found["feasible"] == 60


def test_of_a_tie_in_loss_the_fastest_is_chosen(made):
    make, run = made
    make(noise=0.05)
    _, by = answers(run)
    quality = by["quality"]
    rivals = [rival["config"] for rival in quality["tied_with"]]
    assert len(rivals) > 2
    own = quality["choice"]["tokens_per_s"]["mean"]
    lowest = quality["lowest_loss"]["config"]
    assert lowest["val_loss"]["mean"] == min(rival["val_loss"]["mean"] for rival in rivals)
    assert own > 1.2 * lowest["tokens_per_s"]["mean"]
    assert quality["lowest_loss"]["ahead"]["low"] < 0


def test_what_diverged_for_a_seed_is_not_recommended(made, tmp_path):
    make, run = made
    make(noise=0.0005)
    _, by = answers(run)
    best = by["quality"]["choice"]["config_id"]
    ledger = tmp_path / "made" / "ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:
        if line["config_id"] == best and line["seed"] == 2:
            line |= {"status": "diverged", "val_loss": None}
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, by = answers(run)
    assert best not in {choice["choice"]["config_id"] for choice in by.values()}
    assert len(found["unstable"]) == 1
    assert "(2 of 3 finished)" in found["unstable"][0]
