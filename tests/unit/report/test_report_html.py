"""The figure and the page: there, whole, self-contained, and safe with hostile names."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from frontier_fakes import LOSSES, OBJECTIVES, SPEEDS, config, environment, final, plan, study
from ledger_lines import as_lines
from PIL import Image
from test_report_tables import plan_json

from sweeper.frontier.frontiers import frontier
from sweeper.ledger.lines import event_record
from sweeper.report.figures import frontier_png, frontier_svg
from sweeper.report.frontier_json import frontier_json
from sweeper.report.page.html import render, write_report
from sweeper.report.placement import place_labels
from sweeper.values.events import Failed
from sweeper.values.records import Job
from sweeper.values.run_folder import RunFolder

HOSTILE = "<script>alert(1)</script> $\\frac{ & \"quote\" 'x' {{ 7*7 }} 深"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags and text, and checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def size(path):
    with Image.open(path) as image:
        return image.size


def found(planned, records, name="depth-vs-ffn"):
    return frontier(as_lines(records), study=name, profile="cpu", planned=planned, objectives=OBJECTIVES)


def page(planned, records, *, question="Deep or wide?", name="depth-vs-ffn", command="sweeper run x.yaml"):
    return render(
        found(planned, records, name), plan_json={**plan_json(planned), "study": name},
        study={"name": name, "question": question}, records=as_lines(records), command=command,
    )  # fmt: skip


def test_everything_a_reader_needs_is_on_the_page():
    planned, records = study(LOSSES, SPEEDS)
    text = " ".join(Page(page(planned, records, command="sweeper run studies/a.yaml --profile cpu")).text.split())
    for words in ("Deep or wide?", "May be as good: ", "tied (loss)", "below 1% counts as none",
                  "would be found 8 times in 10",
                  "params: too far off the budget", "data fingerprint", "f00d", "2.13.0", "Held equal: tokens",
                  "sweeper run studies/a.yaml --profile cpu", "question: Deep or wide?"):  # fmt: skip
        assert words in text
    assert len(re.findall(r"<polyline", page(planned, records))) == 21, "one loss curve per trial"
    assert len(re.findall(r'data-value="\d+" title="', page(planned, records))) == 21, "one row per trial"


def test_the_page_needs_nothing_from_elsewhere():
    planned, records = study(LOSSES, SPEEDS)
    text = page(planned, records)
    parsed = Page(text)
    assert not {"link", "img", "iframe", "object", "embed"} & set(parsed.tags)
    loaded = [value for name, value in parsed.attributes if name in ("src", "href", "xlink:href", "data", "action")]
    assert all(value.startswith("#") for value in loaded)
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert set(re.findall(r"https?://[^\s\"']*", text)) <= {"http://www.w3.org/2000/svg"}, "a name, no address"


def test_hostile_names_stay_text():
    planned = plan([config(1, 16, data=HOSTILE), config(2, 16, data=HOSTILE + "2")])
    env = environment(device=HOSTILE, driver=HOSTILE)
    records = [
        {**final(p, s, 1.5 + 0.1 * s, environment=env, notes=(HOSTILE,)), "device": HOSTILE}
        for p in planned
        for s in (0, 1)
    ]
    text = page(planned, records, question=HOSTILE, name=HOSTILE, command=HOSTILE)
    parsed = Page(text)
    assert parsed.tags.count("script") == 2, "the page's own: its data and what shows them"
    assert "<script>alert" not in text
    assert "{{ 7*7 }}" in parsed.text
    assert HOSTILE in parsed.text


def test_the_policy_names_the_script_that_is_there_and_data_cannot_end_its_block():
    planned, records = study({1: 1.7, 3: 1.5}, {1: 4e4, 3: 3e4})
    text = page(planned, [{**r, "device": HOSTILE} if "device" in r else r for r in records], name=HOSTILE)
    (policy,) = [value for name, value in Page(text).attributes if name == "content" and "script-src" in value]
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert json.loads(data)["points"]["0-0"]["title"] == "L1 f1360"


def test_the_page_lists_trials_of_more_configs_than_the_plan_has_rows(monkeypatch):
    monkeypatch.setattr("sweeper.report.page.html.MOST_PLAN_ROWS", 2)
    planned, records = study(LOSSES, SPEEDS)
    text = page(planned, records)
    assert "… and 5 more." in Page(text).text
    assert len(re.findall(r'<tr id="', text)) == 21
    assert len(set(re.findall(r'<tr id="([^"]*)"', text))) == 21


def test_a_trial_is_listed_once_for_each_kind_of_device_and_its_failure_only_without_an_outcome():
    planned, records = study({1: 1.7, 3: 1.5}, {1: 4e4, 3: 3e4}, seeds=2)
    finals = [r for r in records if r["type"] == "final"]
    job = Job(kind="train", config=planned[0].config, execution=planned[0].execution, seed=0)
    lost = Job(kind="train", config=planned[0].config, execution=planned[0].execution, seed=2)
    failed = [{**event_record(Failed(job=of, error=why, traceback="")), "time": finals[0]["time"]}
              for of, why in ((job, "later"), (lost, "no space"))]  # fmt: skip
    text = page(planned, [*records, {**finals[0], "device": "NVIDIA H200"}, *failed])
    rows = re.findall(r"<tr id=.*?</tr>", text)
    assert [re.sub("<[^>]*>", "|", row).count("|ok|") for row in rows] == [1, 1, 1, 0, 1, 1]
    assert ["NVIDIA H200" in row for row in rows].count(True) == 1
    assert ["no space" in row for row in rows] == [False] * 3 + [True] + [False] * 2
    assert "later" not in text


def test_a_study_with_nothing_measured_has_a_page_and_a_figure(tmp_path):
    planned, _ = study(LOSSES, SPEEDS)
    assert "Nothing is known yet" in Page(page(planned, [])).text
    frontier_png(frontier_json(found(planned, [])), tmp_path / "x.png")
    assert size(tmp_path / "x.png") == (960, 840)


def test_the_environment_is_rounded_and_counts_per_config_are_summed_up():
    planned = plan([config(n, 16) for n in (1, 2, 3)])

    def row(of, **precision):
        records = [
            final(p, s, 1.5, environment=environment(
                load_average=1.06689453125 + s,
                precision={"name": "fp32", "converted": 0, "total": 4 * p.config.shape.n_layers, "kept_out": [],
                           "emulated": False} | {k: v(p.config.shape.n_layers) for k, v in precision.items()}))
            for p in planned for s in range(2)
        ]  # fmt: skip
        text = page(planned, records)
        return re.findall(rf"<tr><td>{of}</td><td class=\"why\">(.*?)</td>", text)

    assert row("load average") == ["1.07–2.07"]
    assert row("epochs") == ["0.04"]
    assert row("precision") == ["fp32"]
    assert row("precision total") == []
    fp8 = {"name": lambda n: "fp8", "converted": lambda n: 4 * n - 1, "kept_out": lambda n: ["0.ffn: 96 × 17"]}
    assert row("precision", **fp8) == ["fp8: converted 3–11 of 4–12 matmuls"]
    assert row("precision kept out", **fp8) == ["0.ffn: 96 × 17"]


def test_the_page_says_what_memory_is_the_memory_of():
    planned, records = study({1: 1.7, 3: 1.5}, {1: 4e4, 3: 3e4})
    text = Page(page(planned, records)).text
    assert "Memory: predicted for the tensors, plus 0.6 GiB for context and kernels on a GPU" in text
    assert "Memory: peak resident memory of the process, libraries included (CPU)." in text
    cuda = [{**r, "environment": environment(driver="580.1")} for r in records if r["type"] == "final"]
    said = "Memory: peak reserved on the device, and what lies beside it: context, kernels, libraries (CUDA)."
    assert said in Page(page(planned, cuda)).text


def test_a_trials_memory_is_all_that_it_took_of_its_device():
    planned, records = study({1: 1.7, 3: 1.5}, {1: 4e4, 3: 3e4})
    assert Page(page(planned, records)).text.count("400 MiB") > 0
    beside = [r | {"beside_memory_bytes": 624 * 2**20} if r["type"] == "final" else r for r in records]
    assert "400 MiB" not in Page(page(planned, beside)).text
    assert "1.0 GiB" in Page(page(planned, beside)).text


def test_trials_of_seeds_that_are_not_asked_any_more_are_not_on_the_page():
    planned, records = study({1: 1.7, 3: 1.5}, {1: 4e4, 3: 3e4}, seeds=5)
    text = page(planned, records)
    assert len(re.findall(r'data-value="\d+" title="', text)) == len(re.findall(r"<polyline", text)) == 6


def test_failed_and_diverged_trials_are_listed_with_their_reason():
    planned, records = study({1: 1.7, 3: 1.5}, {1: 4e4, 3: 3e4})
    records.append(final(planned[0], 2, None, None, status="diverged", notes=("loss was NaN at step 7",)))
    text = Page(page(planned, records)).text
    assert "loss was NaN at step 7" in text
    assert "diverged" in text


def test_write_report_leaves_three_whole_files(tmp_path):
    planned, records = study(LOSSES, SPEEDS)
    folder = RunFolder.of(out=tmp_path, study="depth-vs-ffn", profile="cpu")
    for _ in range(2):
        write_report(
            folder, frontier=found(planned, records), plan_json=plan_json(planned),
            study={"name": "depth-vs-ffn", "question": "?"}, records=as_lines(records),
        )  # fmt: skip
    assert sorted(p.name for p in folder.root.iterdir()) == [
        "frontier.json",
        "frontier.png",
        "frontier.svg",
        "report.html",
    ]
    figure = ET.parse(folder.vector_figure).getroot()
    assert figure.tag == "{http://www.w3.org/2000/svg}svg"
    assert 300 < float(figure.get("width").removesuffix("pt")) < 500
    assert {"L1 f1360", "training speed, tokens/s (faster →) · bars that overlap: within noise"} <= {
        text.strip() for text in figure.itertext()
    }
    assert json.loads(folder.frontier.read_text()) == json.loads(json.dumps(frontier_json(found(planned, records))))
    assert "sweeper run study.yaml --profile cpu" in Page(folder.report.read_text()).text


def test_the_png_has_its_size_and_is_drawn_on(tmp_path):
    planned, records = study(LOSSES, SPEEDS)
    frontier_png(frontier_json(found(planned, records)), tmp_path / "f.png", question=HOSTILE)
    assert size(tmp_path / "f.png") == (960, 840)
    with Image.open(tmp_path / "f.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x76, 0x76, 0x76)):
        assert (abs(pixels.astype(int) - colour).sum(axis=1) < 12).sum() > 50, "each standing has its colour"


def test_the_svg_is_well_formed_has_text_and_tooltips():
    planned, records = study(LOSSES, SPEEDS)
    result = found(planned, records)
    root = ET.fromstring(frontier_svg(frontier_json(result)))
    texts = {"".join(element.itertext()) for element in root.iter("text")}
    titles = [element.text for element in root.iter("title")]
    labels = [p.label for p in result.frontiers[0].points]
    assert set(labels) <= texts
    assert [title.partition(":")[0] for title in titles] == labels


def test_two_devices_are_two_panels_and_wide_ranges_are_logarithmic(tmp_path):
    planned, records = study({1: 1.7, 3: 1.5}, {1: 1e6, 3: 3e4})
    records += [{**r, "device": "NVIDIA H200"} for r in records if r["type"] == "final"]
    plain = frontier_json(found(planned, records))
    frontier_png(plain, tmp_path / "f.png")
    assert size(tmp_path / "f.png") == (960, 1560)
    texts = {"".join(e.itertext()) for e in ET.fromstring(frontier_svg(plain)).iter("text")}
    assert {"50k", "100k", "1M"} <= texts


@pytest.mark.parametrize("seed", range(5))
def test_labels_do_not_overlap_each_other_or_markers(seed):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.6), dpi=100)
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.add_subplot()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    points = [tuple(xy) for xy in np.random.default_rng(seed).uniform(0.1, 0.9, (10, 2))]
    texts = [f"L{i} f{100 * i}" for i in range(10)]
    place_labels(axes, anchors=points, texts=texts, colours=["k"] * 10, marks=points, segments=[], dots=[])
    boxes = [t.get_window_extent(renderer) for t in axes.texts]
    for i, a in enumerate(boxes):
        assert not any(a.shrunk(0.95, 0.8).overlaps(b) for b in boxes[i + 1 :])
        centres = axes.transData.transform(points)
        assert not any(a.contains(x, y) for x, y in centres)
        distances = [math.dist((min(max(x, a.x0), a.x1), min(max(y, a.y0), a.y1)), (x, y)) for x, y in centres]
        assert int(np.argmin(distances)) == i, "a label is nearest to its own point"


def test_a_point_that_the_plan_doesnt_list_is_on_the_page_all_the_same():
    planned, records = study(LOSSES, SPEEDS)
    plan = plan_json(planned)
    cut = {**plan, "configs": plan["configs"][:2]}
    frontier = found(planned, records)
    text = render(frontier, plan_json=cut, study={"name": "s"}, records=as_lines(records), command="sweeper run x.yaml")
    assert len(frontier.frontiers[0].points) > 2
    for point in frontier.frontiers[0].points:
        assert f'id="c-{point.config_id}"' in text
