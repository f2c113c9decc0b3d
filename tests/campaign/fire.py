"""A study whose trials only sleep, as a program of its own that can be killed: `python fire.py FOLDER DEVICES TRIALS`.

Its search is `tpe`, so that what is asked depends on all that came before. With DEVICES 0 the jobs run in its process,
else on a Ray with so many pretended GPUs. Run again on the same folder it goes on.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHAPES = 400


def main(folder: Path, devices: int, trials: int) -> None:
    """Do what is missing."""
    from sweeper.ledger.file import Ledger
    from sweeper.runners import in_process
    from sweeper.runners.ray import tune
    from sweeper.running.session import Session

    with Ledger(folder / "ledger.jsonl", lock=folder / "lock") as ledger:
        session = Session(driver(trials), ledger, devices=max(1, devices))
        target, logs = "tests.fakes:behave", folder / "logs"
        if not devices:
            in_process.run(session, job_target=target, logs=logs)
            return
        with local_ray(devices):
            tune.run(session, job_target=target, cpus=1, gpus=1, logs=logs)


def driver(trials: int):
    """A Driver that has been told nothing yet."""
    from sweeper.planning.resolving import MicroBatches
    from sweeper.search import make_strategy
    from sweeper.search.driver import Driver
    from sweeper.values.records import Execution
    from tests.fakes import make_job

    configs = [make_job(n_layers=n + 1, data="valley:0.05").config for n in range(SHAPES)]
    objectives = {"val_loss": "min", "tokens_per_s": "max"}
    strategy = make_strategy("tpe", configs, trials=trials, seed=1, axes=("n_layers",), objectives=objectives)
    once = MicroBatches(executions=(Execution(batch_size=4, compile=False),))
    return Driver(strategy, seeds=1, micro_batches=lambda config: once)


@contextlib.contextmanager
def local_ray(devices: int):
    """A Ray of this process with pretended devices."""
    import ray

    from sweeper.runners.ray import connection

    os.environ.update(connection.SETTINGS)
    ray.init(
        address="local",  # not one that another test has started
        num_cpus=devices, num_gpus=devices, include_dashboard=False, log_to_driver=False,
        logging_level="CRITICAL", object_store_memory=connection.OBJECT_STORE_BYTES,
        runtime_env={"env_vars": {**connection.SETTINGS, "PYTHONPATH": str(ROOT)}},
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def start(folder: Path, devices: int, trials: int) -> subprocess.Popen:
    """The program, in a process group of its own."""
    program = [sys.executable, str(Path(__file__)), str(folder), str(devices), str(trials)]
    return subprocess.Popen(
        program, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(folder: Path, devices: int, trials: int) -> None:
    """Run to the end, undisturbed."""
    process = start(folder, devices, trials)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said.decode()[-3000:]


def run_under_fire(folder: Path, devices: int, trials: int, *, kills: int, seconds: float, seed: int) -> list[int]:
    """Run it to its end, killed with SIGKILL so often before; how many records the ledger had at each kill.

    A kill comes at a random moment within `seconds` after the first job that this start has asked for.
    """
    source, ledger, found = random.Random(seed), folder / "ledger.jsonl", []
    while len(found) < kills:
        before = lines_of(ledger)
        process = start(folder, devices, trials)
        deadline = time.monotonic() + 120
        while lines_of(ledger) < before + 2 and process.poll() is None:  # it starts, it asks
            assert time.monotonic() < deadline, "nothing was written for two minutes"
            time.sleep(0.01)
        time.sleep(source.uniform(0, seconds))
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not ended, "the study had ended before it could be killed: give it more trials"
        found.append(lines_of(ledger))
    finish(folder, devices, trials)
    return found


def lines_of(ledger: Path) -> int:
    """Whole lines of a ledger."""
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
