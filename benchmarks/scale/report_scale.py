"""How `sweeper report` grows with the number of configs: seconds, memory and the size of its page.

    python benchmarks/scale/report_scale.py [--sizes 100 400 1600 3600] [--out FILE] [--keep DIR]

A made-up ledger of a lattice depth × FFN with two seeds of every config, each with a curve of 64 points; the command
runs as a user would start it, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import RESULTS, provenance

from sweeper.ledger.lines import event_record
from sweeper.planning.plan import make_plan
from sweeper.study.loader import load
from sweeper.values.events import Final, SpeedSummary
from sweeper.values.records import Execution, Job

SIZES = (100, 400, 1600, 3600)
STUDY = """\
name: many
question: Which of {n} shapes?
model: {{vocab_size: 1024, d_model: 128, head_dim: 32, n_kv_heads: 1, tie_embeddings: true}}
axes:
  n_layers: {{from: 1, to: {side}, step: 1}}
  ffn_hidden: {{from: 64, to: {widest}, step: 64}}
trial:
  {{data: python-stdlib, tokens: 500k, seq_len: 256, tokens_per_step: 1024, batch_size: 4, precision: fp32, seeds: 2}}
"""
LIMITS = {"seconds": 8.0, "megabytes": 400.0, "page_megabytes": 5.0}
"""3,600 configs against 400 in time; memory and page of 3,600."""


def run_folder(root: Path, n: int) -> None:
    """A run folder of `n` configs, a square number, as a finished run leaves it."""
    side = math.isqrt(n)
    root.mkdir(parents=True)
    (root / "study.yaml").write_text(STUDY.format(n=n, side=side, widest=64 * side))
    configs = [planned.config for planned in make_plan(load(root / "study.yaml"), cpus=2).configs]
    assert len(configs) == n
    source = np.random.default_rng(n)
    with (root / "ledger.jsonl").open("w") as ledger:
        for seed in range(2):
            for config in configs:
                ledger.write(json.dumps(_line(config, seed, source)) + "\n")


def _line(config: Any, seed: int, source: np.random.Generator) -> dict[str, Any]:
    shape = config.shape
    loss = 4 - 0.2 * math.log(shape.params.total / 1e5) + 0.02 * shape.n_layers / 10 + source.normal(scale=0.02)
    speed = 3e8 / shape.train_flops_per_token(256) * 1e3 * math.exp(source.normal(scale=0.02))
    tokens = config.recipe.tokens
    event = Final(
        job=Job(kind="train", config=config, execution=Execution(batch_size=4, compile=True), seed=seed),
        status="ok",
        val_loss=loss,
        val_bpb=loss / math.log(2) / 3,
        curve=tuple((tokens * k // 64, loss + 3 * math.exp(-k / 9)) for k in range(1, 65)),
        tokens=tokens,
        seconds={"set_up": 1.0, "compile": 4.0, "train": tokens / speed, "evaluate": 1.0},
        speed=SpeedSummary(tokens_per_s=speed, low=speed, high=speed, windows=(speed,) * 3, step_ms=1e6 / speed),
        peak_memory_bytes=400 * 2**20,
        environment={
            "device": "a CPU", "driver": None, "versions": {"torch": "2.13.0"}, "data_fingerprint": "f00d",
        },
    )  # fmt: skip
    return {**event_record(event), "time": "2026-01-01T00:00:00Z"}


def reported(root: Path) -> dict[str, float]:
    """Seconds, peak memory and page of `sweeper report` on the folder."""
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import resource, sys; from sweeper.commands.main import main; code = main(sys.argv[1:]); "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    ran = subprocess.run([sys.executable, "-c", code, "report", str(root)], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "megabytes": float(ran.stderr.split()[-1]) / 1024,
        "page_megabytes": (root / "report.html").stat().st_size / 1e6,
        "frontier_json_megabytes": (root / "frontier.json").stat().st_size / 1e6,
    }


def main() -> int:
    """Measure each size; the exit code is 1 where a limit isn't met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--keep", type=Path, help="where run folders are made, and stay")
    parser.add_argument("--out", type=Path, default=RESULTS / "report_scale.json")
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for n in given.sizes:
            root = (given.keep or Path(temporary)) / str(n) / "full"
            if not root.exists():
                run_folder(root, n)
            found[n] = reported(root)
            print(n, ", ".join(f"{name} {value:.2f}" for name, value in found[n].items()), flush=True)
    given.out.write_text(json.dumps({**provenance("numpy"), "limits": LIMITS, "found": found}, indent=2) + "\n")
    if not {400, 3600} <= found.keys():
        return 0
    met = found[3600]["cpu_seconds"] <= LIMITS["seconds"] * found[400]["cpu_seconds"]
    return 0 if met and all(found[3600][name] <= LIMITS[name] for name in ("megabytes", "page_megabytes")) else 1


if __name__ == "__main__":
    sys.exit(main())
