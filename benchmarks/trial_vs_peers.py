"""sweeper's trial against its peers: tokens/s, peak memory, and what the first step costs with a cold compile cache.

    python benchmarks/trial_vs_peers.py [--device cpu|cuda] [--windows N] [--shapes NAME,…] [--out FILE]

All contestants of a shape are alive at once, each in a process of its own, and take turns, window by window, in an
order that alternates; a ratio is paired within a window. Intervals are 95%, t, over the logs of the paired ratios.
First steps are taken in turns too, each in a new process with an empty compile cache; one that isn't counted comes
before all, so that none pays for reading libraries from disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from peers import Contestant, Task
from provenance import RESULTS, provenance
from scipy import stats

VOCAB_SIZE = 4096
SHAPES = {
    "deep-narrow": {"n_layers": 24, "d_model": 128, "n_kv_heads": 1, "ffn_hidden": 144},
    "middle": {"n_layers": 6, "d_model": 192, "n_kv_heads": 1, "ffn_hidden": 512},
    "shallow-wide": {"n_layers": 2, "d_model": 320, "n_kv_heads": 1, "ffn_hidden": 704},
}
"""About 3M parameters each, heads of 64, a tied vocabulary of 4,096."""

DEPTHS = (6, 24)
"""Layers of the deep-narrow shape at which the first step is compared."""

NAMES = ("sweeper", "huggingface", "plain")
WINDOW_SECONDS = 1.5
FIRST_STEPS = 3
"""Of each contestant; the median counts."""
WARM_UP_STEPS = 5


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_setting_options(parser)
    parser.add_argument("--out", type=Path, default=RESULTS / "trial_vs_peers.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder) / "shards")
        tasks = {name: task_of(SHAPES[name], arguments, shards) for name in arguments.shapes.split(",")}
        result: dict[str, Any] = {
            **provenance("torch", "transformers", "numpy"),
            "settings": {key: value for key, value in vars(arguments).items() if key != "out"},
            "shapes": {},
        }
        first_step("sweeper", next(iter(tasks.values())), cache=Path(folder) / "not-counted")
        for name, task in tasks.items():
            result["shapes"][name] = compare(task, folder=Path(folder) / name, windows=arguments.windows)
            print(name, json.dumps(result["shapes"][name]["ratios"]), flush=True)
        if set(tasks) == set(SHAPES):
            result["geometric_mean"] = geometric_means(result["shapes"])
            result["first_step"] = first_steps(tasks["deep-narrow"], folder=Path(folder))
            print(json.dumps({key: result[key] for key in ("geometric_mean", "first_step")}, indent=2))
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """What is compared, where and how long."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--windows", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seq_len", type=int, default=512)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--shapes", default=",".join(SHAPES))


def write_shards(folder: Path) -> str:
    """Random tokens as nanoGPT's train.bin and val.bin: their order doesn't matter to speed."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, count in (("train", 4_000_000), ("val", 200_000)):
        draw.integers(0, VOCAB_SIZE, count).astype(np.uint16).tofile(folder / f"{name}.bin")
    return str(folder)


def task_of(shape: dict[str, int], arguments: argparse.Namespace, shards: str) -> Task:
    """The shape as a task."""
    return Task(
        shape={**shape, "head_dim": 64, "vocab_size": VOCAB_SIZE, "tie_embeddings": True}, shards=shards,
        seq_len=arguments.seq_len, batch_size=arguments.batch_size, grad_accum_steps=1,
        precision=arguments.precision, device=arguments.device,
    )  # fmt: skip


def compare(task: Task, *, folder: Path, windows: int, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Every contestant at one task: windows by turns, ratios of sweeper's tokens/s to each peer's."""
    threads = len(os.sched_getaffinity(0))
    contestants = []
    try:
        for name in names:
            contestants.append(Contestant(name, task, cache=folder / name, threads=threads))
            contestants[-1].seconds(WARM_UP_STEPS)
        count = max(1, round(WINDOW_SECONDS / max(one.seconds(1) for one in contestants)))
        rates: dict[str, list[float]] = {name: [] for name in names}
        for window in range(windows):
            for one in contestants if window % 2 else contestants[::-1]:
                rates[one.name].append(count * task.tokens_per_step / one.seconds(count))
        return {
            "params": contestants[0].start["params"],
            "attention": {one.name: one.start["attention"] for one in contestants if "attention" in one.start},
            "tokens_per_s": {name: round(statistics.median(values)) for name, values in rates.items()},
            "windows": {name: [round(value) for value in values] for name, values in rates.items()},
            "steps_per_window": count,
            "peak_memory_bytes": {one.name: one.peak_memory_bytes() for one in contestants},
            "first_step_s": {one.name: round(one.start["first_step_s"], 2) for one in contestants},
            "ratios": {name: paired(rates["sweeper"], rates[name]) for name in names if name != "sweeper"},
        }
    finally:
        for one in contestants:
            one.close()


def paired(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """The geometric mean of paired ratios, with its interval."""
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(logs)
    half = stats.t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    shown = {"ratio": mean, "low": mean - half, "high": mean + half, "median": statistics.median(logs)}
    return {name: round(math.exp(value), 4) for name, value in shown.items()}


def geometric_means(shapes: dict[str, Any]) -> dict[str, float]:
    """Over shapes, of the ratio to each peer and of the peak memory."""
    peers = [name for name in NAMES if name != "sweeper"]
    means = {}
    for name in peers:
        logs = [math.log(one["ratios"][name]["ratio"]) for one in shapes.values()]
        means[f"tokens_per_s to {name}"] = round(math.exp(statistics.fmean(logs)), 4)
        memory = [one["peak_memory_bytes"] for one in shapes.values()]
        if all(one[name] and one["sweeper"] for one in memory):
            logs = [math.log(one["sweeper"] / one[name]) for one in memory]
            means[f"peak memory to {name}"] = round(math.exp(statistics.fmean(logs)), 4)
    return means


def first_steps(deep: Task, *, folder: Path) -> dict[str, Any]:
    """Seconds of the first step, cold, by depth; Hugging Face's at the deepest."""
    shallow = replace(deep, shape={**deep.shape, "n_layers": DEPTHS[0]})
    contestants = {
        f"sweeper_L{DEPTHS[0]}": ("sweeper", shallow),
        f"sweeper_L{DEPTHS[1]}": ("sweeper", deep),
        f"huggingface_L{DEPTHS[1]}": ("huggingface", deep),
    }
    taken: dict[str, list[float]] = {label: [] for label in contestants}
    for turn in range(FIRST_STEPS):
        for label, (name, task) in contestants.items():
            taken[label].append(round(first_step(name, task, cache=folder / f"{label}-{turn}"), 2))
    ours_shallow, ours_deep, theirs = (statistics.median(values) for values in taken.values())
    return {
        "seconds": taken,
        "L24_to_L6": round(ours_deep / ours_shallow, 3),
        "sweeper_to_huggingface_at_L24": round(ours_deep / theirs, 3),
    }


def first_step(name: str, task: Task, *, cache: Path) -> float:
    """Seconds of the first step of a new process."""
    contestant = Contestant(name, task, cache=cache, threads=len(os.sched_getaffinity(0)))
    contestant.close()
    return float(contestant.start["first_step_s"])


if __name__ == "__main__":
    main()
