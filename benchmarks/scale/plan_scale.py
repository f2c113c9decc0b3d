"""How planning grows with the lattice, from 10^6 to 10^9 points, and whether it is what a brute force finds.

    python benchmarks/scale/plan_scale.py [--runs N] [--skip-brute-force] [--out FILE]

A lattice of depth × width × FFN × KV heads within 2% of 180M parameters, in a process of its own each: seconds and
peak memory, beyond the started interpreter with its imports, of `make_plan` as `sweeper plan` calls it (feasible set,
counts of drops, parameters, FLOPs, predicted seconds, totals), and seconds of the memory prediction of every config.
The brute force, at 10^8, counts parameters and checks heads for every point of the grid, by formulas of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import RESULTS, ROOT, provenance

TARGET, TOLERANCE, VOCABULARY, HEAD_DIM = 180_000_000, 0.02, 32768, 64
KV_HEADS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
LATTICES = {  # depths, widths, FFN sizes; × 10 KV heads
    10**6: (50, 20, 100),
    10**7: (50, 40, 500),
    10**8: (100, 50, 2000),
    10**9: (200, 100, 5000),
}
"""The step between FFN sizes shrinks as their number grows: the range is the same."""
LARGEST_FFN = 40_000


def axes(points: int) -> dict[str, tuple[int, ...]]:
    """The lattice with so many points."""
    depths, widths, ffns = LATTICES[points]
    return {
        "n_layers": tuple(range(1, depths + 1)),
        "d_model": tuple(range(HEAD_DIM, HEAD_DIM * (widths + 1), HEAD_DIM)),
        "n_kv_heads": KV_HEADS,
        "ffn_hidden": tuple(range(LARGEST_FFN // ffns, LARGEST_FFN + 1, LARGEST_FFN // ffns)),
    }


def main() -> None:
    """Measure each size in processes of their own; compare with the brute force; print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--skip-brute-force", action="store_true")
    parser.add_argument("--only", type=int, choices=list(LATTICES), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "plan_scale.json")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measured(arguments.only)))
        return
    result: dict[str, Any] = {**provenance("numpy", "pydantic"), "lattices": {}}
    for points in LATTICES:
        runs = [in_a_process(points) for _ in range(arguments.runs)]
        one = {**runs[0], "seconds": statistics.median(run["seconds"] for run in runs)}
        one["seconds_of_all_runs"] = [run["seconds"] for run in runs]
        one["beyond_interpreter_mib"] = max(run["beyond_interpreter_mib"] for run in runs)
        one["ns_per_combination_or_config"] = round(1e9 * one["seconds"] / (one["combinations"] + one["feasible"]), 1)
        result["lattices"][str(points)] = one
        print(points, one, flush=True)
    if not arguments.skip_brute_force:
        result["brute_force"] = brute_force(10**8)
        print("brute force", result["brute_force"], flush=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def in_a_process(points: int) -> dict[str, Any]:
    """`measured` of a fresh interpreter."""
    program = [sys.executable, str(Path(__file__)), "--only", str(points)]
    done = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measured(points: int) -> dict[str, Any]:
    """Seconds and memory of planning, and what was found."""
    from sweeper.planning.feasible import feasible, memory_of_all
    from sweeper.planning.lattice import Lattice
    from sweeper.planning.plan import make_plan

    loaded = study(points)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    plan = make_plan(loaded, cpus=2)
    seconds = time.perf_counter() - began
    groups = plan.configs.groups if hasattr(plan.configs, "groups") else feasible(Lattice(loaded.study)).groups
    memory = time.perf_counter()
    needed = sum(int(memory_of_all(g.shapes.shape, g.settings, 8).sum()) for g in groups)
    depths, widths, _ = LATTICES[points]
    return {
        "points": plan.lattice.points,
        "feasible": plan.lattice.feasible,
        "combinations": depths * widths * len(KV_HEADS),
        "dropped": dict(plan.lattice.dropped),
        "seconds": round(seconds, 4),
        "memory_predicted_in_s": round(time.perf_counter() - memory, 4),
        "memory_predicted_bytes": needed,
        "beyond_interpreter_mib": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
    }


def study(points: int) -> Any:
    """The study as loaded: without YAML, whose reading isn't what is measured."""
    from sweeper.study.schema import Budget, LoadedStudy, ParamsBudget, Study, Trial

    study = Study(
        name="scale",
        model={"vocab_size": VOCABULARY, "head_dim": HEAD_DIM, "tie_embeddings": True},
        axes=axes(points),
        budget=Budget(params=ParamsBudget(target=TARGET, tolerance=TOLERANCE)),
        trial=Trial(tokens=10**9, seq_len=1024, batch_size=8),
    )
    return LoadedStudy(study=study, profile="full", file=Path("scale.yaml"), resolved={})


def brute_force(points: int) -> dict[str, Any]:
    """Every point of the grid by itself, a depth at a time; whether the plan has the same, in the same order."""
    from sweeper.planning.feasible import feasible
    from sweeper.planning.lattice import Lattice

    own = feasible(Lattice(study(points).study))
    grid = axes(points)
    width, kv, ffn = np.meshgrid(*(grid[name] for name in ("d_model", "n_kv_heads", "ffn_hidden")), indexing="ij")
    heads = (width // HEAD_DIM) % kv == 0
    kept, broken, outside = [], 0, 0
    for place, layers in enumerate(grid["n_layers"]):
        per_layer = 2 * width * width + 2 * width * kv * HEAD_DIM + 3 * width * ffn + 2 * width
        params = layers * per_layer + width + VOCABULARY * width
        near = np.abs(params - TARGET) <= TARGET * TOLERANCE
        kept.append(np.flatnonzero((heads & near).ravel()) + place * width.size)
        broken += int((~heads).sum())
        outside += int((heads & ~near).sum())
    points_kept = np.concatenate(kept)
    return {
        "points": len(grid["n_layers"]) * width.size,
        "feasible": len(points_kept),
        "same_points": bool(np.array_equal(own.points, points_kept)),
        "same_drops": own.tally.points == {"n_heads % n_kv_heads": broken, "budget.params": outside},
    }


if __name__ == "__main__":
    main()
