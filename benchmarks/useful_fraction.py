"""How much of the time that devices are held goes into trials' own steps: sweeper against hand-written Ray scripts.

    python benchmarks/useful_fraction.py [--seconds S] [--out FILE]

Eight shapes of equal training FLOPs, S seconds each on average (a short run of the same study says how many FLOPs that
is on this machine): by `sweeper run`, by a Ray Tune script that compiles whole models and by one that compiles block by
block (`benchmarks/ray_script.py`), one after another, first with empty compile caches, then with what that left behind.
Useful are scheduled optimizer steps and evaluation; held is the whole wall-clock of the command, from start to end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from provenance import RESULTS, ROOT, provenance

CALIBRATED_FLOPS = 3e11
"""Of the trials that say how fast this machine is, a few seconds each."""

STUDY = """\
name: useful-fraction
model: {{vocab_size: 256, head_dim: 32, n_kv_heads: 1, tie_embeddings: true}}
shapes:
  - {{n_layers: 2, d_model: 96, ffn_hidden: 256}}
  - {{n_layers: 4, d_model: 96, ffn_hidden: 256}}
  - {{n_layers: 6, d_model: 96, ffn_hidden: 192}}
  - {{n_layers: 8, d_model: 96, ffn_hidden: 128}}
  - {{n_layers: 2, d_model: 160, ffn_hidden: 432}}
  - {{n_layers: 3, d_model: 160, ffn_hidden: 320}}
  - {{n_layers: 4, d_model: 128, ffn_hidden: 352}}
  - {{n_layers: 1, d_model: 224, ffn_hidden: 608}}
trial:
  data: python-stdlib
  flops: {flops:.3e}
  seq_len: 256
  tokens_per_step: 2048
  batch_size: 8
  precision: fp32
  eval_tokens: 131072
resources: {{gpus: 0}}
"""
SCRIPTS = {"ray script, whole-model compile": "whole", "ray script, per-block compile": "blocks"}


def main() -> None:
    """Run all three cold and warm; print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "useful_fraction.json")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**provenance("torch", "ray", "mlflow"), "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        result["flops"] = arguments.seconds * calibrated(Path(folder) / "calibration")
        setting = prepare(Path(folder), flops=result["flops"])
        for state in ("cold", "warm"):
            runs = result["runs"][state] = {}
            for name in ("sweeper", *SCRIPTS):
                run = partial(run_script, setting, SCRIPTS[name]) if name in SCRIPTS else partial(run_sweeper, state)
                one = runs[name] = run(folder=Path(folder))
                one["wall_to_sweeper"] = round(one["wall_s"] / runs["sweeper"]["wall_s"], 3)
                print(state, name, {key: value for key, value in one.items() if key != "trials"}, flush=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def calibrated(folder: Path) -> float:
    """Training FLOP/s of the study's shapes here, once warm: the harmonic mean, as trials have equal FLOPs."""
    folder.mkdir()
    prepare(folder, flops=CALIBRATED_FLOPS)
    trials = run_sweeper("calibration", folder=folder)["trials"]
    return CALIBRATED_FLOPS * len(trials) / sum(one["tokens"] / one["tokens_per_s"] for one in trials)


def prepare(folder: Path, *, flops: float) -> Path:
    """Write the study; make its data; write the same trials for the scripts. Returns the scripts' file."""
    from sweeper.runners.data.cache import tokens_entry
    from sweeper.runners.data.dataset import open_data
    from sweeper.runners.data.tokens import token_dtype

    (folder / "study.yaml").write_text(STUDY.format(flops=flops))
    dataset = open_data("python-stdlib", None, 256)
    entry = tokens_entry(dataset.fingerprint, 256)
    program = [sys.executable, "-m", "sweeper", "plan", str(folder / "study.yaml"), "--json"]
    plan = json.loads(subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    recipe = plan["configs"][0]["recipe"]
    jobs = [{"shape": one["shape"], "steps": one["recipe"]["steps"]} for one in plan["configs"]]
    setting = {
        "jobs": jobs,
        "cpus": len(os.sched_getaffinity(0)),
        "seq_len": recipe["seq_len"],
        "batch_size": recipe["tokens_per_step"] // recipe["seq_len"],
        "eval_tokens": recipe["eval_tokens"],
        "lr": recipe["optimizer"]["lr"],
        "train": str(entry / "train.bin"),
        "held_out": str(entry / "held_out.bin"),
        "dtype": token_dtype(256).str,
        "storage": str(folder / "ray"),
    }
    path = folder / "jobs.json"
    path.write_text(json.dumps(setting))
    return path


def run_sweeper(state: str, *, folder: Path) -> dict[str, Any]:
    """`sweeper run` of the study, into a folder of its own."""
    out = folder / state
    program = [sys.executable, "-m", "sweeper", "run", str(folder / "study.yaml"), "--out", str(out)]
    wall = run(program, cache=folder / "sweeper")[0]
    lines = (out / "useful-fraction" / "full" / "ledger.jsonl").read_text().splitlines()
    finals = [record for record in map(json.loads, lines) if record["type"] == "final"]
    if [record["status"] for record in finals] != ["ok"] * 8:
        raise RuntimeError(f"not all trials are ok: {[record['status'] for record in finals]}")
    trials = [
        {
            "shape": record["shape"],
            "val_loss": record["val_loss"],
            "useful_s": record["seconds"]["train"] + record["seconds"]["evaluate"],
            "seconds": record["seconds"],
            "tokens": record["tokens"],
            "tokens_per_s": record["speed"]["tokens_per_s"],
        }
        for record in finals
    ]
    return summary(wall, trials)


def run_script(setting: Path, how: str, *, folder: Path) -> dict[str, Any]:
    """The same trials by the hand-written script."""
    program = [sys.executable, str(ROOT / "benchmarks" / "ray_script.py"), str(setting), how]
    wall, said = run(program, cache=folder / how)
    return summary(wall, json.loads(said.splitlines()[-1])["trials"])


def run(program: list[str], *, cache: Path) -> tuple[float, str]:
    """Wall-clock seconds of a process and what it printed. Its compile cache is its own, and its temporary folder.

    (Inductor keeps precompiled C++ headers in the latter, whatever folder its cache was given.)
    """
    temporary = cache / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "compiled"),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONWARNINGS": "ignore",
    }
    start = time.perf_counter()
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program}: {done.stderr[-3000:]}")
    return time.perf_counter() - start, done.stdout


def summary(wall: float, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Wall-clock, useful seconds, their ratio."""
    useful = sum(one["useful_s"] for one in trials)
    return {
        "wall_s": round(wall, 2),
        "useful_s": round(useful, 2),
        "useful_fraction": round(useful / wall, 4),
        "trials": trials,
    }


if __name__ == "__main__":
    main()
