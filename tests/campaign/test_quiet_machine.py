"""Limits of seconds, megabytes and speed that hold on a quiet machine, for `make campaign`: `make test` has none.

Each stands beside a test without a limit, which fails by itself where something waits that mustn't.
"""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from test_study_loader import DESIGN
from test_study_run_ends import interrupted
from test_warm_trials import last
from tiny_study import write_text
from trial_jobs import job, write_chain

from sweeper.runners.data.dataset import open_data
from sweeper.runners.device.memory import resident_bytes
from sweeper.runners.ray import connection, tune
from tests.fakes import FakeSession, make_job

pytestmark = pytest.mark.campaign


@pytest.fixture
def place(tmp_path):
    write_text(tmp_path / "text")
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_run_within_ten_seconds(place, number):
    assert interrupted(place, number) < 10


def test_little_time_passes_between_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.getcwd())  # for tests.fakes
    session = FakeSession([make_job(seed, data="quick") for seed in range(40)])
    ended, tell = [], session.tell
    session.tell = lambda event: (ended.append(time.perf_counter()), tell(event))[1]
    with connection.connected():
        tune.run(session, job_target="tests.fakes:behave", cpus=1, gpus=0, logs=tmp_path)
    gaps = sorted(b - a for a, b in itertools.pairwise(ended))
    assert gaps[len(gaps) // 2] < 0.1


def test_a_shape_leaves_three_megabytes_in_its_process_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeper.runners.training.step_times.PROBE_WINDOW_SECONDS", 0.01)
    write_chain(tmp_path)
    resident = []
    for width in range(16 * 16, 0, -16):  # the largest first, as what it took from the system stays
        last(job(tmp_path, compile=True, steps=30, shape={"d_model": width, "ffn_hidden": 2 * width}))
        resident.append(resident_bytes())
    assert (resident[-1] - resident[3]) / 12 <= 3e6


def test_the_clocks_of_a_real_trial_add_up_to_what_it_took(tmp_path):
    write_chain(tmp_path)
    start = time.perf_counter()
    outcome = last(job(tmp_path, steps=60, compile=True))
    took = time.perf_counter() - start
    assert 0.98 * took <= sum(outcome.seconds.values()) <= took + 0.003


def test_a_study_loads_within_a_third_of_a_second(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(textwrap.dedent(DESIGN))
    code = (
        "import time; start = time.perf_counter()\n"
        "from pathlib import Path; from sweeper.study.loader import load\n"
        f"load(Path({str(file)!r})); print(time.perf_counter() - start)"
    )
    ran = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    assert min(float(run.stdout) for run in ran) < 0.35


def test_an_embedded_corpus_that_is_there_opens_within_half_a_second(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_CACHE_DIR", str(tmp_path))
    open_data("python-stdlib", None, 256)
    start = time.perf_counter()
    open_data("python-stdlib", None, 256)
    assert time.perf_counter() - start < 0.5
