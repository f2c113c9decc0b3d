"""`sweeper doctor` on the machine that runs the tests, and probes that misbehave."""

import json
import os
import sys

import pytest

from sweeper.commands.main import main
from sweeper.runners.device import probes


def test_this_machine_can_run_studies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["can_run"]
    states = {finding["name"]: finding["state"] for finding in answer["findings"]}
    for name in (
        "Python",
        "torch",
        "packages",
        "torchao",
        "torch.compile",
        "Ray",
        "MLflow",
        "embedded data",
        "results",
    ):
        assert states[name] == "ok", name
    assert not list(tmp_path.iterdir())


def test_without_torch_no_study_runs(tmp_path, monkeypatch, capsys):
    broken = tmp_path / "torch"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "✗ torch ImportError: libcudart.so.13: cannot open shared object file → " in said
    assert "Studies don't run here: mend torch first." in said


def test_a_compiler_that_is_missing_is_found_out(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert "error" in probes.run("compile")


@pytest.mark.parametrize(
    ("code", "timeout_s", "said"),
    [
        ("import time; time.sleep(1e6)", 3, "no answer within 3 s"),
        ("import os; os.abort()", 1e6, "ended with code -6"),
        ("raise SystemExit(3)", 1e6, "SystemExit: 3"),
        ("print('loud'); raise ValueError('first\\nsecond')", 1e6, "ValueError: first"),
    ],
)
def test_a_probe_that_misbehaves_is_a_fact(tmp_path, monkeypatch, code, timeout_s, said):
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    assert probes.run("torchao", timeout_s=timeout_s)["error"].startswith(said)
