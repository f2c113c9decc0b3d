"""MLflow's own pages on a study, in a browser: sorted, filtered, compared, with question, answer, data and report."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ledger_lines import plain_lines
from mlflow_places import Server, running_server

from sweeper.commands.main import main
from sweeper.tracking.links import study_links, trials_link
from sweeper.tracking.store_uri import sqlite_uri

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, with SQLAlchemy 2.1

ROOT = Path(__file__).parents[3]
LEFT_OUT = "no Chromium (Debian: apt-get install chromium): MLflow's pages were not looked at"
PICTURES = os.environ.get("SWEEPER_PICTURES")
"""A folder for pictures of the pages, for people to look at."""
PATIENCE_MS = 120_000
Trial = tuple[str, float, float]
"""Its name, loss and speed."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the recorded study of six shapes at three seeds."""
    if shutil.which("chromium") is None:
        pytest.skip(LEFT_OUT)
    home = tmp_path_factory.mktemp("ui")
    folder = home / "runs" / "depth-vs-ffn" / "cpu"
    shutil.copytree(ROOT / "benchmarks" / "results" / "depth_vs_ffn_cpu", folder)
    frontier = json.loads((folder / "frontier.json").read_text())
    (folder / "frontier.json").write_text(json.dumps({**frontier, "answer": ["Of 6 shapes", "five are tied."]}))
    (folder / "report.html").write_text("<!doctype html><title>depth</title><p>the report")
    store = sqlite_uri(home / "mlflow.db")
    assert main(["sync", str(folder), "--to", store]) == 0
    with running_server(home, backend=store) as one:
        yield one


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1600, "height": 1000})
        opened.set_default_timeout(PATIENCE_MS)
        yield opened
        browser.close()


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    """The trials by the ledger, the lowest loss first."""
    found = []
    for record in plain_lines(ROOT / "benchmarks" / "results" / "depth_vs_ffn_cpu" / "ledger.jsonl"):
        if record["type"] == "final":
            shape = record["shape"]
            name = f"L{shape['n_layers']} f{shape['ffn_hidden']} · seed {record['seed']}"
            found.append((name, record["val_loss"], record["speed"]["tokens_per_s"]))
    return sorted(found, key=lambda one: one[1])


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/{name}.png")


def rows(page: Any, number: int) -> list[str]:
    """The names of the runs that are listed, once there are so many."""
    page.get_by_text(f"{number} matching runs").wait_for()
    found = page.get_by_role("link", name="· seed")
    found.nth(number - 1).wait_for()
    return found.all_text_contents()


def test_trials_are_sorted_and_filtered(server: Server, page: Any, trials: list[Trial]) -> None:
    links = study_links(server.url)
    assert list(links) == ["depth-vs-ffn · cpu"]
    page.goto(links["depth-vs-ffn · cpu"])
    assert rows(page, 18) == [name for name, _, _ in trials]
    picture(page, "mlflow_trials")
    above = sorted(speed for _, _, speed in trials)[9] * 0.9999
    fast = [name for name, _, speed in trials if speed > above]
    box = page.get_by_placeholder("metrics.rmse < 1")
    box.fill(f"metrics.tokens_per_s > {above}")
    box.press("Enter")
    assert rows(page, len(fast)) == fast
    picture(page, "mlflow_filtered")


def test_trials_are_compared_by_shape_loss_and_speed(server: Server, page: Any, trials: list[Trial]) -> None:
    page.goto(study_links(server.url)["depth-vs-ffn · cpu"])
    rows(page, 18)
    page.get_by_label("Select all runs").check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("Comparing 18 Runs").wait_for()
    axes = page.locator(".pcp-plot .y-axis .axis-title")
    axes.first.wait_for(state="attached")
    assert axes.all_text_contents()[:3] == ["ffn_hidden", "n_layers", "params.total"], "what differs, and no more"
    page.get_by_role("combobox").nth(1).click()
    for metric in ("val_loss", "tokens_per_s"):
        page.get_by_role("combobox").nth(1).fill(metric)
        page.locator(f".du-bois-light-select-item-option[title='{metric}']").click()
        axes.filter(has_text=metric).first.wait_for(state="attached")
    page.keyboard.press("Escape")
    assert {"val_loss", "tokens_per_s"} <= set(axes.all_text_contents())
    picture(page, "mlflow_parallel_coordinates")
    page.get_by_role("tab", name="Scatter Plot").click()
    for axis, metric in (("x", "tokens_per_s"), ("y", "val_loss")):
        page.locator(f"#{axis}-axis-selector").click()
        page.get_by_role("option", name=metric, exact=True).click()
        page.locator(f".{axis}title", has_text=metric).wait_for(state="attached")
    drawn = page.evaluate("[...document.querySelectorAll('.js-plotly-plot')].at(-1).data[0]")
    assert sorted(zip(drawn["y"], drawn["x"], strict=True)) == [(loss, speed) for _, loss, speed in trials]
    picture(page, "mlflow_loss_against_speed")


def test_curves_lie_over_one_another(server: Server, page: Any) -> None:
    page.goto("about:blank")
    page.goto(trials_link(server.url, "1", profile="cpu", charts=True))
    rows(page, 18)
    page.get_by_placeholder("Search metric charts").fill("train_loss")
    chart = page.locator("[data-testid=experiment-view-compare-runs-card]", has_text="train_loss").first
    chart.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelectorAll('.scatterlayer .trace').length >= 10")
    picture(page, "mlflow_curves")


def test_the_parent_says_question_answer_data_and_holds_the_report(server: Server, page: Any) -> None:
    page.goto("about:blank")
    page.goto(study_links(server.url)["depth-vs-ffn · cpu"])
    rows(page, 18)
    page.get_by_role("link", name="· seed").first.click()
    page.get_by_role("link", name="depth-vs-ffn · cpu").click()
    page.get_by_text("Of 6 shapes five are tied.").wait_for()
    text = page.inner_text("body")
    assert "deep with a narrow FFN, or shallow with a wide one?" in text
    assert "python-stdlib" in text
    picture(page, "mlflow_parent")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html").first.click()
    page.frame_locator("iframe").get_by_text("the report").wait_for()
    for name in ("frontier.json", "plan.json", "study.yaml", "frontier.png"):
        assert page.get_by_text(name).count() >= 1
    picture(page, "mlflow_artifacts")
