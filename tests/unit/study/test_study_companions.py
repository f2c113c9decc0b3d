"""Fields that go with a value of another: what a study, its profiles and its overrides come to mean with them."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.study.loader import load
from sweeper.study.schema import BaseFields, Ladder, LoadedStudy
from sweeper.values.errors import StudyFaults

STUDY = """
    name: companions
    model: {n_layers: 2, d_model: 64, vocab_size: 256}
    budget: {memory: 1.5GiB}
    trial:
      minutes: 0.5
      seq_len: 256
      tokens_per_step: 8192
      batch_size: {fastest: [8, 2, 4]}
      precision: auto
      fp8_backend: transformer_engine
      fp8_filter: none
      optimizer: {lr: 1e-3, parametrization: completep, base: {n_layers: 4, d_model: 96, tokens_per_step: 16384}}
    resources: {allow_shared: true}
    profiles:
      cpu: {trial: {precision: fp32, batch_size: 4, optimizer: {parametrization: standard}}}
      tokens: {trial: {tokens: 1M, batch_size: {fastest: [1, 2]}}}
      axes:
        axes: {precision: [bf16, fp8], optimizer.parametrization: [completep, standard], minutes: [1, 2.5]}
      muon: {trial: {optimizer: {name: muon, momentum: 0.9, parametrization: null}}}
"""
Loads = Callable[..., LoadedStudy]


@pytest.fixture
def loads(tmp_path: Path) -> Loads:
    def loads(**options: Any) -> LoadedStudy:
        file = tmp_path / "study.yaml"
        file.write_text(textwrap.dedent(STUDY), encoding="utf-8")
        return load(file, **options)

    return loads


def test_the_study_as_written(loads: Loads) -> None:
    study = loads(profile="full").study
    trial = study.trial
    assert study.budget.memory == 3 * 2**29
    assert study.resources.allow_shared is True
    assert (trial.minutes, trial.tokens) == (0.5, None)
    assert trial.batch_size == Ladder(fastest=(8, 2, 4))
    assert (trial.precision, trial.fp8_backend, trial.fp8_filter) == ("auto", "transformer_engine", "none")
    assert trial.optimizer.base == BaseFields(n_layers=4, d_model=96, tokens_per_step=16384)
    assert (trial.optimizer.parametrization, trial.optimizer.batch_scaling) == ("completep", "sqrt")
    assert (trial.optimizer.name, trial.optimizer.momentum) == ("adamw", None)


def test_a_profile_that_turns_from_a_value_leaves_its_companions(loads: Loads) -> None:
    trial = loads().study.trial
    assert (trial.precision, trial.fp8_backend, trial.fp8_filter) == ("fp32", None, None)
    assert (trial.optimizer.parametrization, trial.optimizer.base) == ("standard", None)
    assert trial.batch_size == 4
    assert trial.optimizer.lr == 1e-3


def test_a_profile_that_keeps_the_value_keeps_them(loads: Loads) -> None:
    study = loads(profile="axes").study
    assert study.axes["precision"] == ("bf16", "fp8")
    assert study.axes["minutes"] == (1.0, 2.5)
    assert study.axes["optimizer.parametrization"] == ("completep", "standard")
    assert (study.trial.fp8_backend, study.trial.fp8_filter) == ("transformer_engine", "none")
    assert study.trial.optimizer.base is not None
    assert study.trial.minutes is None


def test_removing_the_owner_removes_them_too(loads: Loads) -> None:
    optimizer = loads(profile="muon").study.trial.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.base) == ("muon", 0.9, None)


def test_lengths_and_ladders_replace_each_other(loads: Loads) -> None:
    trial = loads(profile="tokens").study.trial
    assert (trial.minutes, trial.tokens) == (None, 1_000_000)
    assert trial.batch_size == Ladder(fastest=(1, 2))
    again = loads(profile="cpu", overrides=["trial.batch_size={fastest: [2, 8]}", "trial.flops=1e15"]).study.trial
    assert (again.batch_size, again.minutes, again.flops) == (Ladder(fastest=(2, 8)), None, 1e15)
    axis = loads(overrides=["axes.batch_size=[2, 8]"]).study
    assert (axis.trial.batch_size, axis.axes["batch_size"]) == (None, (2, 8))


def test_what_the_layer_itself_says_is_never_left_out(loads: Loads) -> None:
    with pytest.raises(StudyFaults) as caught:
        loads(profile="full", overrides=["trial.precision=bf16", "trial.fp8_filter=none"])
    assert [fault.path for fault in caught.value.faults] == ["trial.fp8_filter"]


@pytest.mark.parametrize("profile", ["full", "cpu", "tokens", "axes", "muon"])
def test_what_is_resolved_loads_to_the_same_study(loads: Loads, tmp_path: Path, profile: str) -> None:
    loaded = loads(profile=profile)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(yaml.safe_dump(dict(loaded.resolved)))
    assert load(resolved).study == loaded.study
