"""Files that are no studies, and how long a study takes to load."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_study_loader import DESIGN

from sweeper.errors import StudyFaults
from sweeper.study.loader import load


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


@pytest.mark.alone
def test_loading_is_quick_and_light(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(textwrap.dedent(DESIGN))
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from pathlib import Path; from sweeper.study.loader import load\n"
        f"load(Path({str(file)!r})); print(time.perf_counter() - start)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'numpy', 'optuna'} & set(sys.modules); assert not heavy, heavy"
    )
    ran = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        for _ in range(3)
    ]
    assert min(float(run.stdout) for run in ran) < 0.35
