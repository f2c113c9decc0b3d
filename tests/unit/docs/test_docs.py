"""What the docs show is what the program does: links, commands, the README's study and its recorded answer."""

import re
import shutil
from pathlib import Path

import pytest

from sweeper.commands.main import main

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
README = (ROOT / "README.md").read_text()
COMMANDS = (ROOT / "docs" / "commands.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not re.match(r"[a-z]+://", target):
            assert (page.parent / target).exists(), target


def block(text, after, kind=""):
    """The first fenced block behind `after`."""
    found = re.search(rf"```{kind}\n(.*?)```", text[text.index(after) :], re.DOTALL)
    assert found, after
    return found[1]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("first.yaml").write_text(block(README, "## A study in ten lines", "yaml"))
    return tmp_path


def said(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return "".join(line.rstrip() + "\n" for line in capsys.readouterr().out.splitlines())


def trimmed(text):
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def test_the_readmes_study_has_ten_lines_and_plans_as_shown(study, capsys):
    assert len(Path("first.yaml").read_text().splitlines()) <= 10
    shown = trimmed(block(COMMANDS, "`sweeper plan first.yaml`"))
    # Predicted times differ between machines; shapes and counts don't.
    times = re.compile(r"\s*[\d.]+ (s|min|h)$|, about .*$", re.MULTILINE)
    assert times.sub("", shown).split() == times.sub("", said(capsys, "plan", "first.yaml")).split()


def test_the_readmes_answer_is_the_recorded_runs(study, capsys):
    recorded = study / "first"
    shutil.copytree(ROOT / "benchmarks" / "results" / "first", recorded)
    lines = said(capsys, "report", recorded).splitlines()
    answer = "\n".join(line for line in lines if not line.startswith("report: "))
    assert answer.strip() == trimmed(block(README, "`sweeper run first.yaml`")).strip()
    assert (recorded / "study.yaml").read_text()


def test_the_readmes_shape_is_what_the_command_prints(capsys):
    shown = block(COMMANDS, "## shape", "console")
    command, _, output = shown.partition("\n")
    assert said(capsys, *command.removeprefix("$ sweeper ").split()) == output


def test_the_readmes_recommendation_is_that_of_the_recorded_study(study, capsys):
    shown = block(COMMANDS, "`recommend` answers", "console")
    command, _, output = shown.partition("\n")
    words = [str(ROOT / word) if word.startswith("benchmarks/") else word for word in command.split()[2:]]
    assert said(capsys, *words).startswith(output)
    assert "To train L2 f784" in output


def test_every_command_is_in_the_readme_and_every_one_there_exists(capsys):
    assert main(["--help"]) == 0
    listed = re.findall(r"^    (\w+)(?: {2,}|$)", capsys.readouterr().out, re.MULTILINE)
    described = re.findall(r"^    sweeper (\w+)", README[README.index("## Commands") :], re.MULTILINE)
    assert listed == described
    assert len(listed) >= 9


def test_the_changelog_names_this_version_or_is_unreleased():
    assert re.search(r"^## Unreleased$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_studies_readme_lists_every_study_with_its_real_size():
    from sweeper.planning.plan import make_plan
    from sweeper.study.loader import load

    page = (ROOT / "studies" / "README.md").read_text()
    for path in sorted((ROOT / "studies").glob("*.yaml")):
        sizes = []
        for profile in ("full", "cpu"):
            plan = make_plan(load(path, profile=profile), cpus=2)
            sizes.append(f"{plan.totals.configs} × {plan.totals.seeds}")
        row = re.search(rf"^\| `{path.stem}` \|.*\| {sizes[0]} \| {sizes[1]} \|$", page, re.MULTILINE)
        assert row, (path.stem, sizes)


def test_the_readme_is_read_in_a_minute():
    assert len(README.splitlines()) < 150


def test_nothing_shown_is_a_placeholder():
    assert "<!--" not in README
    assert README.startswith("# sweeper\n")
