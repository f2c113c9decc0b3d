"""The tests of a CUDA device where there is none: each is collected, and fails at the first call that needs one."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GPU_TESTS = ROOT / "tests" / "gpu"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """All of them by two workers, with warnings as errors, as everywhere; a line of each."""
    folder = tmp_path_factory.mktemp("gpu")
    report = folder / "report.jsonl"
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "SWEEPER_REPORT": str(report),
        "TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    command = [sys.executable, "-m", "pytest", "-p", "cuda_faked", "-n", "2", "--dist", "load", "tests/gpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads(line) for line in report.read_text().splitlines()], done.stdout


def test_every_test_is_collected_and_fails_when_the_model_goes_to_the_device_and_not_before(ran):
    lines, printed = ran
    written = {
        node.name
        for path in GPU_TESTS.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert len(written) > 10
    assert {line["test"] for line in lines} == written
    for line in lines:
        assert line["outcome"] == "failed", line
        assert line["by"] == "cuda/__init__.py _lazy_init", line
        place, function = line["asked_by"].split()
        by_model = line["asked_by"] == "model/transformer.py build_model"
        assert by_model or (place[:4], function) == ("gpu/", line["test"]), line
    assert "warnings summary" not in printed


def test_one_worker_runs_them_all_however_many_there_are(ran):
    """Two would each keep a context on the device, and the device be in use for the other."""
    assert len({line["worker"] for line in ran[0]}) == 1
