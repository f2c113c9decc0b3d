"""What every search strategy must keep, whatever it is: all proposals feasible, none twice, seeded, exhaustible."""

import pytest

from model.shape import derive
from sweeper.records import Config, Execution, Final, Job, Optimizer, Recipe
from sweeper.search import make_strategy

AXES = ("n_layers", "ffn_hidden")
METHODS = ("grid", "random", "space_filling")
RECIPE = Recipe(
    data="python-stdlib", steps=10, seq_len=32, tokens_per_step=128, precision="fp32", optimizer=Optimizer(),
    eval_tokens=1024,
)  # fmt: skip
FEASIBLE = [
    Config(
        shape=derive({"n_layers": n, "d_model": 64, "ffn_hidden": f, "vocab_size": 256, "tie_embeddings": True}),
        recipe=RECIPE,
    )
    for n in range(1, 9)
    for f in (32, 64, 96, 128)
]


def proposals(method, *, seed=0, trials=None, configs=FEASIBLE):
    strategy = make_strategy(method, configs, trials=trials, seed=seed, axes=AXES)
    found = []
    while (config := strategy.propose()) is not None:
        found.append(config)
        assert len(found) <= len(configs)
    assert strategy.propose() is None, "an exhausted strategy stays exhausted"
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_feasible_config_is_proposed_exactly_once_when_there_is_room_for_all(method):
    found = proposals(method, trials=len(FEASIBLE) if method != "grid" else None)
    assert sorted(c.config_id for c in found) == sorted(c.config_id for c in FEASIBLE)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_and_repeats(method):
    assert proposals(method, seed=1, trials=10) == proposals(method, seed=1, trials=10)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "grid"])
def test_other_seeds_choose_others_and_trials_is_kept(method):
    chosen = {tuple(c.config_id for c in proposals(method, seed=seed, trials=10)) for seed in range(5)}
    assert len(chosen) == 5
    assert {len(choice) for choice in chosen} == {10}


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_feasible_set_is_exhausted_at_once(method):
    assert proposals(method, trials=3, configs=[]) == []


@pytest.mark.parametrize("method", METHODS)
def test_any_outcome_can_be_observed(method):
    strategy = make_strategy(method, FEASIBLE, trials=3, seed=0, axes=AXES)
    config = strategy.propose()
    job = Job(kind="train", config=config, execution=Execution(batch_size=1, compile=False))
    for status in ("ok", "diverged", "out_of_memory", "stopped_early"):
        strategy.observe(
            Final(
                job=job, status=status, val_loss=None, val_bpb=None, curve=(), tokens=0, seconds={}, speed=None,
                peak_memory_bytes=None, environment={},
            )
        )  # fmt: skip
    assert strategy.propose() != config
