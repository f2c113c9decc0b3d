"""Studies in folders whose names mean something in a URL: nothing is written elsewhere, and all is found again."""

import pytest
from tiny_study import finals, mlflow_runs, sweeper, write_study

NAMES = ("q?x My%20Project #1 é@home", "x" * 120 + "/" + "y" * 80)


@pytest.fixture(params=NAMES)
def odd_place(request, place):
    """`place` in a folder of such a name."""
    folder = place / request.param
    folder.mkdir(parents=True)
    for name in ("text", "runs"):
        (place / name).rename(folder / name)
    return folder


def test_a_study_and_its_store_stay_in_their_folder(place, odd_place):
    before = set(place.rglob("*"))
    write_study(odd_place, tokens="2k", seeds=1)
    sweeper(odd_place, "run", "tiny.yaml", "--runner", "in-process")
    assert len(finals(odd_place)) > 1
    _, parents, children = mlflow_runs(odd_place)
    assert len(parents) == 1
    assert len(children) == len(finals(odd_place))
    assert "trials are in sqlite" in sweeper(odd_place, "sync", "runs/tiny/full")
    assert "report: runs/tiny/full/report.html" in sweeper(odd_place, "report", "tiny.yaml")
    made = set(place.rglob("*")) - before
    assert [path for path in made if odd_place not in path.parents] == []
    assert (odd_place / "runs" / "mlartifacts" / "tiny").is_dir()
