"""How long the commands without a trial take, as whole processes, and how planning grows with the lattice.

    python benchmarks/plan_speed.py [--runs N] [--out FILE]

Writes one JSON object with its provenance; timings of a shared machine are to be read as ratios.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "studies" / "depth_vs_ffn.yaml"
LATTICE = """\
name: large
model: {{vocab_size: 256, head_dim: 16, n_kv_heads: 1, tie_embeddings: true}}
axes:
  n_layers: {{from: 1, to: {layers}, step: 1}}
  d_model: {{from: 16, to: 1600, step: 16}}
  ffn_hidden: {{from: 16, to: 1600, step: 16}}
budget:
  params: {{target: 3M, tolerance: 2%}}
trial: {{data: python-stdlib, tokens: 1M, seq_len: 256, batch_size: 4, precision: fp32}}
"""


def seconds(command, runs):
    """Wall-clock seconds of `runs` runs of a process, after one that isn't counted."""
    taken = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    kept = taken[1:]
    return {"median": statistics.median(kept), "low": min(kept), "high": max(kept), "runs": runs}


def provenance(command):
    """When, where and with what."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or None,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
        "load_average": os.getloadavg()[0],
        "versions": {
            "python": platform.python_version(),
            "sweeper": version("sweeper"),
            "pydantic": version("pydantic"),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "plan_speed.json")
    arguments = parser.parse_args()
    program = [sys.executable, "-m", "sweeper"]
    result = {
        **provenance("python benchmarks/plan_speed.py"),
        "process_seconds": {
            "--help": seconds([*program, "--help"], arguments.runs),
            "check": seconds([*program, "check", str(STUDY)], arguments.runs),
            "plan --profile full --json": seconds(
                [*program, "plan", str(STUDY), "--profile", "full", "--json"], arguments.runs
            ),
        },
        "lattice_points": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for layers in (1, 10):
            study = Path(folder) / f"{layers}.yaml"
            study.write_text(LATTICE.format(layers=layers))
            result["lattice_points"][str(layers * 100 * 100)] = seconds([*program, "plan", str(study), "--json"], 3)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
