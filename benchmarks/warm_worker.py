"""Twenty shapes in one process: what a worker keeps of each, and whether running out of memory harms the next trial.

    python benchmarks/warm_worker.py [--shapes N] [--warm] [--out FILE]

Every shape is trained compiled, from an empty compile cache unless `--warm`. In the middle a model is asked for that no
memory holds; the speed of one shape is probed just before it and just after it, and twice more for the noise.
Writes one JSON object with its provenance.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.provenance import RESULTS, provenance  # noqa: E402
from sweeper.model.shape import derive  # noqa: E402
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe  # noqa: E402

STEPS = 30
MB = 1e6


def make_job(kind: str = "train", **shape: int) -> Job:
    """A job of 1,024 tokens a step on python-stdlib, in bytes."""
    fields = {"head_dim": 32, "n_kv_heads": 1, "vocab_size": 256, "tie_embeddings": True, **shape}
    recipe = Recipe(
        data="python-stdlib",
        steps=STEPS,
        seq_len=256,
        tokens_per_step=1024,
        precision="fp32",
        optimizer=Optimizer(lr=1e-3),
        eval_tokens=8192,
    )
    return Job(
        kind=kind,
        config=Config(shape=derive(fields), recipe=recipe),
        execution=Execution(batch_size=4, compile=True),
    )


def shapes(count: int) -> list[dict[str, int]]:
    """As many different shapes: four widths, and ever another FFN and depth."""
    return [
        {"n_layers": 1 + n % 5, "d_model": 64 + 32 * (n % 4), "ffn_hidden": 128 + 16 * (n // 4) + 64 * (n % 4)}
        for n in range(count)
    ]


def run(job: Job) -> tuple[Any, float]:
    """A job's outcome, and the seconds from its start until its process is ready for the next."""
    from sweeper.runners.training.trial import run_job

    start = time.perf_counter()
    *_, outcome = run_job(job)
    return outcome, time.perf_counter() - start


def row(job: Job) -> dict[str, Any]:
    """What one trained shape cost and left."""
    from sweeper.runners.device.memory import resident_bytes

    outcome, seconds = run(job)
    environment = outcome.environment
    return {
        "shape": {name: getattr(job.config.shape, name) for name in ("n_layers", "d_model", "ffn_hidden")},
        "status": outcome.status,
        "seconds": outcome.seconds,
        "held_seconds": round(seconds, 3),
        "graph_breaks": environment["graph_breaks"],
        "compiled_graphs": environment["compiled_graphs"],
        "tensor_bytes_before": environment["allocated_bytes_before"],
        "tensor_bytes_after": environment["allocated_bytes_after"],
        "resident_bytes_after": resident_bytes(),
        "notes": list(outcome.notes),
    }


def probe(job: Job) -> dict[str, Any]:
    """A shape's speed."""
    outcome, _ = run(job)
    return {"tokens_per_s": outcome.speed.tokens_per_s, "windows": outcome.speed.windows}


def out_of_memory(neighbour: Job) -> dict[str, Any]:
    """The speed of `neighbour` twice before and twice after a model whose largest matrix needs 35 TB."""
    monster = make_job("train", n_layers=1, d_model=2**21, head_dim=2**20, ffn_hidden=2**21)
    before = [probe(neighbour) for _ in range(2)]
    outcome, _ = run(monster)
    after = [probe(neighbour) for _ in range(2)]
    speeds = [one["tokens_per_s"] for one in (*before, *after)]
    return {
        "status": outcome.status,
        "boundary": outcome.environment["out_of_memory"],
        "before": before,
        "after": after,
        "ratio_just_after_to_just_before": speeds[2] / speeds[1],
        "ratio_of_means": statistics.fmean(speeds[2:]) / statistics.fmean(speeds[:2]),
        "ratios_without_out_of_memory_between": [speeds[1] / speeds[0], speeds[3] / speeds[2]],
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that the worker is judged by."""
    second, last = rows[1], rows[-1]
    grown = last["resident_bytes_after"] - second["resident_bytes_after"]
    return {
        "shapes": len(rows),
        "statuses": sorted({one["status"] for one in rows}),
        "graph_breaks": sum(one["graph_breaks"] for one in rows),
        "compiled_graphs_each": sorted({one["compiled_graphs"] for one in rows}),
        "tensor_bytes_after_second": second["tensor_bytes_after"],
        "tensor_bytes_after_last": last["tensor_bytes_after"],
        "resident_mb_after_first": rows[0]["resident_bytes_after"] / MB,
        "resident_mb_grown_per_shape": grown / MB / (len(rows) - 2),
        "set_up_s": {"first": rows[0]["seconds"]["set_up"], "later": _median(rows, "set_up")},
        "compile_s": {"first": rows[0]["seconds"]["compile"], "later": _median(rows, "compile")},
    }


def _median(rows: list[dict[str, Any]], part: str) -> float:
    return statistics.median(one["seconds"][part] for one in rows[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=20, help="3 at least")
    parser.add_argument("--warm", action="store_true", help="use the user's compile cache")
    parser.add_argument("--out", type=Path, default=RESULTS / "warm_worker.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        if not arguments.warm:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        rows: list[dict[str, Any]] = []
        result: dict[str, Any] = {**provenance("sweeper", "torch"), "cache": "warm" if arguments.warm else "cold"}
        planned = shapes(arguments.shapes)
        for n, shape in enumerate(planned):
            if n == len(planned) // 2:
                result["out_of_memory"] = out_of_memory(make_job("speed", **planned[n - 1]))
            rows.append(row(make_job(**shape)))
            print(n, rows[-1], flush=True)
        result |= {"summary": summary(rows), "rows": rows}
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=2))


if __name__ == "__main__":
    main()
