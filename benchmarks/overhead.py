"""What sweeper adds to Ray Tune: no-op trials with ledger, MLflow and progress, against bare Tune with none of it.

    python benchmarks/overhead.py [--trials N] [--devices N] [--out FILE]

Both run N trials that compute nothing, one after another in one Ray with pretended devices, workers kept warm.
sweeper's time ends when the last write to MLflow (SQLite) is drained. `callback_ms`: what the driver's ask and tell
take a trial, the ledger's fsync included; `growth`: mean seconds a trial of the last tenth ÷ those of the first;
`kib_a_trial`: growth of the driver's resident memory from the first tenth on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from provenance import RESULTS, ROOT, provenance

os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
WARM_UP = 20


def main() -> None:
    """Run both; print; write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "overhead.json")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**provenance("ray", "mlflow"), "trials": arguments.trials, "devices": arguments.devices}
    with tempfile.TemporaryDirectory() as folder, started_ray(arguments.devices):
        bare(WARM_UP, Path(folder) / "warm-up")
        result["bare"] = bare(arguments.trials, Path(folder) / "bare")
        print("bare", result["bare"], flush=True)
        result["sweeper"] = sweeper(arguments.trials, Path(folder) / "sweeper")
        print("sweeper", result["sweeper"], flush=True)
    own, raw = result["sweeper"], result["bare"]
    result["ratio"] = round(own["seconds"] / raw["seconds"], 3)
    result["added_ms_a_trial"] = round(1000 * (own["seconds"] - raw["seconds"]) / arguments.trials, 2)
    print({key: result[key] for key in ("ratio", "added_ms_a_trial")})
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


@contextlib.contextmanager
def started_ray(devices: int) -> Iterator[None]:
    """A local Ray with so many pretended GPUs, as sweeper sets it up."""
    import ray

    from sweeper.runners.ray import connection

    os.environ.update(connection.SETTINGS)
    ray.init(
        address="local",
        num_cpus=devices,
        num_gpus=devices,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=connection.OBJECT_STORE_BYTES,
        runtime_env={"env_vars": {**connection.SETTINGS, "PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    try:
        yield
    finally:
        ray.shutdown()


def summary(began: float, ended: float, ends: list[float], memory: list[int]) -> dict[str, Any]:
    """Of a run: `ends` are the times at which trials ended, `memory` the driver's resident bytes then."""
    tenth = max(1, len(ends) // 10)
    first = (ends[tenth - 1] - ends[0]) / max(1, tenth - 1)
    last = (ends[-1] - ends[-tenth]) / max(1, tenth - 1)
    return {
        "seconds": round(ended - began, 2),
        "ms_a_trial": round(1000 * (ended - began) / len(ends), 2),
        "first_tenth_ms": round(1000 * first, 2),
        "last_tenth_ms": round(1000 * last, 2),
        "growth": round(last / first, 3),
        "kib_a_trial": round((memory[-1] - memory[tenth - 1]) / 1024 / max(1, len(ends) - tenth), 2),
    }


def bare(trials: int, storage: Path) -> dict[str, Any]:
    """Tune alone: a class that does nothing, a searcher that gives each trial a number."""
    from ray import tune
    from ray.tune import CheckpointConfig, PlacementGroupFactory
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search import Searcher

    ends: list[float] = []
    memory: list[int] = []
    process = psutil.Process()

    class Nothing(tune.Trainable):
        def step(self) -> dict[str, Any]:
            return {"loss": 1.0, "done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    class Numbers(Searcher):
        asked = 0

        def suggest(self, trial_id: str) -> Any:
            if self.asked == trials:
                return Searcher.FINISHED
            self.asked += 1
            return {"n": self.asked}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            ends.append(time.perf_counter())
            memory.append(process.memory_info().rss)

        def save(self, checkpoint_path: str) -> None: ...

        def restore(self, checkpoint_path: str) -> None: ...

    began = time.perf_counter()
    tune.run(
        Nothing,
        search_alg=Numbers(),
        scheduler=FIFOScheduler(),
        num_samples=-1,
        resources_per_trial=PlacementGroupFactory([{"CPU": 1, "GPU": 1}]),
        reuse_actors=True,
        storage_path=str(storage),
        checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        verbose=0,
    )
    return summary(began, time.perf_counter(), ends, memory)


def sweeper(trials: int, folder: Path) -> dict[str, Any]:
    """The same number of trials as a study has them: Driver, ledger, MLflow, progress."""
    from rich.console import Console

    from sweeper.ledger.file import Ledger
    from sweeper.planning.resolving import MicroBatches
    from sweeper.runners.ray import tune
    from sweeper.running.progress import Progress
    from sweeper.running.session import Session
    from sweeper.search import make_strategy
    from sweeper.search.driver import Driver
    from sweeper.tracking.store_uri import sqlite_uri
    from sweeper.tracking.tracker import Tracker
    from sweeper.values.records import Execution
    from sweeper.values.run_folder import RunFolder

    jobs = configs(trials)
    strategy = make_strategy("grid", jobs, trials=None, seed=0, axes=(), objectives={})
    ladder = MicroBatches(executions=(Execution(batch_size=4, compile=False),))
    driver = Driver(strategy, seeds=1, micro_batches=lambda config: ladder)
    where = RunFolder(root=folder / "runs" / "overhead" / "full")
    where.root.mkdir(parents=True)
    ends: list[float] = []
    memory: list[int] = []
    process = psutil.Process()
    uri = sqlite_uri(folder / "mlflow.db")
    with (
        Ledger(where.ledger, lock=where.lock) as ledger,
        Tracker(uri=uri, experiment="overhead", folder=where, profile="full", description="") as tracker,
    ):
        tracker.drain(60)
        console = Console(file=io.StringIO())
        progress = Progress(console, jobs=driver.jobs, states=driver.states, label=lambda job: job.job_id)

        def note_end(record: Any) -> None:
            if record["type"] == "final":
                ends.append(time.perf_counter())
                memory.append(process.memory_info().rss)

        session = Session(driver, ledger, observers=(tracker.observe, progress.observe, note_end))
        timed = Timed(session)
        began = time.perf_counter()
        tune.run(timed, job_target="overhead:nothing", cpus=1, gpus=1, logs=where.logs)
        ran = time.perf_counter()
        if not tracker.drain(600):
            raise RuntimeError("MLflow wasn't drained in 10 minutes")
        ended = time.perf_counter()
    if len(ends) != trials:
        raise RuntimeError(f"{len(ends)} of {trials} trials have an outcome")
    return {
        **summary(began, ended, ends, memory),
        "drained_after_s": round(ended - ran, 2),
        "callback_ms": round(1000 * timed.seconds / trials, 3),
    }


class Timed:
    """A session, and how long its answers take."""

    def __init__(self, session: Any) -> None:
        self._session, self.seconds, self.kinds = session, 0.0, ()

    def ask(self, free: Any = ()) -> Any:
        began = time.perf_counter()
        answer = self._session.ask(free)
        self.seconds += time.perf_counter() - began
        return answer

    def tell(self, event: Any) -> Any:
        began = time.perf_counter()
        answer = self._session.tell(event)
        self.seconds += time.perf_counter() - began
        return answer


def configs(number: int) -> list[Any]:
    """As many configs as trials."""
    from sweeper.model.shape import derive
    from sweeper.values.records import Config, Optimizer, Recipe

    recipe = Recipe(
        data="nothing",
        steps=10,
        seq_len=64,
        tokens_per_step=256,
        precision="fp32",
        optimizer=Optimizer(),
        eval_tokens=64,
    )
    fields = {"d_model": 64, "vocab_size": 256, "tie_embeddings": True}
    shapes = [derive({**fields, "n_layers": 1 + n % 100, "ffn_hidden": 16 + n // 100}) for n in range(number)]
    return [Config(shape=shape, recipe=recipe) for shape in shapes]


def nothing(job: Any) -> Iterator[Any]:
    """A trial that only says that it has ended, with a record of the usual size."""
    from sweeper.values.events import Final, SpeedSummary

    yield Final(
        job=job,
        status="ok",
        val_loss=2.0,
        val_bpb=1.0,
        curve=tuple((256 * step, 3.0 - step / 100) for step in range(1, 11)),
        tokens=2560,
        seconds={"set_up": 0.0, "compile": 0.0, "train": 0.0, "evaluate": 0.0, "timing": 0.0},
        speed=SpeedSummary(tokens_per_s=1e5, low=9e4, high=1.1e5, windows=(9e4, 1e5, 1.1e5), step_ms=10.0),
        peak_memory_bytes=2**28,
        environment={"device": "nothing", "versions": {"torch": "none"}, "data_fingerprint": "none"},
    )


if __name__ == "__main__":
    main()
