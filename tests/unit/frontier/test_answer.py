"""The answer: at most six lines, the decision first, each left out where it has nothing to say."""

import json
import re
import shutil
from pathlib import Path

import pytest
from frontier_fakes import LOSSES, OBJECTIVES, SPEEDS, config, final, plan, study
from ledger_lines import as_lines
from test_horizons import CROSSING, ledger
from test_horizons import study as with_branches

from sweeper.commands.main import main
from sweeper.frontier.answer import answer, main_device
from sweeper.frontier.decision import Decide
from sweeper.frontier.frontiers import frontier
from sweeper.report.frontier_json import frontier_json

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def found(planned, records, **options):
    return frontier(as_lines(records), study="s", profile="full", planned=planned, objectives=OBJECTIVES, **options)


def test_the_decision_comes_first_then_what_is_as_good_and_for_what_it_holds():
    result = found(*study(LOSSES, SPEEDS))
    lines = answer(result)
    assert 1 < len(lines) <= 6
    one = main_device(result)
    labels = {p.point_id: p.label for p in one.points}
    assert lines[0].startswith(f"Train {labels[one.decision.choice]}: ")
    good = next(line for line in lines if line.startswith("May be as good: "))
    named = [labels[against.point_id] for against in one.decision.as_good]
    assert sum(label in good for label in named) == min(3, len(named))
    out = next(line for line in lines if line.startswith("Ruled out: "))
    assert all(labels[against.point_id] not in out for against in one.decision.as_good)
    assert lines[-1].startswith("Holds for 407k to 441k parameters at 1.13 to 1.23 tokens per parameter on ")
    assert lines[-1].endswith("with one learning rate (0.002).")


def test_without_branches_it_goes_by_equal_tokens_and_says_so():
    lines = answer(found(*study(LOSSES, SPEEDS)))
    assert " at 500k tokens" in lines[0]
    assert "At equal training time nothing is told: it takes `trial.branch_at`, such as [25%, 50%]." in lines


def test_with_branches_it_goes_by_equal_time_unless_the_study_says_otherwise():
    records = ledger(CROSSING, noise=0.001)
    by_time = with_branches(records)
    assert by_time.frontiers[0].decision.by == "equal_time"
    why = r"Train L6 f144: the lowest loss after [\d.]+ s of training, shown against all 5 others"
    assert re.match(why, answer(by_time)[0])
    by_tokens = with_branches(records, decide=Decide(by="equal_tokens"))
    assert by_tokens.frontiers[0].decision.by == "equal_tokens"
    assert " at 500k tokens" in answer(by_tokens)[0]
    (beside,) = [line for line in answer(by_tokens) if line.startswith("At equal training time (")]
    assert re.search(r"L6 f144 leads .* by 0\.\d+ ± 0\.\d+ nats\.$", beside)


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ({1: 1.9, 3: 1.5}, "Train L3 f384: the lowest loss at 500k tokens, shown against the other."),
        ({1: 1.5, 3: 1.9}, "Train L1 f1360: the lowest loss at 500k tokens, shown against the other."),
    ],
)
def test_where_all_is_settled_nothing_is_open(losses, why):
    lines = answer(found(*study(losses, {1: 4e4, 3: 3e4}, noise=0.001)))
    assert lines[0] == why
    assert not any(line.startswith(("Open", "May be")) for line in lines)
    assert any(line.startswith("Ruled out: ") for line in lines)


def test_of_what_cannot_be_told_apart_the_fastest_is_chosen_by_equal_tokens():
    planned = plan([config(n, 16) for n in (1, 2, 3)])
    noise = {1: (0.0, 0.02, -0.02), 2: (0.02, -0.02, 0.0), 3: (-0.02, 0.0, 0.02)}
    means, speeds = {1: 1.505, 2: 1.5, 3: 1.9}, {1: 4e4, 2: 3e4, 3: 2e4}
    records = [
        final(p, s, means[i] + noise[i][s], speeds[i] * (1 + 0.001 * s * i))
        for i, p in enumerate(planned, 1)
        for s in range(3)
    ]
    result = found(planned, records)
    lines = answer(result)
    assert lines[0] == "Train L1: the fastest, and none is shown to reach a lower loss at 500k tokens."
    assert re.search(r"L2 \(0\.00\d* lower; 95%: 0\.\d+ lower to 0\.\d+ higher; 25% slower\)", lines[1])
    assert re.search(r"L3, 0\.39\d* \[0\.\d+, 0\.\d+\] nats higher and 50% slower", "\n".join(lines))
    still = result.frontiers[0].decision.open
    assert still.at_stake == pytest.approx(-result.frontiers[0].decision.as_good[0].low)
    assert (still.trials, len(still.point_ids)) == (3 * 3 * 2, 2), "four times as many trials halve an interval"


def test_within_a_loss_the_fastest_is_chosen_and_faster_ones_may_be_ruled_out():
    losses, speeds = {1: 1.60, 2: 1.53, 3: 1.50, 4: 1.51}, {1: 4e4, 2: 3e4, 3: 2e4, 4: 2.5e4}
    planned, records = study(losses, speeds, noise=0.001)
    result = found(planned, records, decide=Decide(by="loss_within", within=0.05))
    one = result.frontiers[0]
    labels = {p.point_id: p.label for p in one.points}
    assert labels[one.decision.choice].startswith("L2 ")
    assert [labels[out.point_id].split()[0] for out in one.decision.ruled_out] == ["L1"]
    assert "the fastest whose mean loss is at most 0.05 nats above the lowest" in answer(result)[0]
    assert frontier_json(result)["answer"]["choice"]["by"] == "loss_within"


def test_one_seed_decides_nothing_and_says_so():
    lines = answer(found(*study(LOSSES, SPEEDS, seeds=1)))
    assert "with one seed no difference can be told from noise" in lines[0]
    assert not any(line.startswith(("May be", "Ruled out", "Open")) for line in lines)


def test_a_single_config_and_nothing_at_all():
    alone = plan([config(1, 16)])
    lines = answer(found(alone, [final(alone[0], s, 1.5 + 0.1 * s, 1e3 + s) for s in range(3)]))
    assert lines[0].endswith(": the only config that was measured.")
    assert len(lines) == 2
    planned, _ = study(LOSSES, SPEEDS)
    nothing = answer(found(planned, []))
    assert nothing[0].startswith("Nothing is known yet: none of the 7")
    assert "`sweeper run` does it" in nothing[1]


def test_the_same_as_data():
    result = found(*study(LOSSES, SPEEDS))
    plain = frontier_json(result)["answer"]
    assert plain.keys() == {"lines", "choice", "as_good", "ruled_out", "open"}
    assert plain["lines"] == list(answer(result))
    decision, points = result.frontiers[0].decision, {p.point_id: p for p in result.frontiers[0].points}
    assert plain["choice"]["config_id"] == points[decision.choice].config_id
    assert plain["choice"]["by"] == "equal_tokens"
    assert plain["as_good"] == [points[one.point_id].config_id for one in decision.as_good]
    assert all(out["low"] <= out["difference"] <= out["high"] for out in plain["ruled_out"])
    assert plain["open"]["configs"][0] == plain["choice"]["config_id"]
    assert frontier_json(found(study(LOSSES, SPEEDS)[0], []))["answer"]["choice"] is None


def test_what_is_ruled_out_is_shown_to_be_worse_by_the_interval_that_is_printed(tmp_path, capsys):
    """In the recorded lr_transfer a pair's own seeds disagree, however small the error of all others is."""
    shutil.copytree(RESULTS / "lr_transfer_cpu", tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["answer"]
    assert len(told["as_good"]) == 1
    assert len(told["ruled_out"]) > 20
    assert all(one["low"] > 0 for one in told["ruled_out"])
