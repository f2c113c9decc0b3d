"""The report's page in a browser: hovering, clicking, sorting, filtering, and that it asks nobody for anything.

Chromium comes from the system's packages; without one these tests are left out, and pytest's summary says so.
"""

from __future__ import annotations

import re
import shutil

import page_fakes
import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: the page isn't seen in a browser"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the report's page isn't seen in a browser"),
]
HOSTILE = (
    "</script><script>document.title='hacked'</script> \"quote\" 'x' "
    "<img src=x onerror=\"document.title='hacked'\"> &amp;"
)


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages by name, each made once."""
    folder = tmp_path_factory.mktemp("pages")
    makers = {
        "depth": page_fakes.depth_study,
        "precisions": page_fakes.precisions_study,
        "hostile": lambda: page_fakes.hostile_study(HOSTILE),
        "many": lambda: page_fakes.page(*page_fakes.many_trials(), seeds=4),
    }

    def of(name):
        path = folder / f"{name}.html"
        if not path.exists():
            path.write_text(makers[name](), encoding="utf-8")
        return path

    return of


@pytest.fixture
def opened(chromium, pages):
    """Opens a page, and at the end has seen no request but for the file, and no complaint in the console."""
    contexts, complaints, asked = [], [], []

    def open_page(name, *, width=1200, height=900, **options):
        # A page that still glides from one click when the next one comes may end where neither meant.
        options.setdefault("reduced_motion", "reduce")
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.route(re.compile("^(?!file:)"), lambda route: route.abort())
        page.goto(pages(name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith("file:")] == []
    assert len(asked) == len(contexts), "one file each"


def column(page, table, name):
    """The texts of a column, from top to bottom, without hidden rows."""
    return page.evaluate(
        """([name, table]) => {
          const heads = [...document.querySelector(table).tHead.rows[0].cells];
          const at = heads.find((cell) => cell.textContent === name).cellIndex;
          const rows = [...document.querySelector(table).tBodies[0].rows].filter((row) => !row.hidden);
          return rows.map((row) => row.cells[at].textContent);
        }""",
        [name, table],
    )


def head(page, name):
    return page.locator("#trials th").filter(has_text=re.compile(f"^{re.escape(name)}$"))


def label_of(page, point):
    return page.evaluate(
        "(key) => JSON.parse(document.getElementById('page-data').textContent).points[key].title", point
    )


def is_in_view(page, selector):
    page.wait_for_function(
        """(selector) => {
          const box = document.querySelector(selector).getBoundingClientRect();
          return box.top < innerHeight && box.bottom > 0 && box.left < innerWidth && box.right > 0;
        }""",
        arg=selector,
    )
    return True


def test_a_point_under_the_pointer_shows_its_figures(opened):
    page = opened("depth")
    assert page.locator("#card").is_hidden()
    page.locator("#point-0-0").hover()
    card = page.locator("#card").inner_text()
    heads = page.locator("table.sortable").first.locator("th").all_inner_texts()
    first = dict(zip(heads, page.locator("tr[data-config]").first.locator("td").all_inner_texts(), strict=True))
    assert card.splitlines()[0] == first["config"] == "L1 f1360"
    for name in ("loss, nats/token", "tokens/s", "params", "standing", "P(frontier)"):
        assert first[name] in card
    assert "0, 1, 2" in card, "the seeds"
    page.mouse.move(2, 2)
    assert page.locator("#card").is_hidden()


def test_a_keyboard_gets_to_every_point_and_from_there_to_its_curves(opened):
    page = opened("depth")
    page.locator("#point-0-0").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#card strong").inner_text() == label_of(page, "0-1"), (
        "points stand fastest first, so left is on"
    )
    assert page.evaluate("document.activeElement.id") == "point-0-1"
    assert page.locator("#frontier [tabindex='0']").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#card").is_hidden()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "viewer"
    assert page.locator("#key-of").inner_text() == label_of(page, "0-1")


def test_a_click_leads_to_the_curves_and_marks_the_rows(opened):
    page = opened("depth")
    for number in (2, 4):
        page.locator(f"#point-0-{number}").click()
        label = label_of(page, f"0-{number}")
        assert is_in_view(page, "#viewer")
        assert page.locator("#curve-of option:checked").inner_text() == label
        assert page.locator("#chart polyline.own").count() == 3
        assert page.locator("#chart circle.own").count() == 3
        assert page.locator("#trials tr.marked td:first-child").all_inner_texts() == [label] * 3
        assert page.locator(".point.marked").count() == 1
    page.locator("#curve-rows a").nth(1).click()
    row = page.locator("#trials tr.marked").nth(1)
    row.locator("a").wait_for()
    assert is_in_view(page, f"#{row.get_attribute('id')}")
    assert page.evaluate("document.activeElement.closest('tr').cells[1].textContent") == "1"


def test_a_trial_leads_to_its_curve(opened):
    page = opened("depth")
    page.locator("#trials tbody tr").nth(4).locator("a").click()
    assert is_in_view(page, "#viewer")
    assert page.locator("#curve-of option:checked").inner_text() == "L2 f624"
    assert page.locator("#chart polyline.chosen title").text_content().startswith("L2 f624 seed 1: held-out loss 1.")
    page.locator("#curve-against").select_option(label="L12 f32")
    assert page.locator("#chart polyline.against").count() == 2, "the diverged trial left a curve, the failed one none"
    assert page.locator("#chart polyline.against.broken").count() == 1
    assert page.locator("#chart circle.against").count() == 1
    assert page.locator("#key-against strong").inner_text() == "L12 f32"


def test_a_cell_of_a_heat_map_is_a_point_too(opened):
    page = opened("depth")
    cell = page.locator(".maps a[data-point]").nth(3)
    cell.hover()
    assert page.locator("#card strong").inner_text() == "L4 f272"
    cell.click()
    assert page.locator("#curve-of option:checked").inner_text() == "L4 f272"


def test_numbers_sort_as_numbers_and_what_is_missing_stays_last(opened):
    page = opened("depth")
    losses = column(page, "#trials", "loss")
    assert losses.count("–") == 2
    given = sorted(float(loss) for loss in losses if loss != "–")
    head(page, "loss").locator("[role=button]").click()
    assert head(page, "loss").get_attribute("aria-sort") == "ascending"
    assert [float(loss) for loss in column(page, "#trials", "loss")[:-2]] == given
    assert column(page, "#trials", "loss")[-2:] == ["–", "–"]
    head(page, "loss").locator("[role=button]").press("Enter")
    assert head(page, "loss").get_attribute("aria-sort") == "descending"
    assert [float(loss) for loss in column(page, "#trials", "loss")[:-2]] == given[::-1]
    assert column(page, "#trials", "loss")[-2:] == ["–", "–"]
    head(page, "config").locator("[role=button]").click()
    assert page.locator("#trials th[aria-sort]").count() == 1
    labels = list(dict.fromkeys(column(page, "#trials", "config")))
    assert labels[:3] == ["L1 f1360", "L2 f624", "L3 f384"]
    assert labels[-1] == "L12 f32", "in the order of the plan, not of the alphabet"


def test_signs_and_sizes_are_read_as_numbers(opened):
    page = opened("depth")
    points = "table.sortable"
    button = page.locator(points).first.locator("th", has_text="off target").locator("[role=button]")
    ascending = ["-50.0%", "-3.0%", "-2.0%", "+0.0%", "+1.0%", "+30.0%"]
    button.click()
    assert column(page, points, "off target") == [*ascending, "–"]
    button.click()
    assert column(page, points, "off target") == [*ascending[::-1], "–"]


def test_sorting_by_one_column_keeps_the_order_of_another(opened):
    page = opened("depth")
    for name in ("tokens/s", "seed"):
        head(page, name).locator("[role=button]").click()
    seeds, speeds = column(page, "#trials", "seed"), column(page, "#trials", "tokens/s")
    assert seeds == sorted(seeds)
    for seed in "012":
        own = [float(speed.rstrip("k")) for speed, of in zip(speeds, seeds, strict=True) if of == seed and speed != "–"]
        assert own == sorted(own)


def test_the_filter_takes_words_of_a_row(opened):
    page = opened("depth")
    assert len(column(page, "#trials", "config")) == 21
    page.locator("#filter").fill("diverged L12")
    assert column(page, "#trials", "status") == ["diverged"]
    assert page.locator("#filter-count").inner_text() == "1 of 21 trials"
    page.locator("#filter").fill("no space")
    assert column(page, "#trials", "notes") == ["OSError: no space"]
    page.locator("#filter").fill("")
    assert len(column(page, "#trials", "config")) == 21
    page.locator("#filter").fill("L12")
    page.locator("#point-0-0").click()
    page.locator("#curve-rows a").first.click()
    assert page.locator("#filter").input_value() == "", "a row that is gone to is shown"


def test_precisions_and_micro_batches_are_there(opened):
    page = opened("precisions")
    text = page.locator("main").inner_text()
    assert "FP8 against bf16" in text
    assert "Speed: FP8 is faster in 4 and slower in 1 of 5 shapes." in text
    assert "Loss: FP8 is higher in 5 of 5 shapes." in text
    ladder = page.locator("table.ladder tbody tr").first.locator("td").all_inner_texts()
    assert ladder[0] == "L1 f1360 bf16"
    assert ladder[3].startswith("● 40.0k")
    assert ladder[4] == "✕ out of memory"
    assert page.locator("table.ladder td.chosen").count() == 10


def test_strings_of_a_study_stay_text(opened):
    page = opened("hostile")
    assert HOSTILE in page.locator("h1").inner_text()
    assert "hacked" not in page.title().replace(HOSTILE, "")
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 0
    page.locator("#point-0-0").hover()
    assert HOSTILE in page.locator("#card strong").inner_text(), "a label"
    page.locator("#point-0-0").click()
    assert page.locator("#chart polyline.own").count() == 3, "the page's own script ran"


def test_no_script_but_the_pages_own_may_run(pages, chromium):
    text = pages("depth").read_text(encoding="utf-8")
    path = pages("depth").with_name("changed.html")
    path.write_text(text.replace("</main>", "<script>document.title='hacked'</script></main>"), encoding="utf-8")
    page = chromium.new_page()
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(path.as_uri())
    assert page.title() != "hacked"
    assert any("Content Security Policy" in message for message in refused)
    page.close()


def test_without_a_script_all_but_the_choice_of_curves_is_there(opened):
    page = opened("depth", java_script_enabled=False)
    assert page.locator("#viewer").is_hidden()
    assert page.locator("#filter").is_hidden()
    assert page.locator(".curves polyline").count() == 19, "every trial that ended well has a curve"
    assert page.locator("#trials tbody tr").count() == 21
    assert page.locator(".maps a[data-point]").count() == 14
    page.locator("#point-0-2").click()
    assert re.search("#c-[0-9a-f]{12}$", page.url)
    assert page.locator("#trials tr:target").count() == 1


@pytest.mark.parametrize("name", ["depth", "precisions", "hostile", "many"])
def test_a_phone_scrolls_tables_and_never_the_page(opened, name):
    page = opened(name, width=390, height=844, has_touch=True, is_mobile=True, device_scale_factor=2)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.querySelector('#trials').parentElement.scrollWidth") > 390
    page.locator("#point-0-0").tap()
    card = page.locator("#card").bounding_box()
    assert card["x"] >= 0
    assert card["x"] + card["width"] <= 390
    assert page.locator("#trials tr.marked").count() == 0, "the first touch shows the card"
    page.locator("#point-0-0").tap()
    assert page.locator("#trials tr.marked").count() >= 3
    assert is_in_view(page, "#viewer")


def test_print_cuts_no_table(opened):
    page = opened("many", width=703)  # A4 within its margins
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == 703
    assert page.evaluate("[...document.querySelectorAll('table')].every((t) => t.scrollWidth <= 703)")
    assert page.locator("#filter").is_hidden()


def seconds_of(page, script):
    """How long the page takes for `script` and to lay itself out again."""
    whole = f"const from = performance.now(); {script}; document.body.offsetHeight; return performance.now() - from;"
    return page.evaluate(f"() => {{ {whole} }}") / 1000


def test_a_thousand_trials_open_and_sort_without_a_wait(opened, pages, capsys):
    size = pages("many").stat().st_size
    page = opened("many")
    assert page.locator("#trials tbody tr").count() == 1000
    took = {
        "open": page.evaluate("performance.getEntriesByType('navigation')[0].domComplete") / 1000,
        "sort": seconds_of(page, "document.querySelectorAll('#trials th [role=button]')[3].click()"),
        "filter": seconds_of(page, "filter.value = 'd128 ok'; filter.dispatchEvent(new Event('input'))"),
        "curves": seconds_of(page, "document.querySelector('#trials a').click()"),
    }
    with capsys.disabled():
        print(f"\n1,000 trials in {size / 1e6:.2f} MB:", ", ".join(f"{what} {s:.3f} s" for what, s in took.items()))
    assert len(column(page, "#trials", "config")) == 100
    assert size < 5e6
    assert took.pop("open") < 15
    assert max(took.values()) < 3
