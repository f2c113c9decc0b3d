"""Several nodes of eight pretended devices: one job a device, a lost node's jobs run elsewhere, devices kept busy."""

import itertools
import statistics
import threading
import time
from collections import Counter, defaultdict

import pytest
from ledger_lines import plain_lines

from sweeper.ledger.file import Ledger
from sweeper.ledger.typed import FinalLine
from sweeper.planning.resolving import MicroBatches
from sweeper.runners.ray import connection, tune
from sweeper.runners.ray.connection import machines
from sweeper.running.session import Session
from sweeper.search import make_strategy
from sweeper.search.driver import Driver
from sweeper.search.on_kinds import OnKinds
from sweeper.values.records import Execution
from tests.campaign.fire import ROOT
from tests.fakes import make_job

DEVICES = 8


@pytest.fixture
def make_cluster(monkeypatch):
    """A function that starts a node of so many devices of a kind; all are gone afterwards."""
    import ray
    from ray.cluster_utils import Cluster

    for name, value in connection.SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = None

    def make(*kinds, devices=DEVICES):
        nonlocal made
        size = {"num_cpus": devices, "num_gpus": devices, "object_store_memory": connection.OBJECT_STORE_BYTES}
        nodes = [{**size, "resources": {f"accelerator_type:{kind}": 1} if kind else {}} for kind in kinds]
        made = Cluster(initialize_head=True, head_node_args={**nodes[0], "include_dashboard": False})
        made.added = [made.add_node(**node) for node in nodes[1:]]
        made.wait_for_nodes()
        ray.init(address=made.address, log_to_driver=False, logging_level="CRITICAL")
        return made

    try:
        yield make
    finally:
        ray.shutdown()
        if made is not None:
            made.shutdown()


def study(jobs, behaviour):
    configs = [make_job(n_layers=n + 1, data=behaviour).config for n in range(jobs)]
    kinds = machines().kinds(cpus=1, gpus=1)
    once = MicroBatches(executions=(Execution(batch_size=4, compile=False),), probed=len(kinds) > 1)
    strategy = make_strategy("grid", configs, trials=None, seed=0, axes=(), objectives={})
    return OnKinds(Driver(strategy, seeds=1, micro_batches=lambda config: once), kinds)


def run(tmp_path, jobs, behaviour, *, at_half=lambda: None):
    """Run so many jobs that behave so; `at_half` is called once half of them have an outcome."""
    half = threading.Event()

    def watch(record):
        if isinstance(record, FinalLine):
            finals.append(record)
        if len(finals) == jobs // 2:
            half.set()

    def wait():
        if half.wait(timeout=600):
            at_half()

    finals = []
    thread = threading.Thread(target=wait)
    thread.start()
    with Ledger(tmp_path / "ledger.jsonl", lock=tmp_path / "lock") as ledger:
        session = Session(study(jobs, behaviour), ledger, observers=(watch,))
        tune.run(session, job_target="tests.fakes:behave", cpus=1, gpus=1, logs=tmp_path / "logs")
    half.set()
    thread.join()
    return plain_lines(tmp_path / "ledger.jsonl")


def check_all_have_one_outcome(records, jobs):
    outcomes = Counter(record["trial_id"] for record in records if record["type"] == "final")
    assert len(outcomes) == jobs
    assert set(outcomes.values()) == {1}


def spans(records):
    """Of each device, when its jobs began and ended, in order."""
    found = defaultdict(list)
    for record in records:
        if record["type"] == "final":
            seen = record["environment"]
            found[seen["node"], seen["cuda"]].append((seen["began"], seen["ended"]))
    return {device: sorted(times) for device, times in found.items()}


def check_never_two_on_one_device(found):
    for device, times in found.items():
        for (_, ended), (began, _) in itertools.pairwise(times):
            assert began >= ended, f"two jobs at once on {device}"


def idle_seconds(found):
    return [began - ended for times in found.values() for (_, ended), (began, _) in itertools.pairwise(times)]


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_two_hundred_jobs_on_three_nodes_one_of_which_is_lost(make_cluster, tmp_path):
    cluster = make_cluster(None, None, None)

    def lose():
        cluster.remove_node(cluster.added[-1], allow_graceful=False)

    began = time.perf_counter()
    records = run(tmp_path, 200, "valley:6.0", at_half=lose)
    took = time.perf_counter() - began
    check_all_have_one_outcome(records, 200)
    failed = [record for record in records if record["type"] == "failed"]
    assert 1 <= len(failed) <= DEVICES, "the lost node was running jobs"
    found = spans(records)
    assert len(found) == 3 * DEVICES
    check_never_two_on_one_device(found)
    idle = statistics.median(idle_seconds(found))
    print(f"200 jobs in {took:.0f} s, {len(failed)} lost with a node and run elsewhere; median idle time {idle:.3f} s")
    assert idle <= 0.5


@pytest.mark.campaign
def test_of_two_kinds_of_device_each_measures_every_speed_and_both_train(make_cluster, tmp_path):
    make_cluster("H100", "A100", devices=1)
    records = run(tmp_path, 6, "valley:0.5")
    check_all_have_one_outcome(records, 6)
    check_never_two_on_one_device(spans(records))
    ended = [record for record in records if record["type"] in ("speed", "final")]
    assert {record["device"] for record in ended} == {"pretended H100", "pretended A100"}
    assert all(record["device"] == f"pretended {record['on']}" for record in ended), "it ran where it was asked for"
    speeds = Counter(record["device"] for record in ended if record["type"] == "speed")
    assert speeds == {"pretended H100": 6, "pretended A100": 6}
    assert len({record["device"] for record in ended if record["type"] == "final"}) == 2


def test_eight_jobs_on_one_node_never_share_a_device(make_cluster, tmp_path):
    make_cluster(None, devices=3)
    (tmp_path / "devices").mkdir()
    records = run(tmp_path, 8, f"meets:{tmp_path / 'devices'}")
    check_all_have_one_outcome(records, 8)
    found = spans(records)
    check_never_two_on_one_device(found)
    assert len(found) > 1
