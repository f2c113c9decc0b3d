"""Jobs on a real local Ray. One Ray for the module; its driver stands in a folder that tries to shadow us."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sweeper.runners import in_process
from sweeper.runners.device.scratch import scratch_folder
from sweeper.runners.ray import connection, tune
from sweeper.values.errors import SweeperError, UsageError
from sweeper.values.events import Event, Failed, Final, Rung, Stop, Wait
from tests.fakes import FakeSession, make_job

ROOT = Path(__file__).parents[3]
TARGET = "tests.fakes:behave"
CORES = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packages that are called as ours are."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for package in ("model", "runners", "sweeper"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise RuntimeError('imported from the working directory')")
    return folder


@pytest.fixture(scope="module")
def local_ray(elsewhere: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # for tests.fakes alone
        patch.chdir(elsewhere)
        with connection.connected():
            yield


@pytest.fixture
def run(local_ray: None, tmp_path: Path) -> Callable[..., list[Event]]:
    def run(session: FakeSession, *, cpus: int = CORES, gpus: int = 0) -> list[Event]:
        tune.run(session, job_target=TARGET, cpus=cpus, gpus=gpus, logs=tmp_path / "logs")
        return session.outcomes()

    return run


def jobs(*deeds: str) -> list:
    return [make_job(seed, data=deed) for seed, deed in enumerate(deeds)]


def test_jobs_run_one_after_another_in_one_process(run, tmp_path: Path, elsewhere: Path) -> None:
    session = FakeSession(jobs(*["fake"] * 8))
    outcomes = run(session)
    assert [event.job.seed for event in outcomes] == list(range(8))
    assert len({event.environment["pid"] for event in outcomes}) == 1
    assert outcomes[0].environment["pid"] != os.getpid()
    assert session.most_running == 1
    assert [type(event) for event in session.events] == [Rung, Final] * 8
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {f"{event.job.job_id}.log" for event in outcomes}
    log = tmp_path / "logs" / f"{outcomes[3].job.job_id}.log"
    assert log.read_text() == f"hello from {outcomes[3].job.job_id}\n"


def test_a_worker_has_all_cores_no_gpu_and_nothing_of_the_working_directory(run, elsewhere: Path) -> None:
    (outcome,) = run(FakeSession(jobs("threads")))
    assert isinstance(outcome, Final)
    assert outcome.environment["threads"] == CORES
    assert outcome.environment["compile_threads"] == str(CORES)
    assert outcome.environment["cuda"] == ""
    assert not any(str(elsewhere) in path for path in outcome.environment["modules"])
    assert Path(outcome.environment["cwd"]) != elsewhere


def test_an_exception_is_a_value_and_is_tried_again(run) -> None:
    session = FakeSession(jobs("raises", "no_outcome", "fake"))
    outcomes = run(session)
    assert [(event.job.seed, event.job.attempt) for event in outcomes] == [
        (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (0, 3), (1, 3),
    ]  # fmt: skip
    assert outcomes[0].error == "ValueError: the loss is not a number"
    assert "in _raises" in outcomes[0].traceback
    assert outcomes[1].error == "the job ended without an outcome"
    assert isinstance(outcomes[2], Final)


@pytest.mark.parametrize("death", ["exit", "SIGKILL"])
def test_a_job_whose_process_dies_has_failed_and_the_study_goes_on(run, capfd, death: str) -> None:
    session = FakeSession(jobs("fake", f"dies:{death}", "fake"))
    first, dead, third, again = run(session)
    assert isinstance(dead, Failed)
    assert dead.error == "the job's process died: it was killed (out of memory?) or crashed"
    assert "about to die" in dead.traceback
    assert isinstance(third, Final)
    assert isinstance(again, Final)
    assert again.job.attempt == 2
    assert third.environment["pid"] == again.environment["pid"] != first.environment["pid"]
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_ran_out_of_memory_is_replaced_and_no_job_is_lost(run) -> None:
    session = FakeSession(jobs("fake", "runs_out", "fake", "fake", "runs_out", "runs_out", "fake"))
    outcomes = run(session)
    assert [event.job.seed for event in outcomes] == list(range(7))
    assert {event.job.attempt for event in outcomes} == {1}
    pids = [event.environment["pid"] for event in outcomes]
    assert pids[0] == pids[1] != pids[2] == pids[3] == pids[4]
    assert len({pids[1], *pids[4:]}) == 4


def test_a_job_told_to_stop_is_closed_and_told_once(run, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    session = FakeSession(jobs("fake", f"long:{closed}", "fake"), stop_at=lambda rung: rung.tokens == 3072)
    first, stopped, third = run(session)
    assert stopped.status == "stopped_early"
    assert stopped.curve == ((1024, 5.0), (2048, 5.0), (3072, 5.0))
    assert stopped.tokens == 3072
    assert closed.exists()
    assert third.environment["pid"] == first.environment["pid"]


def test_jobs_never_share_a_processor_however_small(run) -> None:
    session = FakeSession(jobs(*["fake"] * 6))
    outcomes = run(session, cpus=1)
    assert session.most_running == 1
    assert sorted(event.job.seed for event in outcomes) == list(range(6))


def test_a_job_that_fits_nowhere_is_a_usage_error(run) -> None:
    session = FakeSession(jobs("fake"))
    with pytest.raises(UsageError, match=rf"{CORES + 1} CPUs and 0 GPUs.*are {CORES} CPUs"):
        run(session, cpus=CORES + 1)
    with pytest.raises(UsageError, match="1 CPUs and 99 GPUs"):
        run(session, cpus=1, gpus=99)
    assert session.events == []


def test_what_the_session_raises_ends_the_run(run) -> None:
    class FullDisk(FakeSession):
        def tell(self, event: Event):
            raise OSError("no space left")

    class Stuck(FakeSession):
        def ask(self, free=()):
            return Wait()

    with pytest.raises(OSError, match="no space left"):
        run(FullDisk(jobs("fake")))
    with pytest.raises(SweeperError, match="waits for an outcome"):
        run(Stuck([]))
    assert len(run(FakeSession(jobs("fake")))) == 1


DRIVER = """
import sys
from pathlib import Path
from sweeper.runners.ray import tune
from tests.fakes import FakeSession, make_job

folder = Path(sys.argv[1])
session = FakeSession([make_job(data=f"busy:{folder / 'pid.json'}")])
try:
    tune.run(session, job_target="tests.fakes:behave", cpus=1, gpus=0, logs=folder / "logs")
except KeyboardInterrupt:
    print("told", len(session.events))
    sys.exit(130)
"""


def launch(folder: Path, **settings: str) -> subprocess.Popen:
    """A driver in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_driver(folder: Path, **settings: str) -> tuple[subprocess.Popen, psutil.Process]:
    """A driver, and the worker process that computes for it."""
    driver = launch(folder, **settings)
    mark = folder / "pid.json"
    while not (mark.exists() and mark.read_text()):
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)
    return driver, psutil.Process(json.loads(mark.read_text())["pid"])


def test_ctrl_c_ends_a_busy_run(tmp_path: Path) -> None:
    driver, worker = start_driver(tmp_path)
    family = [worker, *psutil.Process(driver.pid).children(recursive=True)]
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
    output, _ = driver.communicate()
    assert driver.returncode == 130
    assert output == "told 0\n"
    psutil.wait_procs(family)


def test_ctrl_c_while_ray_starts(tmp_path: Path) -> None:
    driver = launch(tmp_path)
    while not (children := psutil.Process(driver.pid).children()):
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(driver.pid, signal.SIGINT)
    output, _ = driver.communicate()
    assert (driver.returncode, output) == (130, "told 0\n")
    psutil.wait_procs(children)


def test_a_killed_driver_takes_its_workers_along(tmp_path: Path) -> None:
    parent = Path(tempfile.mkdtemp(dir="/tmp"))  # its own, as whoever starts a Ray removes what the dead have left
    driver, worker = start_driver(tmp_path, TMPDIR=str(parent))
    left = next(path for path in Path(worker.cwd()).parents if path.parent == parent)
    driver.kill()
    driver.communicate()
    worker.wait()
    assert left.exists()
    with scratch_folder(parent):
        assert not left.exists()
    shutil.rmtree(parent)


def test_in_process_has_the_same_outcomes(tmp_path: Path, capfd) -> None:
    closed = tmp_path / "closed"
    session = FakeSession(
        jobs("fake", "raises", "no_outcome", f"long:{closed}"), stop_at=lambda rung: rung.tokens == 2048
    )
    in_process.run(session, job_target=TARGET, logs=tmp_path / "logs")
    outcomes = session.outcomes()
    assert [type(event) for event in outcomes] == [Final, Failed, Failed, Final, *[Failed] * 4]
    assert outcomes[1].error == "ValueError: the loss is not a number"
    assert outcomes[3].status == "stopped_early"
    assert closed.exists()
    assert capfd.readouterr() == ("", "")
    log = tmp_path / "logs" / f"{outcomes[1].job.job_id}.log"
    assert log.read_text().count("hello from") == 3
    assert isinstance(session.tell(Rung(job=make_job(), tokens=2048, loss=1.0)), Stop)


def test_a_training_that_begins_anew_is_told_as_it_is(run, tmp_path: Path) -> None:
    in_our_process = FakeSession(jobs("begins_anew"), stop_at=lambda rung: rung.tokens == 4096)
    in_process.run(in_our_process, job_target=TARGET, logs=tmp_path / "logs")
    on_ray = FakeSession(jobs("begins_anew"), stop_at=lambda rung: rung.tokens == 4096)
    run(on_ray)
    for session in (in_our_process, on_ray):
        (outcome,) = session.outcomes()
        assert outcome.curve == ((1024, 4.0), (2048, 4.0), (3072, 4.0), (4096, 4.0))
        assert outcome.job.precision == "bf16"
        assert outcome.job.trial_id == session.jobs[0].trial_id


def test_in_process_passes_on_ctrl_c(tmp_path: Path) -> None:
    closed = tmp_path / "closed"

    def interrupt(rung: Rung) -> bool:
        raise KeyboardInterrupt

    session = FakeSession(jobs(f"long:{closed}"), stop_at=interrupt)
    with pytest.raises(KeyboardInterrupt):
        in_process.run(session, job_target=TARGET, logs=tmp_path / "logs")
    assert closed.exists()
    assert session.outcomes() == []
