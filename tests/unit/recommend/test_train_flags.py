"""The command of a config, read back by the real parser, makes the same config."""

from dataclasses import replace

import pytest

from sweeper.commands.arguments import parser
from sweeper.commands.train import train_study
from sweeper.planning.plan import make_plan
from sweeper.recommend.train_flags import train_words
from sweeper.values.records import Base, Config, Optimizer
from tests.unit.frontier_fakes import config

CONFIG = config(4, 272)
RECIPES = {
    "defaults": {},
    "adamw": {
        "optimizer": Optimizer(lr=0.0013, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.05, grad_clip=0.5, warmup=0.1)
    },
    "schedule": {"optimizer": Optimizer(cooldown=0.45), "eval_tokens": 1_048_576},
    "muon": {"optimizer": Optimizer(name="muon", momentum=0.9)},
    "completep": {"optimizer": Optimizer(base=Base(n_layers=2, d_model=64, ffn_hidden=160))},
    "fp8": {"precision": "fp8", "fp8_backend": "torchao", "fp8_filter": "none"},
    "auto": {"precision": "auto", "fp8_backend": "torchao", "fp8_filter": "auto"},
    "minutes": {"steps": None, "minutes": 2.5},
}


def read_back(words):
    assert words[:2] == ["sweeper", "train"]
    commands = dict.fromkeys(
        ("check", "plan", "run", "status", "report", "recommend", "merge", "sync", "shape", "train", "ui", "doctor",
         "schema")
    )  # fmt: skip
    loaded = train_study(vars(parser(commands).parse_args(words[1:])))
    (planned,) = make_plan(loaded, cpus=2).configs
    return loaded, planned


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("compiled", [True, False])
def test_the_command_trains_the_same_config(recipe, compiled):
    wanted = replace(CONFIG, recipe=replace(CONFIG.recipe, **recipe))
    loaded, planned = read_back(train_words(wanted, batch_sizes=(4,), compiled=compiled))
    assert planned.config == wanted
    assert planned.config.config_id == wanted.config_id
    assert [(one.batch_size, one.compile) for one in planned.executions] == [(4, compiled)]
    assert loaded.study.trial.first_seeds == 1


@pytest.mark.parametrize(
    "shape",
    [
        {"n_layers": 30, "d_model": 576, "n_heads": 9, "n_kv_heads": 3, "head_dim": 64, "ffn_hidden": 1536},
        {"n_layers": 12, "d_model": 1024, "n_heads": 16, "n_kv_heads": 4, "head_dim": 64, "ffn_hidden": 2730},
        {"d_model": 512, "n_heads": 16, "n_kv_heads": 16, "head_dim": 32, "tie_embeddings": False},
    ],
)
def test_whatever_the_shape(shape):
    wanted = Config(shape=replace(CONFIG.shape, **shape), recipe=CONFIG.recipe)
    assert read_back(train_words(wanted, batch_sizes=(4,), compiled=True))[1].config == wanted


def test_a_ladder_and_data_of_ones_own(tmp_path):
    data = tmp_path / "my text"
    data.mkdir()
    (data / "a.txt").write_text("a line\n" * 100)
    wanted = replace(CONFIG, recipe=replace(CONFIG.recipe, data="my text"))
    loaded, planned = read_back(train_words(wanted, batch_sizes=(1, 2, 4), compiled=True, data_path=data))
    assert planned.config.config_id == wanted.config_id
    assert loaded.data_path == data
    assert [one.batch_size for one in planned.executions] == [1, 2, 4]
    assert planned.choose == "fastest"
