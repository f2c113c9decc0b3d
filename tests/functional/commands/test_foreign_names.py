"""Folders whose own files are called as ours are, as nanoGPT's `model.py` is: nothing is taken for anything else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_study import finals, folder, write_study

ROOT = Path(__file__).parents[3]
NAMES = ("model", "runners", "records", "values", "study", "ledger", "commands")


@pytest.fixture
def foreign(place):
    """A study among files of a user's own, which are no place to import from."""
    write_study(place, seeds=1, edit=lambda text: text.replace("[1, 2]", "[1]").replace("[32, 48]", "[32]"))
    for name in NAMES:
        (place / f"{name}.py").write_text(f"raise RuntimeError('{name}.py is the user\\'s own')\n")
    (place / "sweeper.yaml").write_text("{}\n")
    return place


def ran(place, *command, **environment):
    done = subprocess.run(
        command, cwd=place, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RuntimeError" not in done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel that `pip wheel` makes of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    source.mkdir()
    subprocess.run(f"git ls-files -z | xargs -0 cp --parents -P -t {source}", shell=True, cwd=ROOT, check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, source], check=True
    )
    (made,) = out.glob("*.whl")
    return made


def test_commands_and_the_import_work_there(foreign):
    python = sys.executable
    assert ran(foreign, python, "-m", "sweeper", "--version").startswith("sweeper ")
    assert ran(foreign, str(Path(python).with_name("sweeper")), "--version").startswith("sweeper ")
    assert ran(foreign, python, "-c", "import sweeper; print(sweeper.__version__)").strip()


def test_a_study_on_ray_trains_our_model_there(foreign):
    ran(foreign, sys.executable, "-m", "sweeper", "run", "tiny.yaml")
    assert [record["status"] for record in finals(foreign)] == ["ok"]


def test_a_wheel_holds_sweeper_alone_and_runs_there(foreign, wheel, tmp_path):
    names = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name.partition("-")[0] for name in names} == {"sweeper"}
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    inside = {"PYTHONPATH": str(site)}
    assert ran(foreign, sys.executable, "-P", "-c", "import sweeper; print(sweeper.__file__)", **inside).startswith(
        str(site)
    )
    ran(foreign, sys.executable, "-m", "sweeper", "run", "tiny.yaml", "--runner", "in-process", **inside)
    assert [record["status"] for record in finals(foreign)] == ["ok"]
    said = ran(
        foreign, sys.executable, "-m", "sweeper", "sync", str(folder(foreign)), "--to", "sqlite:///other.db", **inside
    )
    assert "trials are in sqlite:///other.db" in said
