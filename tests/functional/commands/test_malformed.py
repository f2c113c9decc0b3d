"""`sweeper check` on malformed studies: exit code 2, each fault with its place, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.commands.main import main

FOLDER = Path(__file__).parents[2] / "malformed"
STUDIES = sorted(FOLDER.glob("*.yaml"))


def assert_reported(study: Path, said: str) -> None:
    assert "Traceback" not in said
    for line in study.with_suffix(".expected").read_text(encoding="utf-8").splitlines():
        place, _, _ = line.partition(": ")
        assert f"{study}:{place}: " in said


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.stem)
def test_check_in_this_process(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(study)]) == 2
    out, err = capsys.readouterr()
    assert_reported(study, out + err)


@pytest.mark.parametrize("name", ["many_kinds", "not_utf8"])
def test_check_as_a_process(name: str) -> None:
    study = FOLDER / f"{name}.yaml"
    command = [sys.executable, "-m", "sweeper", "check", str(study)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert_reported(study, ran.stdout + ran.stderr)


@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_study_that_is_not_there(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path / "none.yaml")]) == 2
    assert f"{tmp_path / 'none.yaml'}:1:1: no such file" in capsys.readouterr().err
