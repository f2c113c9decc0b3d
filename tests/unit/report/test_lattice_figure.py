"""The drawn lattice: what stands where, and that a figure comes of any plan."""

import pytest

from sweeper.commands.main import main
from sweeper.planning import plan as planning
from sweeper.planning.plan import make_plan
from sweeper.report.lattice_figure import _numbers, lattice_png
from sweeper.study.loader import load
from sweeper.values.errors import UsageError

STUDY = """\
name: drawn
model: {{vocab_size: 1000, head_dim: 16, n_kv_heads: 1, tie_embeddings: true}}
axes:
  n_layers: {layers}
  d_model: [32, 64, 128]
  ffn_hidden: {ffn}
budget: {{params: {{target: 200k, tolerance: 30%}}}}
trial: {{data: python-stdlib, tokens: 1M, seq_len: 128, batch_size: 4, precision: fp32}}
"""


def plan_of(tmp_path, *, layers="[1, 2, 4]", ffn="{solve: params, multiple_of: 16}"):
    path = tmp_path / "drawn.yaml"
    path.write_text(STUDY.format(layers=layers, ffn=ffn))
    return make_plan(load(path), cpus=2)


def size_of(png):
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG")
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])


def test_one_ffn_a_place_is_shown_itself(tmp_path):
    plan = plan_of(tmp_path)
    numbers, meaning = _numbers(plan)
    assert meaning == "ffn_hidden"
    assert numbers == {
        (one.config.shape.d_model, one.config.shape.n_layers): one.config.shape.ffn_hidden for one in plan.configs
    }


def test_several_configs_a_place_are_counted(tmp_path):
    plan = plan_of(tmp_path, ffn="[64, 128, 256, 512]")
    numbers, meaning = _numbers(plan)
    assert meaning == "configs"
    assert sum(numbers.values()) == len(plan.configs) > len(numbers)


@pytest.mark.parametrize("ffn", ["{solve: params, multiple_of: 16}", "[64, 128, 256, 512]"])
def test_what_is_too_many_to_be_listed_is_drawn_all_the_same(tmp_path, monkeypatch, ffn):
    listed = _numbers(plan_of(tmp_path, ffn=ffn))
    monkeypatch.setattr(planning, "MAX_LISTED", 1)
    plan = plan_of(tmp_path, ffn=ffn)
    assert isinstance(plan.configs, planning.PlannedConfigs)
    assert _numbers(plan) == listed


@pytest.mark.parametrize("settings", [
    {}, {"layers": "[2]"}, {"ffn": "[256]"}, {"ffn": "[64, 128, 256, 512]"},
    {"layers": "{from: 1, to: 40}", "ffn": "{from: 16, to: 2048, step: 16}"},
])  # fmt: skip
def test_a_figure_comes_of_any_plan(tmp_path, settings):
    lattice_png(plan_of(tmp_path, **settings), tmp_path / "plan.png")
    assert size_of(tmp_path / "plan.png") == (960, 800)


def test_a_file_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="name a file that can be written"):
        lattice_png(plan_of(tmp_path), tmp_path / "file" / "plan.png")


def test_the_command_prints_its_table_and_draws(tmp_path, capsys):
    plan_of(tmp_path)
    assert main(["plan", str(tmp_path / "drawn.yaml"), "--png", str(tmp_path / "out" / "plan.png")]) == 0
    assert "points of the lattice are feasible" in capsys.readouterr().out
    assert size_of(tmp_path / "out" / "plan.png") == (960, 800)
