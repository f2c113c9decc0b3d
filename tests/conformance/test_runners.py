"""Every strategy with both runners: each job once, each config once, and one at a time always the same."""

from collections import Counter
from pathlib import Path

import pytest
from ledger_lines import plain_lines

from sweeper.ledger.file import Ledger
from sweeper.planning.resolving import MicroBatches
from sweeper.runners import in_process
from sweeper.runners.ray import connection, tune
from sweeper.running.session import Session
from sweeper.search import make_strategy
from sweeper.search.driver import Driver
from sweeper.values.records import Execution
from tests.campaign.fire import local_ray
from tests.conformance.test_strategies import METHODS
from tests.fakes import make_job

TRIALS, SEEDS, DEVICES = 9, 2, 2
FEASIBLE = [make_job(n_layers=n + 1, data="valley:0").config for n in range(40)]
TARGET = "tests.fakes:behave"


@pytest.fixture(scope="module")
def two_devices():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in connection.SETTINGS.items():
            patch.setenv(name, value)
        with local_ray(DEVICES):
            yield


def run(folder: Path, method: str, runner) -> list[dict]:
    """The ledger's records of a study of its own."""
    feasible = FEASIBLE[:TRIALS] if method == "grid" else FEASIBLE
    objectives = {"val_loss": "min", "tokens_per_s": "max"}
    strategy = make_strategy(
        method, feasible, trials=None if method == "grid" else TRIALS, seed=0, axes=("n_layers",), objectives=objectives
    )
    once = MicroBatches(executions=(Execution(batch_size=4, compile=False),))
    driver = Driver(strategy, seeds=SEEDS, micro_batches=lambda config: once)
    with Ledger(folder / "ledger.jsonl", lock=folder / "lock") as ledger:
        runner(Session(driver, ledger), folder / "logs")
    assert set(driver.states().values()) == {"done"}
    assert driver.to_propose == 0
    return plain_lines(folder / "ledger.jsonl")


def in_this_process(session, logs):
    in_process.run(session, job_target=TARGET, logs=logs)


def on_ray(session, logs):
    tune.run(session, job_target=TARGET, cpus=1, gpus=1, logs=logs)


def check(records):
    asked = [record["trial_id"] for record in records if record["type"] == "asked"]
    outcomes = Counter(record["trial_id"] for record in records if record["type"] == "final")
    assert Counter(asked) == outcomes
    assert set(outcomes.values()) == {1}
    of_configs = Counter(record["config_id"] for record in records if record["type"] == "final")
    assert len(of_configs) == TRIALS
    assert set(of_configs.values()) == {SEEDS}
    assert set(of_configs) <= {config.config_id for config in FEASIBLE}
    return asked


@pytest.mark.parametrize("method", METHODS)
def test_in_process_twice_the_same(method, tmp_path):
    first = check(run(tmp_path / "first", method, in_this_process))
    assert check(run(tmp_path / "second", method, in_this_process)) == first


@pytest.mark.parametrize("method", METHODS)
def test_on_two_devices(method, tmp_path, two_devices):
    check(run(tmp_path, method, on_ray))
