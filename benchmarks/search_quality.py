"""How much of the best frontier each search method finds, on objectives whose every value is known.

    python benchmarks/search_quality.py [--seeds N] [--trials N] [--methods M ...] [--out FILE]

Feasible are the 200 shapes of a study at 120M parameters: depth × width × KV heads, the FFN solved. Each of four fixed
synthetic surfaces gives them a loss and a speed. By seed, every method proposes so many configs, one at a time, and is
told what came out; what counts is the hypervolume of what it has found (log speed, loss), as a share of that of all
200. Compared with random in pairs, seed by seed: the mean difference and Wilcoxon's signed-rank test, one-sided.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import moocore
import numpy as np
from provenance import RESULTS, provenance
from scipy.stats import wilcoxon

from sweeper.planning.plan import make_plan
from sweeper.search import make_strategy
from sweeper.study.loader import load
from sweeper.values.events import Final, SpeedSummary
from sweeper.values.records import Config, Execution, Job

METHODS = ("random", "space_filling", "tpe", "nsga2", "gp")
FEASIBLE = 200
STUDY = """\
name: search-quality
model: {vocab_size: 32768, head_dim: 64, tie_embeddings: true}
axes:
  n_layers: [4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40]
  d_model: {from: 256, to: 1024, step: 64}
  n_kv_heads: [1, 2, 4]
  ffn_hidden: {solve: params, multiple_of: 16}
budget: {params: {target: 120M, tolerance: 2%}}
trial: {data: python-stdlib, tokens: 1B, seq_len: 1024, batch_size: 8, precision: bf16}
"""


def loss_broad(x: np.ndarray) -> np.ndarray:
    """A broad basin at middling aspect ratios (2001.08361, figure 5), steeper towards few layers."""
    aspect, ffn, kv = x[:, 1] - x[:, 0], x[:, 2] - x[:, 1], x[:, 3]
    return 3.2 + 0.02 * (aspect - math.log(40)) ** 2 + 0.015 * (ffn - math.log(3)) ** 2 - 0.004 * kv


def loss_deep(x: np.ndarray) -> np.ndarray:
    """Deeper is better with diminishing gains (2310.19956), an FFN below twice the width hurts."""
    depth, ffn = np.exp(x[:, 0]), np.exp(x[:, 2] - x[:, 1])
    return 3.1 + 0.9 / depth + 0.05 * np.maximum(0, 2 - ffn) ** 2


def loss_rugged(x: np.ndarray) -> np.ndarray:
    """The broad basin with bumps over depth and width, as seeds and hardware make them."""
    return loss_broad(x) + 0.01 * np.sin(9 * x[:, 0]) * np.cos(7 * x[:, 1])


def loss_corner(x: np.ndarray) -> np.ndarray:
    """A narrow valley off the middle: wide, shallow, many KV heads."""
    return 3.2 + 0.06 * ((x[:, 0] - math.log(8)) ** 2 + (x[:, 1] - math.log(832)) ** 2) + 0.02 * (1.4 - x[:, 3]) ** 2


def log_speed(x: np.ndarray) -> np.ndarray:
    """FLOPs and a cost per layer; narrow matmuls run below peak, and KV heads cost a little."""
    depth, width = np.exp(x[:, 0]), np.exp(x[:, 1])
    efficiency = width / (width + 300)
    return np.log(1e6 * efficiency / (1 + 0.04 * depth)) - 0.01 * x[:, 3]


SURFACES = {"broad": loss_broad, "deep": loss_deep, "rugged": loss_rugged, "corner": loss_corner}


def main() -> None:
    """Run all methods on all surfaces; print a table; write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path, default=RESULTS / "search_quality.json")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**provenance("optuna", "torch", "moocore", "scipy"), "feasible": FEASIBLE, "surfaces": {}}
    result |= {"trials": arguments.trials, "seeds": arguments.seeds}
    methods = ["random", *(method for method in arguments.methods if method != "random")]
    work = [(m, s, seed, arguments.trials) for s in SURFACES for m in methods for seed in range(arguments.seeds)]
    with ProcessPoolExecutor(max_workers=2) as pool:
        runs = list(pool.map(search, *zip(*work, strict=True)))
    for surface in SURFACES:
        found = {m: [run for run, one in zip(runs, work, strict=True) if one[:2] == (m, surface)] for m in methods}
        result["surfaces"][surface] = {method: compared(found[method], found["random"]) for method in methods}
        for method, one in result["surfaces"][surface].items():
            print(surface, method, {key: value for key, value in one.items() if key != "shares"}, flush=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def configs() -> list[Config]:
    """The feasible ones, the first FEASIBLE of the plan."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(STUDY)
        plan = make_plan(load(path), cpus=2)
    found = [planned.config for planned in plan.configs][:FEASIBLE]
    if len(found) < FEASIBLE:
        raise RuntimeError(f"only {len(found)} configs are feasible")
    return found


def coordinates(all_configs: list[Config]) -> np.ndarray:
    """(configs, 4): logarithms of depth, width, FFN and KV heads."""
    shapes = [config.shape for config in all_configs]
    return np.log([[s.n_layers, s.d_model, s.ffn_hidden, s.n_kv_heads] for s in shapes])


def search(method: str, surface: str, seed: int, trials: int) -> dict[str, Any]:
    """One search: the share of the best hypervolume, and what must never happen, counted."""
    feasible = configs()
    x = coordinates(feasible)
    values = np.stack([SURFACES[surface](x), -log_speed(x)], axis=1)
    place = {config.config_id: n for n, config in enumerate(feasible)}
    axes = ("n_layers", "d_model", "n_kv_heads", "ffn_hidden")
    objectives = {"val_loss": "min", "tokens_per_s": "max"}
    strategy = make_strategy(method, feasible, trials=trials, seed=seed, axes=axes, objectives=objectives)
    tried: list[int] = []
    infeasible = 0
    began = time.perf_counter()
    while (config := strategy.propose()) is not None:
        if config.config_id not in place:
            infeasible += 1
            continue
        tried.append(place[config.config_id])
        strategy.observe(outcome(config, *values[tried[-1]]))
    worst = values.max(axis=0)
    scale = worst - values.min(axis=0)
    of = [moocore.hypervolume((points - worst) / scale, ref=[0.05, 0.05]) for points in (values[tried], values)]
    return {
        "share": float(of[0] / of[1]),
        "duplicates": len(tried) - len(set(tried)),
        "infeasible": infeasible,
        "seconds": time.perf_counter() - began,
    }


def outcome(config: Config, loss: float, minus_log_speed: float) -> Final:
    """What the strategy hears of a trial."""
    speed = math.exp(-minus_log_speed)
    job = Job(kind="train", config=config, execution=Execution(batch_size=8, compile=True))
    return Final(
        job=job,
        status="ok",
        val_loss=float(loss),
        val_bpb=None,
        curve=(),
        tokens=0,
        seconds={},
        speed=SpeedSummary(tokens_per_s=speed, low=speed, high=speed, windows=(speed,), step_ms=1.0),
        peak_memory_bytes=None,
        environment={},
    )


def compared(runs: list[dict[str, Any]], random: list[dict[str, Any]]) -> dict[str, Any]:
    """A method's shares beside random's, by seed."""
    shares = [run["share"] for run in runs]
    gains = [share - other["share"] for share, other in zip(shares, random, strict=True)]
    p = None if not any(gains) else float(wilcoxon(gains, alternative="greater").pvalue)
    return {
        "mean_share": round(statistics.fmean(shares), 4),
        "mean_gain": round(statistics.fmean(gains), 4),
        "p_above_random": p,
        "duplicates": sum(run["duplicates"] for run in runs),
        "infeasible": sum(run["infeasible"] for run in runs),
        "seconds_a_search": round(statistics.fmean(run["seconds"] for run in runs), 2),
        "shares": [round(share, 4) for share in shares],
    }


if __name__ == "__main__":
    main()
