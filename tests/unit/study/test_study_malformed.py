"""Each study under tests/malformed shows exactly the faults of its `.expected` file, at their places."""

from pathlib import Path

import pytest

from sweeper.study.loader import load
from sweeper.values.errors import StudyFaults

FOLDER = Path(__file__).parents[2] / "malformed"
STUDIES = sorted(FOLDER.glob("*.yaml"))


def expected_faults(study: Path) -> list[tuple[str, str]]:
    """(line:column, path and a part of the message) of each fault."""
    lines = study.with_suffix(".expected").read_text(encoding="utf-8").splitlines()
    return sorted((place, said) for place, _, said in (line.partition(": ") for line in lines))


def test_there_are_enough_studies_and_each_has_its_expectation() -> None:
    assert len(STUDIES) >= 45
    assert [study.with_suffix(".expected") for study in STUDIES] == sorted(FOLDER.glob("*.expected"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.stem)
@pytest.mark.parametrize("has_gpu", [False, True], ids=["cpu", "gpu"])
def test_exactly_these_faults(study: Path, has_gpu: bool) -> None:
    with pytest.raises(StudyFaults) as caught:
        load(study, has_gpu=has_gpu)
    shown = [str(fault) for fault in caught.value.faults]
    assert all(line.startswith(f"{study}:") for line in shown)
    found = [line.removeprefix(f"{study}:") for line in shown]
    wanted = expected_faults(study)
    assert wanted
    assert len(found) == len(wanted), "\n".join(found)
    unmatched = list(found)
    for place, said in wanted:
        path, _, fragment = said.partition(": ") if ": " in said else ("", "", said)
        start = f"{place}: {path}: " if path else f"{place}: "
        hits = [line for line in unmatched if line.startswith(start) and fragment in line]
        assert hits, f"expected {place}: {said}\nfound\n" + "\n".join(unmatched)
        unmatched.remove(hits[0])
