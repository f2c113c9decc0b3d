"""Other tools' searches in a study's place: named, and what they would be here is a study itself."""

import textwrap

import pytest

from sweeper.study.loader import load
from sweeper.values.errors import StudyFaults

WANDB = """\
program: train.py
method: bayes
metric: {name: val_loss, goal: minimize}
run_cap: 30
parameters:
  n_layer: {values: [4, 8, 12]}
  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.01}
  weight_decay: {min: 0.0, max: 0.2}
  batch_size: {value: 16}
  dropout: {values: [0.0, 0.1]}
  model:
    parameters:
      n_head: {value: 12}
      n_embd: {values: [384, 768]}
command: [python, "${program}", "${args}"]
"""
GRID = """\
method: grid
parameters:
  num_layers: {min: 2, max: 6}
  hidden_size: {value: 256}
  vocab_size: {value: 256}
"""
HYDRA = """\
defaults:
  - _self_
  - override hydra/sweeper: basic
model: {n_layers: 12, hidden_size: 512, activation: silu}
optim: {lr: 3e-4}
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      model.n_layers: 4,8,12
      optim.lr: tag(log, interval(0.0001, 0.01))
      model.intermediate_size: range(512, 2048, 512)
      +optim.weight_decay: choice(0.1, 0.2)
"""
HYDRA_OPTUNA = """\
hydra:
  sweeper:
    sampler: {_target_: optuna.samplers.TPESampler, seed: 1}
    n_trials: 40
    params: {depth: "range(2, 9, 2)", width: "choice(256, 512)"}
"""
OPTUNA = """\
study_name: shapes
direction: minimize
n_trials: 25
sampler: {type: RandomSampler}
search_space:
  n_layers: {type: int, low: 2, high: 8, step: 2}
  lr: {type: float, low: 1e-4, high: 1e-2, log: true}
  d_model: {type: categorical, choices: [256, 512]}
  ffn_dim: {name: IntDistribution, attributes: {low: 512, high: 1024, step: 256}}
  activation: {type: categorical, choices: [relu, gelu]}
"""


def said_of(text, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(StudyFaults) as error:
        load(file)
    (fault,) = error.value.faults
    assert (fault.line, fault.path) == (1, "")
    named, _, study = fault.message.partition(", not a study; as a study it would be\n\n")
    return named, textwrap.dedent(study)


def loaded(study, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(study)
    return load(file).study


def axes(study):
    return {name: list(axis) for name, axis in study.axes.items()}


def test_a_wandb_sweep(tmp_path):
    named, text = said_of(WANDB, tmp_path)
    assert named == "this is a Weights & Biases sweep"
    assert "# no axis here: dropout" in text
    study = loaded(text, tmp_path)
    found = axes(study)
    assert found["n_layers"] == [4, 8, 12]
    assert found["d_model"] == [384, 768]
    assert found["optimizer.weight_decay"] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert found["optimizer.lr"][0] == pytest.approx(1e-4)
    assert found["optimizer.lr"][-1] == pytest.approx(1e-2)
    assert (study.search.method, study.search.trials) == ("tpe", 30)
    assert study.trial.batch_size == 16
    assert "n_heads: 12" in text


def test_a_grid_of_wandb_has_no_search_of_its_own(tmp_path):
    study = loaded(said_of(GRID, tmp_path)[1], tmp_path)
    assert axes(study) == {"n_layers": [2, 3, 4, 5, 6]}
    assert study.search.method == "grid"


def test_a_hydra_configuration(tmp_path):
    named, text = said_of(HYDRA, tmp_path)
    assert named == "this is a Hydra configuration"
    found = axes(loaded(text, tmp_path))
    assert found["n_layers"] == [4, 8, 12]
    assert found["ffn_hidden"] == [512, 1024, 1536]
    assert found["optimizer.weight_decay"] == [0.1, 0.2]
    assert len(found["optimizer.lr"]) == 5
    assert "d_model: 512" in text
    assert "3e-4" not in text.replace("0.0003", "3e-4"), "what is an axis isn't fixed too"


def test_hydra_with_optunas_sweeper(tmp_path):
    study = loaded(said_of(HYDRA_OPTUNA, tmp_path)[1], tmp_path)
    assert axes(study) == {"n_layers": [2, 4, 6, 8], "d_model": [256, 512]}
    assert (study.search.method, study.search.trials) == ("tpe", 40)


def test_an_optuna_search_space(tmp_path):
    named, text = said_of(OPTUNA, tmp_path)
    assert named == "this is an Optuna search space"
    assert "# no axis here: activation" in text
    study = loaded(text, tmp_path)
    found = axes(study)
    assert found["n_layers"] == [2, 4, 6, 8]
    assert found["ffn_hidden"] == [512, 768, 1024]
    assert (study.search.method, study.search.trials) == ("random", 25)


@pytest.mark.parametrize(
    "text",
    [
        "parameters: {a: 1}\n",
        "defaults: some\nname: x\n",
        "method: grid\nparameters: {n_layers: [1]}\naxes: {}\n",
        "method: random\nmetric: 3\nparameters: 4\n",
    ],
)
def test_what_only_looks_alike_is_a_study_with_faults(text, tmp_path):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(StudyFaults) as error:
        load(tmp_path / "study.yaml")
    assert "as a study it would be" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "method: grid\nparameters: {a: 1, n_layers: null, lr: {min: x, max: []}, b: {values: {c: 1}}}\n",
        "hydra: {sweeper: {params: [1], sampler: 3, n_trials: -1}}\n",
        "hydra: {sweeper: {params: {n_layers: 'range(a,b)', lr: 'interval(1)', d_model: 'range(1,2,0)'}}}\n",
        "n_trials: x\nsampler: [1]\nsearch_space: {lr: 3, n_layers: {low: 3, high: 1}, d_model: {attributes: 4}}\n",
    ],
)
def test_odd_values_are_left_out(text, tmp_path):
    assert loaded(said_of(text, tmp_path)[1], tmp_path).name == "my-study"
