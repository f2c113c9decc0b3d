"""What GNU OpenMP's busy waiting costs and brings: training speed alone, and with a second training beside it.

    python benchmarks/kernels/spin_count.py [--repeats N] [--out FILE]

Values of GOMP_SPINCOUNT are interleaved within a repeat; "default" leaves it unset. Two cores or more.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plan_speed import ROOT, provenance

VALUES = ("default", "10000", "20000", "50000")
TRIAL = """
from sweeper.model.shape import derive
from sweeper.runners.training.trial import run_job
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe
shape = derive(dict(n_layers=3, d_model=96, head_dim=32, n_kv_heads=1, ffn_hidden=496, vocab_size=256,
                    tie_embeddings=True))
recipe = Recipe(data="python-stdlib", steps=STEPS, seq_len=256, tokens_per_step=1024, precision="fp32",
                optimizer=Optimizer(), eval_tokens=1024)
job = Job(kind="train", config=Config(shape=shape, recipe=recipe), execution=Execution(batch_size=4, compile=True))
*_, final = run_job(job)
print(final.speed.tokens_per_s)
"""


def start(value, steps):
    environment = dict(os.environ)
    environment.pop("GOMP_SPINCOUNT", None)
    if value != "default":
        environment["GOMP_SPINCOUNT"] = value
    script = TRIAL.replace("STEPS", str(steps))
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def speed(process):
    output, _ = process.communicate()
    return float(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "spin_count.json")
    arguments = parser.parse_args()
    speed(start("default", 20))
    alone, beside = {value: [] for value in VALUES}, {value: [] for value in VALUES}
    for _ in range(arguments.repeats):
        for value in VALUES:
            alone[value].append(speed(start(value, 150)))
    for value in VALUES:
        beside[value] += [speed(process) for process in [start(value, 30), start(value, 30)]]
    result = {
        **provenance("python benchmarks/kernels/spin_count.py"),
        "unit": "tokens/s",
        "alone": {value: {"median": statistics.median(kept), "all": kept} for value, kept in alone.items()},
        "two_at_once": beside,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
