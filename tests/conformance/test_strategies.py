"""What every search strategy must keep, whatever it is: all proposals feasible, none twice, seeded, exhaustible."""

from dataclasses import replace

import pytest

from sweeper.model.shape import derive
from sweeper.search import make_strategy
from sweeper.values.events import Final, SpeedSummary
from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe

AXES = ("n_layers", "ffn_hidden")
METHODS = ("grid", "random", "space_filling", "tpe", "nsga2", "gp")
LEARNING = ("tpe", "nsga2", "gp")
OBJECTIVES = {"val_loss": "min", "tokens_per_s": "max"}
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


def outcome(config, status="ok"):
    """Deep and narrow is good and slow, the FFN the other way round, with an optimum inside."""
    shape = config.shape
    loss = 3 + (shape.n_layers - 5.5) ** 2 / 20 + (shape.ffn_hidden - 80) ** 2 / 4000
    speed = 1e6 / (shape.n_layers * (100 + shape.ffn_hidden))
    job = Job(kind="train", config=config, execution=Execution(batch_size=1, compile=False))
    return Final(
        job=job, status=status, val_loss=loss if status == "ok" else None, val_bpb=None, curve=(), tokens=0, seconds={},
        speed=SpeedSummary(tokens_per_s=speed, low=speed, high=speed, windows=(speed,), step_ms=1.0),
        peak_memory_bytes=None, environment={},
    )  # fmt: skip


def proposals(method, *, seed=0, trials=None, configs=FEASIBLE, at_a_time=1):
    """All that a strategy proposes, each told when `at_a_time` are open; every fifth ends badly."""
    strategy = make_strategy(method, configs, trials=trials, seed=seed, axes=AXES, objectives=OBJECTIVES)
    found, told = [], 0
    expected = len(configs) if method == "grid" or trials is None else min(len(configs), trials)
    while (config := strategy.propose()) is not None:
        found.append(config)
        assert strategy.left == expected - len(found)
        while len(found) - told >= at_a_time:
            strategy.observe(outcome(found[told], "diverged" if told % 5 == 4 else "ok"))
            told += 1
    assert strategy.propose() is None, "an exhausted strategy stays exhausted"
    assert strategy.left == 0
    return found


@pytest.mark.parametrize("at_a_time", [1, 6, 1000])
@pytest.mark.parametrize("method", METHODS)
def test_every_feasible_config_is_proposed_exactly_once_when_there_is_room_for_all(method, at_a_time):
    found = proposals(method, trials=len(FEASIBLE) if method != "grid" else None, at_a_time=at_a_time)
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
    strategy = make_strategy(method, FEASIBLE, trials=16, seed=0, axes=AXES, objectives=OBJECTIVES)
    seen = set()
    for status in ("ok", "diverged", "out_of_memory", "stopped_early") * 4:
        config = strategy.propose()
        assert config.config_id not in seen
        seen.add(config.config_id)
        strategy.observe(outcome(config, status))
        strategy.observe(outcome(config, "ok"))


@pytest.mark.parametrize("method", LEARNING)
def test_what_an_earlier_run_asked_for_is_not_proposed_again_and_counts(method):
    strategy = make_strategy(method, FEASIBLE, trials=14, seed=3, axes=AXES, objectives=OBJECTIVES)
    for config in FEASIBLE[:12]:
        assert strategy.adopt(config)
        strategy.observe(outcome(config))
    assert not strategy.adopt(FEASIBLE[0]), "it is there already"
    assert strategy.left == 2
    found = {strategy.propose().config_id, strategy.propose().config_id}
    assert len(found) == 2
    assert not found & {config.config_id for config in FEASIBLE[:12]}
    assert strategy.propose() is None
    assert not strategy.adopt(FEASIBLE[20]), "there is no room left"


@pytest.mark.parametrize("method", LEARNING)
def test_outcomes_change_what_is_proposed(method):
    """The same seed, the opposite losses."""

    def chosen(sign):
        strategy = make_strategy(method, FEASIBLE, trials=24, seed=0, axes=AXES, objectives={"val_loss": "min"})
        found = []
        while (config := strategy.propose()) is not None:
            found.append(config)
            final = outcome(config)
            strategy.observe(replace(final, val_loss=sign * config.shape.n_layers))
        return [config.shape.n_layers for config in found]

    low, high = chosen(1.0), chosen(-1.0)
    assert low[:8] != high[:8] or low[8:] != high[8:]
    assert sum(low) < sum(high)


@pytest.mark.parametrize("method", LEARNING)
def test_axes_of_words_and_configs_that_differ_on_none(method):
    worded = [
        replace(config, recipe=replace(RECIPE, precision=precision))
        for config in FEASIBLE[::2] for precision in ("fp32", "bf16")
    ]  # fmt: skip
    for axes in (("n_layers", "ffn_hidden", "precision"), ("precision",), ("d_model",), ()):
        strategy = make_strategy(method, worded, trials=14, seed=0, axes=axes, objectives=OBJECTIVES)
        found = set()
        while (config := strategy.propose()) is not None:
            found.add(config.config_id)
            strategy.observe(outcome(config))
        assert len(found) == 14


def test_gp_finds_the_frontier_where_the_configs_are_a_thin_sheet_in_the_box():
    """The FFN follows from the depth, as where it is solved: most of the box holds no config."""
    sheet = [
        Config(
            shape=derive(
                {"n_layers": n, "d_model": 64, "ffn_hidden": 16 * (40 - n), "vocab_size": 256, "tie_embeddings": True}
            ),
            recipe=RECIPE,
        )
        for n in range(1, 37)
    ]
    best = {config.config_id for config in sheet[11:18]}

    def outcome_of(config):
        told = outcome(config)
        return replace(told, val_loss=3 + abs(config.shape.n_layers - 15) / 50, speed=None)

    found = 0
    for seed in range(5):
        strategy = make_strategy("gp", sheet, trials=12, seed=seed, axes=AXES, objectives={"val_loss": "min"})
        while (config := strategy.propose()) is not None:
            found += config.config_id in best
            strategy.observe(outcome_of(config))
    assert found / 5 > 5, "at random it would be 12 × 7 ÷ 36 = 2.3"
