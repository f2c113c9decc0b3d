"""Files that are no studies, and what loading a study imports."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_study_loader import DESIGN

from sweeper.study.loader import load
from sweeper.values.errors import StudyFaults


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("depth.yaml").write_text("name: x\n")
    Path("folder").mkdir()
    Path("long.yaml").write_text("x" * 300_000)
    Path("longer.yaml").write_text("é" * 2_000_000)
    for path, said in (
        ("dept.yaml", "dept.yaml:1:1: no such file; did you mean depth.yaml?"),
        ("folder", "folder:1:1: a folder, not a study; name a file in it"),
        ("a\0b", "a\0b:1:1: can't be read (embedded null byte); name a YAML file that can"),
        ("long.yaml", "long.yaml:1:1: more than 262144 characters; a study is short"),
        ("longer.yaml", "longer.yaml:1:1: more than 262144 characters; a study is short"),
        ("depth.yaml/x", "depth.yaml/x:1:1: can't be read (Not a directory); name a YAML file that can"),
    ):
        with pytest.raises(StudyFaults) as caught:
            load(Path(path))
        assert str(caught.value) == said


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    """How long it takes, `tests/campaign/test_quiet_machine.py` measures."""
    file = tmp_path / "study.yaml"
    file.write_text(textwrap.dedent(DESIGN))
    code = (
        "import sys; from pathlib import Path; from sweeper.study.loader import load\n"
        f"load(Path({str(file)!r}))\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'numpy', 'optuna'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
