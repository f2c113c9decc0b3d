"""`sweeper run --address`: a Ray that somebody else has started, elsewhere, and all the addresses that lead nowhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tiny_study import finals, folder, ledger, sweeper, write_study

from sweeper.commands import main, run
from sweeper.runners.ray import connection, survey, tune
from sweeper.values.errors import SweeperError, UsageError
from sweeper.values.events import Failed, Final
from sweeper.values.machine import Machines, Node
from tests.fakes import FakeSession, make_job

RAY = str(Path(sys.executable).with_name("ray"))
FAKES = Path(__file__).parents[2] / "fakes.py"


class Cluster:
    """A Ray of one node, started by its own command: two cores, a pretended GPU, its own temporary folder."""

    def __init__(self, home: Path, *, auth: str = "disabled") -> None:
        self.home = home
        for package in ("model", "runners", "sweeper"):
            (home / package).mkdir()
            (home / package / "__init__.py").write_text("raise RuntimeError('imported from where Ray was started')")
        (home / "deeds").mkdir()
        shutil.copy(FAKES, home / "deeds" / "fakes.py")
        (home / "tmp").mkdir()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self._process = subprocess.Popen(
            [RAY, "start", "--head", "--block", "--port=0", "--include-dashboard=false", "--num-cpus=2", "--num-gpus=1",
             f"--temp-dir={home / 'ray'}", f"--object-store-memory={connection.OBJECT_STORE_BYTES}",
             "--disable-usage-stats"],
            cwd=home, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**clean, "RAY_AUTH_MODE": auth, "TMPDIR": str(home / "tmp"), "PYTHONPATH": str(home / "deeds")},
        )  # fmt: skip
        self.address = self._wait()

    def _wait(self) -> str:
        """The address, once the node can be asked what it has."""
        deadline, known = time.monotonic() + 240, self.home / "ray" / "ray_current_cluster"
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                address = known.read_text().strip()
                survey.survey(address)
            except (OSError, UsageError):
                time.sleep(0.1)
            else:
                return address
        raise AssertionError("ray start did not come up")

    def logs(self) -> list[Path]:
        """What its workers keep of jobs' logs."""
        return list((self.home / "tmp").glob("sweeper-logs-*/**/*.log"))

    def stop(self) -> None:
        # Asked to end, it first waits until nobody could be using it.
        processes = [*psutil.Process(self._process.pid).children(recursive=True), self._process]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(processes[:-1])


@pytest.fixture(scope="module")
def cluster():
    home = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Ray's sockets have 107 characters
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        there = Cluster(home)
        try:
            yield there
        finally:
            there.stop()
            shutil.rmtree(home, ignore_errors=True)


def one_config(text):
    text = text.replace("n_layers: [1, 2]", "n_layers: [1]").replace("d_model: [32, 48]", "d_model: [32]")
    return text + "resources: {gpus: 0}\nprofiles:\n  cpu: {}\n"


def test_a_study_runs_on_a_ray_that_was_started_elsewhere(cluster, place):
    write_study(place, tokens="2k", seeds=1, edit=one_config)
    said = " ".join(sweeper(place, "run", "tiny.yaml", "--address", cluster.address).split())
    assert f"profile full (1 GPU on the Ray cluster at {cluster.address})" in said
    assert f"resources.gpus is 0; the Ray cluster at {cluster.address} has 1 GPU" in said
    (final,) = finals(place)
    assert final["status"] == "ok"
    assert final["environment"]["node"] == cluster.address.partition(":")[0]
    (asked,) = [record["job"] for record in ledger(place) if record["type"] == "asked"]
    assert asked["data_fingerprint"] == final["environment"]["data_fingerprint"]
    assert (folder(place) / "logs" / f"{final['trial_id']}.log").exists()
    assert f"--address {cluster.address}" in next(r["command"] for r in ledger(place) if r["type"] == "started")


def test_code_goes_there_and_logs_come_back_even_those_of_the_dead(cluster, tmp_path):
    session = FakeSession([make_job(0, data="fake"), make_job(1, data="dies:SIGKILL")])
    tune.run(session, job_target="fakes:behave", cpus=2, gpus=0, logs=tmp_path / "logs", address=cluster.address)
    first, dead, again = session.outcomes()
    assert isinstance(first, Final)
    assert all(path.startswith(str(cluster.home / "ray")) for path in first.environment["modules"])
    assert (tmp_path / "logs" / f"{first.job.job_id}.log").read_text() == f"hello from {first.job.job_id}\n"
    assert isinstance(dead, Failed)
    node = cluster.address.partition(":")[0]
    assert dead.error == f"the job's process died: it was killed (out of memory?) or crashed (on node {node})"
    assert dead.traceback.splitlines() == [f"hello from {dead.job.job_id}", "about to die"]
    assert dead.environment["device"].endswith(", 2 threads")
    assert dead.environment["versions"]["torch"]
    assert isinstance(again, Final)
    log = (tmp_path / "logs" / f"{again.job.job_id}.log").read_text()
    assert log == f"hello from {again.job.job_id}\nabout to die\n" * 2
    assert cluster.logs() == []


def test_a_node_that_is_lost_gives_no_log_and_keeps_nobody_waiting(cluster):
    with connection.connected(cluster.address), pytest.raises(TimeoutError, match="the node is lost"):
        connection.on_node("0" * 56, os.getpid, seconds=1e6)


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """What `sweeper run --address` says when it ends with 2."""
    write_study(place, edit=one_config)
    monkeypatch.chdir(place)

    def run(*arguments):
        assert main.main(["run", "tiny.yaml", "--address", *arguments]) == 2
        assert not folder(place).exists()
        return capsys.readouterr().err

    return run


def test_where_nobody_answers_is_said_at_once(refused, monkeypatch):
    monkeypatch.setattr(survey, "ANSWER_SECONDS", 1e6)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    said = refused(address)
    assert said.startswith(f"--address {address}: nobody answers there (Connection refused)")
    assert said.count("\n") == 1


def test_where_no_ray_answers_is_said_within_seconds(refused, monkeypatch):
    monkeypatch.setattr(survey, "ANSWER_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        said = refused(address)
    assert "isn't the head of a Ray cluster (no answer in 2 s)" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ray://10.0.0.5:10001"], "Ray Client can't be used.*run sweeper on one of its nodes"),
        (["10.0.0.5"], "write auto, or HOST:PORT"),
        (["10.0.0.5:port"], "write auto, or HOST:PORT"),
        (["local"], "write auto, or HOST:PORT"),
        (["auto", "--runner", "in-process"], "--runner in-process uses none: leave one of them out"),
    ],
)
def test_what_is_no_address_is_refused(refused, arguments, expected):
    import re

    said = refused(*arguments)
    assert re.search(expected, said)


def test_other_versions_and_a_driver_that_is_no_node_are_said(monkeypatch):
    other = {"ray_version": "2.1.0", "python_version": "3.9.1"}
    assert "has Ray 2.1.0 and Python 3.9.1, this machine Ray" in survey._other_versions("h:1", other)
    assert "join: ray start --address=h:1" in survey._stranger("h:1", alive={"a": 0}, here={"b"})
    assert survey._stranger("h:1", alive={"a": 0}, here={"a", "b"}) == ""


@pytest.mark.parametrize(("gpus", "profile"), [((0, 0), "cpu"), ((0, 8), "full")])
def test_the_profile_is_chosen_by_the_clusters_devices(place, monkeypatch, capsys, gpus, profile):
    write_study(place, edit=lambda text: one_config(text).replace("resources: {gpus: 0}\n", ""))
    monkeypatch.chdir(place)
    monkeypatch.setattr("sweeper.values.machine.gpu_count", lambda: 0 if gpus[1] else 4)  # this machine's don't count
    nodes = tuple(Node(cpus=16, gpus=count) for count in gpus)
    there = Machines(nodes=nodes, name="the Ray cluster of 2 nodes at h:1", address="h:1")
    monkeypatch.setattr(survey, "survey", lambda address: there)
    handed_on = {}
    monkeypatch.setattr(run, "execute", lambda run, console, **options: handed_on.update(options, run=run))
    assert main.main(["run", "tiny.yaml", "--address", "h:1"]) == 0
    assert handed_on["run"].loaded.profile == profile
    assert (handed_on["gpus"], handed_on["cpus"]) == ((1, 2) if gpus[1] else (0, 16))
    count = "8 GPUs" if gpus[1] else "no GPU"
    assert f"profile {profile} ({count} on the Ray cluster of 2 nodes at h:1)" in " ".join(
        capsys.readouterr().out.split()
    )
    with_too_many = ["run", "tiny.yaml", "--address", "h:1", "--set", "resources.cpus=17"]
    assert main.main(with_too_many) == 2
    assert "the most that a node of the Ray cluster of 2 nodes at h:1 has is 16" in capsys.readouterr().err


def test_kinds_of_device_are_said_and_the_one_with_most_room_comes_first(place, monkeypatch, capsys):
    write_study(place, edit=lambda text: one_config(text).replace("resources: {gpus: 0}\n", ""))
    monkeypatch.chdir(place)
    nodes = (Node(cpus=16, gpus=4, kind="A100"), Node(cpus=16, gpus=8, kind="H100"))
    there = Machines(nodes=nodes, name="the Ray cluster of 2 nodes at h:1", address="h:1")
    monkeypatch.setattr(survey, "survey", lambda address: there)
    asked = {}

    def interrupted(run, devices, **options):
        asked["kinds"] = devices.kinds
        raise KeyboardInterrupt

    monkeypatch.setattr("sweeper.running.under_way.run_study", interrupted)
    assert main.main(["run", "tiny.yaml", "--address", "h:1"]) == 130
    assert asked["kinds"] == ("H100", "A100")
    said = " ".join(capsys.readouterr().out.split())
    assert "speeds on each of H100 and A100, what they decide by H100" in said


def test_jobs_for_a_kind_of_which_no_node_is_left_are_not_waited_for_without_end(monkeypatch, tmp_path):
    class Nodes:
        def __init__(self, **rooms):
            self.rooms, self.looked = rooms, 0

        def jobs(self):
            return max(1, sum(self.rooms.values()))

        def of_kind(self, kind):
            return self.rooms.get(kind, 0)

        def forget(self):
            self.looked += 1

    def desk(nodes):
        session = FakeSession([replace(make_job(seed), on="A100") for seed in range(4)], kinds=("H100", "A100"))
        own = {"target": "", "cpus": 1, "gpus": 1, "run": "r", "logs": None}
        return tune._Desk(session, room=nodes, job_config=own, logs=tmp_path, here={})

    monkeypatch.setattr(tune, "STRANDED_SECONDS", 0.05)
    nodes = Nodes(H100=1, A100=2)
    one = desk(nodes)
    assert one.ask("a")["on"] == "A100"
    assert one.ask("b")["on"] == "A100"
    nodes.rooms["A100"] = 0
    assert one.ask("c") is None, "for a while it is hoped for"
    time.sleep(0.1)
    with pytest.raises(SweeperError, match="no node with A100 is left, and what there is to do waits"):
        one.ask("d")
    nodes = Nodes(H100=0, A100=2)
    one = desk(nodes)
    one.ask("a")
    one.ask("b")
    for _ in range(2):
        assert one.ask("c") is None, "both are at work: nothing is refused"
        time.sleep(0.1)
    one.on_death("a", "its node has died")
    assert nodes.looked == 1
    one = desk(Nodes(A100=2))
    one._session.queue.clear()
    one._session.running.add("what waits for an H100")
    assert one.ask("a") is None
    time.sleep(0.1)
    with pytest.raises(SweeperError, match="no node with H100 is left"):
        one.ask("a")
