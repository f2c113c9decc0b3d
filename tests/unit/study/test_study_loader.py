"""Good studies: what a file, its profile and its overrides come to mean."""

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from sweeper.model.shape import derive
from sweeper.study.loader import choose_profile, load
from sweeper.study.presets import PRESETS
from sweeper.study.schema import LoadedStudy, OptimizerFields, PresetName, Solve
from sweeper.values.errors import StudyFaults, UsageError
from sweeper.values.records import Optimizer

DESIGN = """
    name: depth-vs-ffn
    question: At 180M parameters, deep with a narrow FFN, or shallow with a wide one?
    base: current
    model:
      vocab_size: 32768
      d_model: 768
      head_dim: 64
      n_kv_heads: 4
      tie_embeddings: true
    axes:
      n_layers: [12, 16, 20, 24, 28, 32, 40]
      ffn_hidden: {solve: params, multiple_of: 64}
    budget:
      params: {target: 180M, tolerance: 2%, count: total}
    trial:
      data: python-packages
      tokens: 60M
      seq_len: 1024
      tokens_per_step: 98304
      batch_size: 8
      precision: fp8
      compile: true
      optimizer: {name: adamw, lr: 3e-3}
      seeds: 3
    search: {method: grid}
    objectives: {val_loss: min, tokens_per_s: max}
    resources: {gpus: 1, cpus: 8}
    profiles:
      cpu:
        base: null
        model: {vocab_size: 256, d_model: 96, n_heads: 3, kv_groups: 3}
        axes: {n_layers: [1, 2, 3], ffn_hidden: {multiple_of: 16}}
        budget: {params: {min: 0.49M, max: 0.51M, count: trunk}}
        trial:
          data: python-stdlib
          tokens_per_param: 2
          seq_len: 256
          grad_accum_steps: 1
          batch_size: 4
          precision: fp32
          optimizer: {lr: 2e-3, betas: [0.9, 0.99], weight_decay: 1e-1}
        objectives: {val_loss: min}
        resources: {gpus: 0, cpus: null}
      lr:
        axes: {optimizer.lr: [1e-3, 3e-3], ffn_hidden: [1024, 2k], n_layers: null}
        model: {n_layers: 12}
"""
SMALL = """
    name: small
    model: {n_layers: 2, d_model: 64, vocab_size: 256}
    trial: {data: python-stdlib, tokens: 1M, seq_len: 256}
"""
GUIDE_180M = 32 * (2 * 768 * 768 + 2 * 768 * 256 + 3 * 768 * 2048 + 2 * 768) + 768 + 2 * 32768 * 768
"""The guide's "180M" configuration with an untied head: 251.7M."""
Loads = Callable[..., LoadedStudy]


@pytest.fixture
def loads(tmp_path: Path) -> Loads:
    def loads(text: str, **options: Any) -> LoadedStudy:
        file = tmp_path / "study.yaml"
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return load(file, **options)

    return loads


def faults(loads: Loads, text: str, **options: Any) -> list[str]:
    with pytest.raises(StudyFaults) as caught:
        loads(text, **options)
    return [f"{os.path.basename(f.file)}:{f.line}:{f.column}: {f.path}: {f.message}" for f in caught.value.faults]


def test_the_study_of_the_design(loads: Loads) -> None:
    loaded = loads(DESIGN, has_gpu=True)
    study, trial = loaded.study, loaded.study.trial
    assert (loaded.profile, loaded.data_path) == ("full", None)
    assert (study.name, study.base) == ("depth-vs-ffn", "current")
    fields = {"vocab_size": 32768, "d_model": 768, "head_dim": 64, "n_kv_heads": 4, "tie_embeddings": True}
    assert study.model == fields
    assert dict(study.axes) == {
        "n_layers": (12, 16, 20, 24, 28, 32, 40),
        "ffn_hidden": Solve(solve="params", multiple_of=64),
    }
    assert study.budget.params is not None
    assert (study.budget.params.target, study.budget.params.tolerance) == (180_000_000, 0.02)
    assert (trial.tokens, trial.flops, trial.tokens_per_step, trial.grad_accum_steps) == (60_000_000, None, 98304, None)
    assert (trial.precision, trial.compile, trial.seeds, trial.optimizer.lr) == ("fp8", True, 3, 0.003)
    assert (study.resources.gpus, study.resources.cpus) == (1, 8)


def test_a_profile_merges_deeply_and_one_of_groups_replace(loads: Loads) -> None:
    loaded = loads(DESIGN)
    study, trial = loaded.study, loaded.study.trial
    assert loaded.profile == "cpu"
    assert study.base is None
    assert study.model == {
        "vocab_size": 256, "d_model": 96, "n_heads": 3, "kv_groups": 3, "tie_embeddings": True,
    }  # fmt: skip
    assert dict(study.axes) == {"n_layers": (1, 2, 3), "ffn_hidden": Solve(solve="params", multiple_of=16)}
    params = study.budget.params
    assert params is not None
    assert (params.target, params.min, params.max, params.count) == (None, 490_000, 510_000, "trunk")
    assert (trial.tokens, trial.tokens_per_param) == (None, 2.0)
    assert (trial.tokens_per_step, trial.grad_accum_steps, trial.batch_size) == (None, 1, 4)
    assert (trial.optimizer.lr, trial.optimizer.betas, trial.optimizer.weight_decay) == (0.002, (0.9, 0.99), 0.1)
    assert trial.seeds == 3
    assert dict(study.objectives) == {"val_loss": "min", "tokens_per_s": "max"}
    assert (study.resources.gpus, study.resources.cpus) == (0, None)


def test_fixed_fields_and_axes_replace_each_other_both_ways(loads: Loads) -> None:
    study = loads(DESIGN, profile="lr").study
    assert study.model["n_layers"] == 12
    assert dict(study.axes) == {"ffn_hidden": (1024, 2000), "optimizer.lr": (0.001, 0.003)}
    back = loads(DESIGN, profile="lr", overrides=["trial.optimizer.lr=1e-2", "axes.head_dim=[32, 64]"]).study
    assert back.trial.optimizer.lr == 0.01
    assert dict(back.axes) == {"ffn_hidden": (1024, 2000), "head_dim": (32, 64)}
    assert "head_dim" not in back.model


@pytest.mark.parametrize(
    ("base", "over", "model"),
    [
        ("{ffn_ratio: 4, multiple_of: 64}", "{ffn_hidden: 128}", {"ffn_hidden": 128}),
        ("{ffn_hidden: 128}", "{ffn_ratio: 4, multiple_of: 64}", {"ffn_ratio": 4.0, "multiple_of": 64}),
        ("{ffn_ratio: 4, multiple_of: 64}", "{multiple_of: 16}", {"ffn_ratio": 4.0, "multiple_of": 16}),
        ("{n_heads: 4}", "{head_dim: 16}", {"head_dim": 16}),
        ("{n_kv_heads: 4}", "{kv_groups: 1}", {"kv_groups": 1}),
        ("{n_kv_heads: 4}", "{n_kv_heads: null}", {}),
    ],
)
def test_alternatives_in_a_profile(loads: Loads, base: str, over: str, model: dict[str, Any]) -> None:
    fixed = "{n_layers: 2, d_model: 64, vocab_size: 256, "
    text = f"name: x\nmodel: {fixed}{base[1:]}\ntrial: {{tokens: 1M}}\nprofiles: {{p: {{model: {over}}}}}\n"
    loaded = loads(text, profile="p")
    shared = {"n_layers": 2, "d_model": 64, "vocab_size": 256, "tie_embeddings": False}
    assert loaded.study.model == {**shared, **model}


@pytest.mark.parametrize(
    ("over", "values"),
    [
        ("[16]", (16,)),
        ("{from: 16, to: 32, step: 16}", (16, 32)),
        ("{min: 32}", Solve(solve="params", multiple_of=16, min=32)),
    ],
)
def test_an_axis_of_another_form_replaces_whole(loads: Loads, over: str, values: Any) -> None:
    text = (
        SMALL + "    axes: {ffn_hidden: {solve: params, multiple_of: 16}}\n    budget: {params: {max: 1M, min: 1k}}\n"
    )
    loaded = loads(text + f"    profiles: {{p: {{axes: {{ffn_hidden: {over}}}}}}}\n", profile="p")
    assert loaded.study.axes["ffn_hidden"] == values


@pytest.mark.parametrize(
    ("axis", "written", "values"),
    [
        ("n_heads", "[1, 2, 4]", (1, 2, 4)),
        ("ffn_hidden", "[1k, 2.5k, 0x10]", (1000, 2500, 16)),
        ("ffn_hidden", "{from: 12, to: 40, step: 4}", (12, 16, 20, 24, 28, 32, 36, 40)),
        ("ffn_hidden", "{from: 12, to: 19, step: 4}", (12, 16)),
        ("n_heads", "{from: 1, to: 4}", (1, 2, 3, 4)),
        ("n_heads", "{from: 4, to: 4, log: 1}", (4,)),
        ("ffn_hidden", "{from: 16, to: 256, log: 5}", (16, 32, 64, 128, 256)),
        ("n_heads", "{from: 1, to: 3, log: 9}", (1, 2, 3)),
        ("ffn_ratio", "[2.67, 3.33]", (2.67, 3.33)),
        ("optimizer.lr", "{from: 1e-4, to: 1e-2, log: 3}", (1e-4, 1e-3, 1e-2)),
        ("optimizer.weight_decay", "{from: 0, to: 0.3, step: 0.1}", (0.0, 0.1, 0.2, 0.3)),
        ("optimizer.warmup", "[0, 2%]", (0.0, 0.02)),
        ("optimizer.betas", "[[0.9, 0.95], [0.9, 0.99]]", ((0.9, 0.95), (0.9, 0.99))),
        ("tie_embeddings", "[true, false]", (True, False)),
        ("precision", "[fp32, bf16, auto]", ("fp32", "bf16", "auto")),
        ("optimizer.name", "[adamw, muon]", ("adamw", "muon")),
        ("batch_size", "[2, 4]", (2, 4)),
        ("tokens_per_step", "[8192, 16384]", (8192, 16384)),
    ],
)
def test_axes(loads: Loads, axis: str, written: str, values: tuple[Any, ...]) -> None:
    expanded = loads(SMALL + f"    axes: {{{axis}: {written}}}\n").study.axes[axis]
    assert expanded == values
    assert [type(value) for value in expanded] == [type(value) for value in values]


def test_step_and_log_replace_each_other(loads: Loads) -> None:
    text = SMALL + "    axes: {ffn_hidden: {from: 16, to: 64, step: 16}}\n"
    stepped = loads(text + "    profiles: {p: {axes: {ffn_hidden: {log: 3}}}}\n", profile="p")
    assert stepped.study.axes["ffn_hidden"] == (16, 32, 64)


def test_data_axis_and_length_axis(loads: Loads) -> None:
    text = SMALL.replace("data: python-stdlib, tokens: 1M, ", "")
    axes = loads(text + "    axes: {data: [python-stdlib, python-packages], tokens_per_param: [10, 20]}\n").study.axes
    assert dict(axes) == {"data": ("python-stdlib", "python-packages"), "tokens_per_param": (10.0, 20.0)}


def points(loaded: LoadedStudy) -> list[dict[str, Any]]:
    """The plain union that `Study` promises, at the first value of each axis."""
    study = loaded.study
    axes = {name: values[0] for name, values in study.axes.items() if isinstance(values, tuple)}
    steps = ("batch_size", "grad_accum_steps")
    return [
        {key: value for key, value in {**study.model, **shape, **axes}.items() if key not in steps}
        for shape in study.shapes or ({},)
    ]


def test_a_base_gives_the_presets_shape_batch_and_accumulation(loads: Loads) -> None:
    loaded = loads("name: x\nbase: current\ntrial: {tokens: 10M}\n")
    shape = derive(points(loaded)[0])
    assert shape.params.total == GUIDE_180M
    assert (loaded.study.trial.batch_size, loaded.study.trial.grad_accum_steps) == (8, 12)
    own = loads("name: x\nbase: current\ntrial: {tokens: 10M, tokens_per_step: 8192}\n").study.trial
    assert (own.batch_size, own.grad_accum_steps, own.tokens_per_step) == (None, None, 8192)


def test_a_presets_heads_and_ffn_give_way_to_a_width(loads: Loads) -> None:
    fixed = loads("name: x\nbase: current\nmodel: {d_model: 640}\ntrial: {tokens: 10M}\n")
    axis = loads("name: x\nbase: current\naxes: {d_model: [640, 768]}\ntrial: {tokens: 10M}\n")
    for loaded in (fixed, axis):
        shape = derive(points(loaded)[0])
        assert (shape.n_heads, shape.head_dim, shape.ffn_hidden) == (10, 64, 640 * 8 // 3)
    heads = loads("name: x\nbase: current\naxes: {n_heads: [6, 12]}\ntrial: {tokens: 10M}\n")
    assert derive(points(heads)[0]).n_heads == 6
    ratio = loads("name: x\nbase: current\naxes: {ffn_ratio: [4]}\ntrial: {tokens: 10M}\n")
    assert derive(points(ratio)[0]).ffn_hidden == 3072


def test_shapes_from_presets(loads: Loads) -> None:
    text = """
        name: x
        model: {vocab_size: 256}
        shapes: [{preset: gpt2-small}, {preset: wide-shallow, head_dim: 128}, {n_layers: 2, d_model: 64}]
        trial: {tokens: 10M}
    """
    loaded = loads(text)
    small, wide, own = (derive(fields) for fields in points(loaded))
    assert (small.n_layers, small.n_heads, small.ffn_hidden, small.vocab_size) == (12, 12, 2560, 256)
    assert (wide.n_heads, wide.head_dim, wide.ffn_hidden) == (8, 128, 2730)
    assert (own.n_layers, own.d_model, own.tie_embeddings) == (2, 64, False)
    first, second, third = loaded.study.shapes
    assert (first["batch_size"], first["grad_accum_steps"]) == (12, 8)
    assert (second["batch_size"], second["grad_accum_steps"]) == (8, 12)
    assert "batch_size" not in third
    for given in ("batch_size=4", "grad_accum_steps=2", "tokens_per_step=8192"):
        shapes = loads(text, overrides=[f"trial.{given}"]).study.shapes
        assert all("batch_size" not in shape and "grad_accum_steps" not in shape for shape in shapes)


def test_data_paths_are_relative_to_the_study_and_named_the_same_everywhere(
    loads: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = loads(SMALL.replace("python-stdlib", "./corpus"))
    assert loaded.data_path == tmp_path / "corpus"
    assert loaded.study.trial.data == "corpus"
    moved = tmp_path / "elsewhere" / "study.yaml"
    moved.write_text(yaml.safe_dump(dict(loaded.resolved)))
    again = load(moved)
    assert (again.study, again.data_path) == (loaded.study, loaded.data_path)


def test_a_folder_named_like_an_embedded_corpus_is_not_taken_for_it(loads: Loads, tmp_path: Path) -> None:
    (tmp_path / "python-stdlib").mkdir()
    assert loads(SMALL).data_path is None
    loaded = loads(SMALL.replace("python-stdlib", "./python-stdlib"))
    assert loaded.data_path == tmp_path / "python-stdlib"
    assert loaded.study.trial.data != "python-stdlib"


@pytest.mark.parametrize("profile", ["full", "cpu", "lr"])
def test_what_is_resolved_loads_to_the_same_study(loads: Loads, tmp_path: Path, profile: str) -> None:
    loaded = loads(DESIGN, profile=profile, overrides=["search.method=random", "search.trials=2"])
    assert "profiles" not in loaded.resolved
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(yaml.safe_dump(dict(loaded.resolved)))
    assert load(resolved).study == loaded.study


def test_the_shipped_studies_load_under_every_profile_and_again_as_resolved(tmp_path: Path) -> None:
    for study in sorted((Path(__file__).parents[3] / "studies").glob("*.yaml")):
        for profile in ("full", *yaml.safe_load(study.read_text()).get("profiles", {})):
            loaded = load(study, profile=profile)
            (tmp_path / "study.yaml").write_text(yaml.safe_dump(dict(loaded.resolved)))
            assert load(tmp_path / "study.yaml").study == loaded.study


def test_defaults_agree_with_the_records_and_the_presets() -> None:
    fields = OptimizerFields().model_dump(exclude={"parametrization", "batch_scaling"})
    assert Optimizer(**fields) == Optimizer()
    assert get_args(PresetName) == tuple(PRESETS)


def test_text_that_looks_like_a_number_stays_text(loads: Loads, tmp_path: Path) -> None:
    loaded = loads(SMALL.replace("name: small", 'name: "1e5"\n    question: 0o7'))
    assert (loaded.study.name, loaded.study.question) == ("1e5", "0o7")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(dict(loaded.resolved)))
    assert load(tmp_path / "again.yaml").study == loaded.study


def test_aliases_stand_for_their_anchors(loads: Loads) -> None:
    text = """
        name: x
        model: &model {n_layers: 2, d_model: 64, vocab_size: 256}
        trial: {tokens: 1M}
        profiles: {p: {model: *model}}
    """
    assert loads(text, profile="p").study.model["d_model"] == 64


def test_choosing_a_profile() -> None:
    assert choose_profile(["cpu", "big"], None, has_gpu=False) == "cpu"
    assert choose_profile(["cpu", "big"], None, has_gpu=True) == "full"
    assert choose_profile(["big"], None, has_gpu=False) == "full"
    assert choose_profile(["cpu", "big"], "big", has_gpu=False) == "big"
    assert choose_profile(["cpu"], "full", has_gpu=False) == "full"
    with pytest.raises(UsageError, match=r"it has full, cpu, big; did you mean cpu\?") as caught:
        choose_profile(["cpu", "big"], "cpus", has_gpu=False)
    assert caught.value.exit_code == 2


def test_overrides_are_merged_last_and_their_groups_replace(loads: Loads) -> None:
    overrides = ["trial.tokens=2M", "trial.flops=1e15", "axes.optimizer.lr={from: 1e-3, to: 1e-2, log: 2}", "name=y"]
    study = loads(SMALL, overrides=overrides).study
    assert (study.trial.tokens, study.trial.flops, study.name) == (None, 1e15, "y")
    assert dict(study.axes) == {"optimizer.lr": (0.001, 0.01)}
    removed = loads(SMALL, overrides=["trial.seq_len=", "axes.n_layers=[2,4]"]).study
    assert (removed.trial.seq_len, dict(removed.axes)) == (1024, {"n_layers": (2, 4)})
    assert "n_layers" not in removed.model


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("trial.tokns=1M", "--set:1:1: trial.tokns: unknown key; did you mean tokens?"),
        ("trial.tokens=1m", "--set:1:1: trial.tokens: m in '1m' is no unit; write 1M"),
        ("trial.tokens", "--set:1:1: : 'trial.tokens' sets nothing; write key=value, trial.tokens=1M"),
        ("trial..tokens=3", "--set:1:1: : 'trial..tokens=3' sets nothing; write key=value, trial.tokens=1M"),
        ("profiles.cpu.name=x", "--set:1:1: profiles.cpu.name: profiles can't be set; choose one with --profile"),
        ("axes.n_layers=[1, x]", "--set:1:1: axes.n_layers[1]: 'x' is no number; write one like 4096, 4k or 180M"),
        ("trial.tokens=null", "study.yaml:4:1: trial: how long a trial is, is missing; give one of tokens, flops, "
         "minutes, tokens_per_param (with --set)"),
        ("trial.batch_size=[", "--set:1:1: trial.batch_size: not valid YAML: while parsing a flow node expected the "
         "node content, but found '<stream end>'; a bracket or brace is not closed"),
        ("trial.tokens_per_step=1000", "--set:1:1: trial.tokens_per_step: tokens_per_step 1000 is no multiple of "
         "batch_size 8 × seq_len 256 = 2048; nearest are 2048"),
    ],
)  # fmt: skip
def test_faults_of_overrides(loads: Loads, override: str, fault: str) -> None:
    assert faults(loads, SMALL, overrides=[override]) == [fault]


def test_faults_of_file_and_overrides_come_together(loads: Loads) -> None:
    shown = faults(loads, SMALL.replace("1M", "1m"), overrides=["name=a b", "trial.precision=fp4"])
    assert [line.partition(": ")[0] for line in shown] == ["--set:1:1", "--set:1:1", "study.yaml:4:38"]


def test_faults_come_before_an_unknown_profile(loads: Loads) -> None:
    with pytest.raises(UsageError, match="no profile 'big'"):
        loads(SMALL, profile="big")
    assert len(faults(loads, SMALL.replace("1M", "1m"), profile="big")) == 1


def test_margins_are_nats_and_a_fraction(loads: Loads) -> None:
    given = loads(SMALL + "    margins: {val_loss: 0.01, tokens_per_s: 2%}\n").study.margins
    assert given.model_dump() == {"val_loss": 0.01, "tokens_per_s": 0.02}
    assert loads(SMALL).study.margins.model_dump() == {"val_loss": 0.0, "tokens_per_s": 0.01}
