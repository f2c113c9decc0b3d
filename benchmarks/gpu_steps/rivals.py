"""The flagship against its peers, each in a process of its own, and what first steps cost."""

from __future__ import annotations

import contextlib
import math
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers import Contestant, Task

from gpu_steps.jobs import Bench
from gpu_steps.rows import Rows, Unavailable
from gpu_steps.speed import best_micro_batch
from sweeper.model.precision import fp8_lacks
from sweeper.model.shape import derive

NAMES = ("sweeper", "plain", "huggingface")
"""The plain loop is the yardstick: compiled Hugging Face computes attention without its causal mask's savings."""
FIRST_STEPS_S = 180
"""From when all begin: 32 layers in one graph take one to two minutes to compile."""
WARM_UP_STEPS = 10
WINDOW_S = 1.0
SHARE = 0.2
"""Of the device's memory. The peers keep fp32 logits, and more of what compiling whole models lets them keep."""


def peers(rows: Rows) -> None:
    """All contestants' first steps on empty caches, at the same time; then windows in turns.

    Who isn't there within its time is left out.
    """
    rows.forget()  # what they were compared with has ended
    bench = Bench(rows)
    task = _task(bench, "bf16", best_micro_batch(rows, bench, most_bytes=_most_bytes(bench)))
    with contextlib.ExitStack() as stack:
        began, running = time.monotonic(), {}
        contestants = {name: _begun(name, task, Path(tempfile.mkdtemp(dir=rows.folder)), stack) for name in NAMES}
        for name, contestant in contestants.items():
            rows.add(f"{name}, first step cold", partial(_first_answer, contestant, began, running))
        if "sweeper" in running and len(running) > 1:
            rows.add("side by side", lambda: _side_by_side(running, task, bench.scale.peer_windows))


def _most_bytes(bench: Bench) -> float:
    """What sweeper's own contestant may take, so that all three fit beside each other."""
    return (
        SHARE * torch.cuda.get_device_properties(bench.device).total_memory if bench.device.type == "cuda" else math.inf
    )


def _task(bench: Bench, precision: str, batch_size: int, **shape: Any) -> Task:
    fields = {**bench.scale.flagship, **shape}
    tokens = batch_size * bench.scale.seq_len
    return Task(
        shape=fields, shards=str(bench.text(fields["vocab_size"])), seq_len=bench.scale.seq_len, batch_size=batch_size,
        grad_accum_steps=bench.scale.tokens_per_step // tokens, precision=precision, device=bench.device.type,
    )  # fmt: skip


def _begun(name: str, task: Task, cache: Path, stack: contextlib.ExitStack) -> Contestant:
    contestant = Contestant(name, task, cache=cache, threads=_threads(), wait=False)
    stack.callback(contestant.close)
    return contestant


def _first_answer(contestant: Contestant, began: float, running: dict[str, Contestant]) -> dict[str, Any]:
    """What its first step cost, beside the others' at the same time; from then on it takes part."""
    left = began + FIRST_STEPS_S - time.monotonic()
    try:
        found = contestant.begin(within_s=max(left, 0))
    except RuntimeError as ended:
        if missing := re.search(r"No module named '(\w+)'", str(ended)):
            raise Unavailable(f"{missing[1]} isn't installed") from ended
        raise
    running[contestant.name] = contestant
    return {**found, "beside": len(NAMES) - 1}


def _threads() -> int:
    return min(16, len(os.sched_getaffinity(0)))


def _side_by_side(running: dict[str, Contestant], task: Task, windows: int) -> dict[str, Any]:
    """Windows of each in turns, every other time in reverse; sweeper's speed ÷ a peer's is taken within a turn."""
    for contestant in running.values():
        contestant.seconds(WARM_UP_STEPS)
    slowest = max(contestant.seconds(1) for contestant in running.values())
    steps = max(1, round(WINDOW_S / slowest))
    speeds: dict[str, list[float]] = {name: [] for name in running}
    for window in range(windows):
        for name in list(running) if window % 2 else reversed(list(running)):
            speeds[name].append(steps * task.tokens_per_step / running[name].seconds(steps))
    params = {name: contestant.start["params"] for name, contestant in running.items()}
    found: dict[str, Any] = {
        "batch_size": task.batch_size,
        "windows": windows,
        "steps_a_window": steps,
        "tokens_per_s": {name: round(statistics.median(kept)) for name, kept in speeds.items()},
        "all_tokens_per_s": {name: [round(speed) for speed in kept] for name, kept in speeds.items()},
        "peak_memory_bytes": {name: contestant.peak_memory_bytes() for name, contestant in running.items()},
        "params": params,
        "attention": {n: c.start["attention"] for n, c in running.items() if "attention" in c.start},
        "green": set(params.values()) == {derive(task.shape).params.total},
    }
    for name in set(running) - {"sweeper"}:
        ratios = [own / other for own, other in zip(speeds["sweeper"], speeds[name], strict=True)]
        found[f"sweeper_to_{name}"] = round(statistics.median(ratios), 4)
        found[f"sweeper_to_{name}_low_high"] = [round(min(ratios), 4), round(max(ratios), 4)]
    return found


def _first_step(name: str, task: Task, cache: Path) -> dict[str, Any]:
    if task.precision == "fp8" and (lacking := fp8_lacks("torchao", torch.device(task.device))):
        raise Unavailable(lacking)
    with _contestant(name, task, cache) as contestant:
        return contestant.start


@contextlib.contextmanager
def _contestant(name: str, task: Task, cache: Path) -> Iterator[Contestant]:
    contestant = Contestant(name, task, cache=cache, threads=_threads())
    try:
        yield contestant
    finally:
        contestant.close()


def compile_times(rows: Rows) -> None:
    """First steps on an empty cache and on the same cache again, beside those of the step `peers`."""
    bench = Bench(rows)
    batch_size = best_micro_batch(rows, bench)
    layers = bench.scale.flagship["n_layers"]
    for precision, depth in (("bf16", max(1, layers // 5)), ("bf16", layers), ("fp8", layers)):
        task = _task(bench, precision, batch_size, n_layers=depth)
        cache = Path(tempfile.mkdtemp(dir=rows.folder))
        for state in ("cold", "warm"):
            label = f"{precision}, {depth} layers, {state}"
            rows.add(label, partial(_first_step, "sweeper", task, cache), least_s=bench.scale.row_s)
