"""Stand-ins for what takes long: jobs without training, a session without ledger."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweeper.model.shape import Shape
from sweeper.values.events import Continue, Done, Event, Failed, Final, Rung, Speed, SpeedSummary, Stop, Wait
from sweeper.values.machine import ray_node
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe, Resolved


def make_job(seed: int = 0, *, n_layers: int = 2, attempt: int = 1, data: str = "fake") -> Job:
    """A training job; `data` says to `behave` what it should do."""
    shape = Shape(
        n_layers=n_layers, d_model=96, n_heads=3, n_kv_heads=1, head_dim=32, ffn_hidden=352, vocab_size=256,
        tie_embeddings=True,
    )  # fmt: skip
    recipe = Recipe(
        data=data, steps=100, seq_len=256, tokens_per_step=1024, precision="fp32", optimizer=Optimizer(),
        eval_tokens=1024,
    )  # fmt: skip
    config = Config(shape=shape, recipe=recipe)
    return Job(
        kind="train", config=config, execution=Execution(batch_size=4, compile=False), seed=seed, attempt=attempt
    )


def make_final(job: Job, **changes: object) -> Final:
    """An `ok` outcome of `job`."""
    fields: dict[str, object] = {
        "status": "ok",
        "val_loss": 1.5 + job.seed / 100,
        "val_bpb": 2.1,
        "curve": ((1024, 5.5), (51200, 2.5), (102400, 1.6)),
        "tokens": 102400,
        "seconds": {"set_up": 0.1, "compile": 0.0, "train": 1.0, "evaluate": 0.1},
        "speed": SpeedSummary(tokens_per_s=1e5, low=9e4, high=1.1e5, windows=(9e4, 1e5, 1.1e5), step_ms=10.0),
        "peak_memory_bytes": 2**28,
        "environment": {"device": "cpu", "versions": {"torch": "2.13.0"}, "data_fingerprint": "abc"},
    }
    return Final(job=job, **{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class FakeSession:
    """Hands out `jobs` in order, again after a failure up to three times, and keeps what it is told."""

    jobs: list[Job]
    stop_at: Callable[[Rung], bool] = lambda rung: False
    events: list[Event] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    most_running: int = 0
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.queue = deque(self.jobs)

    def ask(self, free: Sequence[str] = ()) -> Job | Wait | Done:
        """The next job."""
        if not self.queue:
            return Wait() if self.running else Done()
        job = self.queue.popleft()
        self.running.add(job.job_id)
        self.most_running = max(self.most_running, len(self.running))
        return job

    def adopt(self, job: Job) -> None:
        """Nothing: its jobs are settled."""

    def tell(self, event: Event) -> Continue | Stop:
        """Keep the event."""
        self.events.append(event)
        if isinstance(event, Rung):
            return Stop() if self.stop_at(event) else Continue()
        self.running.discard(event.job.job_id)
        if isinstance(event, Failed) and event.job.attempt < 3:
            self.queue.append(
                make_job(event.job.seed, attempt=event.job.attempt + 1, data=event.job.config.recipe.data)
            )
        return Continue()

    def outcomes(self) -> list[Event]:
        """The events that end jobs."""
        return [event for event in self.events if not isinstance(event, Rung)]


class FakeTime:
    """Stands in for the module `time`: its clocks move when `advance` is called, and at no other time."""

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds

    def perf_counter(self) -> float:
        """Seconds since the start."""
        return self.now

    monotonic = perf_counter


def behave(job: Job) -> Iterator[Event]:
    """Does what the job's `data` says, and prints on its way."""
    deed, _, argument = job.config.recipe.data.partition(":")
    print(f"hello from {job.job_id}")
    yield from _DEEDS[deed](job, argument)


def _fake(job: Job, _: str) -> Iterator[Event]:
    yield Rung(job=job, tokens=1024, loss=5.0)
    yield make_final(job, environment=_seen())


def _quick(job: Job, _: str) -> Iterator[Event]:
    yield make_final(job, environment=_seen())


def _long(job: Job, argument: str) -> Iterator[Event]:
    """Rungs for ever; leaves the file `argument` behind when it is closed."""
    tokens = 0
    try:
        while True:
            tokens += 1024
            time.sleep(0.02)
            yield Rung(job=job, tokens=tokens, loss=5.0)
    finally:
        if argument:
            Path(argument).write_text("closed")


def _raises(job: Job, _: str) -> Iterator[Event]:
    yield Rung(job=job, tokens=1024, loss=5.0)
    raise ValueError("the loss is not a number\nsecond line")


def _no_outcome(job: Job, _: str) -> Iterator[Event]:
    yield Rung(job=job, tokens=1024, loss=5.0)


def _runs_out(job: Job, _: str) -> Iterator[Event]:
    yield make_final(job, status="out_of_memory", val_loss=None, val_bpb=None, environment=_seen())


def _begins_anew(job: Job, _: str) -> Iterator[Event]:
    """Rungs whose tokens go back once, then on for ever, as after a NaN under FP8."""
    for tokens in (1024, 2048, 3072):
        yield Rung(job=job, tokens=tokens, loss=5.0)
    again = replace(job, resolved=Resolved(precision="bf16"))
    for n in range(1, 1000):
        yield Rung(job=again, tokens=1024 * n, loss=4.0)


def _dies(job: Job, argument: str) -> Iterator[Event]:
    """Ends its process with signal `argument` in its first attempt."""
    yield Rung(job=job, tokens=1024, loss=5.0)
    print("about to die", file=sys.stderr, flush=True)
    if job.attempt == 1:
        if argument == "exit":
            os._exit(3)
        os.kill(os.getpid(), getattr(signal, argument))
        time.sleep(60)
    yield make_final(job, environment=_seen())


def _threads(job: Job, _: str) -> Iterator[Event]:
    import torch

    yield make_final(job, environment={**_seen(), "threads": torch.get_num_threads()})


def _busy(job: Job, argument: str) -> Iterator[Event]:
    """Says its process id in the file `argument`, then computes in C without looking up."""
    Path(argument).write_text(json.dumps({"pid": os.getpid()}))
    sum(range(10**12))
    yield make_final(job)


def _valley(job: Job, argument: str) -> Iterator[Event]:
    """Sleeps `argument` seconds; its loss and its speed depend on its layers alone, its device is its node's kind."""
    began, layers = time.time(), job.config.shape.n_layers
    time.sleep(float(argument))
    node, kind = _node()
    environment = {
        "device": f"pretended {kind}" if kind else "pretended",
        "node": node,
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "began": began,
        "ended": time.time(),
    }
    figure = 1e6 / layers
    speed = SpeedSummary(tokens_per_s=figure, low=figure, high=figure, windows=(figure,), step_ms=1.0)
    if job.kind == "speed":
        yield Speed(job=job, status="ok", speed=speed, peak_memory_bytes=1, seconds={}, environment=environment)
    else:
        loss = 2.0 + (layers / 100 - 1.7) ** 2
        yield make_final(job, val_loss=loss, speed=speed, environment=environment)


def _meets(job: Job, folder: str) -> Iterator[Event]:
    """As in a valley, once jobs on a second device have started too: `folder` has a file for each device."""
    (Path(folder) / str(os.environ.get("CUDA_VISIBLE_DEVICES"))).touch()
    while len(list(Path(folder).iterdir())) < 2:
        time.sleep(0.02)
    yield from _valley(job, "0.5")


def _node() -> tuple[str | None, str | None]:
    """The node's id, and the kind of its devices."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None, None
    own = ray.get_runtime_context().get_node_id()
    return own, next(ray_node(node["Resources"]).kind for node in ray.nodes() if node["NodeID"] == own)


def _seen() -> dict[str, object]:
    import sweeper.model
    import sweeper.runners

    return {
        "device": "cpu",
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "modules": [str(sweeper.model.__file__), str(sweeper.runners.__file__)],
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "compile_threads": os.environ.get("TORCHINDUCTOR_COMPILE_THREADS"),
    }


_DEEDS: dict[str, Callable[[Job, str], Iterator[Event]]] = {
    "fake": _fake,
    "quick": _quick,
    "long": _long,
    "raises": _raises,
    "no_outcome": _no_outcome,
    "dies": _dies,
    "runs_out": _runs_out,
    "begins_anew": _begins_anew,
    "threads": _threads,
    "busy": _busy,
    "valley": _valley,
    "meets": _meets,
}
