"""`benchmarks/guide/guide_scaling.py` as a command, at its smallest settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "guide" / "guide_scaling.py"


def command(*arguments):
    # One thread: two that wait for each other crawl where other tests take the cores.
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--scale", "toy", "--axes", "n_layers", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip


@pytest.mark.campaign
def test_points_are_measured_once_each_in_a_process_of_its_own(tmp_path):
    out = tmp_path / "guide_scaling_cpu.json"
    first = command("--rounds", 1, "--out", out)
    assert first.returncode == 0, first.stdout + first.stderr
    record = json.loads(out.read_text())
    points = {name: step["rows"]["point"] for name, step in record["steps"].items()}
    assert set(points) == {"round 1: base", "round 1: n_layers 4"}
    small, large = points["round 1: base"], points["round 1: n_layers 4"]
    assert (small["shape"]["n_layers"], large["shape"]["n_layers"]) == (1, 4)
    assert large["memory_bytes"] > small["memory_bytes"]
    # Tensors at least, and neither the interpreter nor its libraries, which take 200 MB.
    for point in points.values():
        assert point["predicted_bytes"] < point["memory_bytes"] < 50e6 < point["before_bytes"]
        assert point["memory_bytes"] == point["peak_memory_bytes"] - point["before_bytes"]
        assert point["grad_accum_steps"] >= 2
        assert point["tokens_per_s"] > 0

    again = command("--rounds", 1, "--out", out)
    assert again.returncode == 0
    assert again.stdout.count("kept from an earlier run") == 2
    assert json.loads(out.read_text())["steps"] == record["steps"]

    other = command("--precision", "bf16", "--out", out)
    assert other.returncode == 2
    assert "other settings" in other.stderr
    assert "Traceback" not in other.stderr
