"""The house: no room is crowded, nothing goes in circles, and nobody imports by a name that others have too."""

import re
import subprocess
from collections import Counter, defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[3]
MOST_FILES = 20


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("sweeper", cache_dir=None)


def tracked():
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.splitlines()]


def room(module):
    return module.split(".")[1] if "." in module else module


def test_no_folder_is_crowded_and_no_module_lies_loose():
    files = Counter(path.parent for path in tracked())
    assert {str(folder): n for folder, n in files.items() if n > MOST_FILES} == {}
    assert {path.name for path in tracked() if path.parent == Path("sweeper")} == {"__init__.py", "__main__.py"}


def test_no_file_imports_in_a_circle(graph):
    """What stands in functions and for type checkers counts too."""
    TopologicalSorter({one: graph.find_modules_directly_imported_by(one) for one in graph.modules}).prepare()


def test_no_room_imports_in_a_circle(graph):
    rooms = defaultdict(set)
    for module in graph.modules:
        rooms[room(module)] |= {room(one) for one in graph.find_modules_directly_imported_by(module)} - {room(module)}
    TopologicalSorter(rooms).prepare()
    assert len(rooms) > 10


def test_every_room_has_a_line_on_the_map():
    said = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {path.parent.name for path in tracked() if path.parts[0] == "sweeper" and len(path.parts) == 3}
    assert {name for name in rooms if f"`sweeper/{name}/`" not in said} == set()
    assert len(said.splitlines()) <= 100, "two screens"


def test_the_model_and_the_runners_are_imported_as_sweepers():
    wrong = re.compile(r"^\s*(from|import) (model|runners)\b", re.MULTILINE)
    assert [str(path) for path in tracked() if wrong.search((ROOT / path).read_bytes().decode(errors="replace"))] == []
