"""Kinds of config: each known by what identifies it, written and read back whole, asked in one way."""

import json
from dataclasses import replace

import pytest
from fake_program import program
from ledger_lines import as_line

from sweeper.ledger.lines import asked_record, event_record
from sweeper.model.shape import Params
from sweeper.planning.axes import value_on
from sweeper.planning.objectives import exact
from sweeper.values.errors import UsageError
from sweeper.values.kinds import Architecture
from sweeper.values.labels import labels
from sweeper.values.records import Config, Execution, Job, probe_id
from tests.fakes import make_final, make_job

OURS = make_job().config
PROGRAM = program(4, 128, flops=6_000_000)
ARCHITECTURE = Config(
    shape=Architecture(
        name="moe", fingerprint="beef", axes=(("experts", 8), ("d_model", 96)),
        params=Params(total=1000, trunk=900, embedding=100, head=0),
    ),
    recipe=OURS.recipe,
)  # fmt: skip
AT = Execution(batch_size=4, compile=False)


def through_json(plain):
    return json.loads(json.dumps(plain))


@pytest.mark.parametrize("config", [OURS, PROGRAM, ARCHITECTURE], ids=["shape", "program", "architecture"])
def test_a_config_and_its_lines_come_back_whole(config):
    back = Config.from_dict(through_json(config.to_dict()))
    assert back == config
    assert (back.config_id, back.shape.params, back.flops_per_token) == (
        config.config_id, config.shape.params, config.flops_per_token,
    )  # fmt: skip
    job = replace(make_job(), config=config)
    for record in (asked_record(job), event_record(make_final(job))):
        line = as_line(through_json(record))
        assert line.job.config == config
        assert line.job.config.shape.params == config.shape.params
        assert line.job.job_id == job.job_id


def test_other_kinds_stand_in_the_place_of_a_shape():
    own = {"name": "nanoGPT", "fingerprint": "c0de", "axes": {"n_layer": 4, "n_embd": 128}}
    params = {"total": 786432, "trunk": 786432, "embedding": 0, "head": 0}
    assert PROGRAM.to_dict() == {"program": own, "params": params, "train_flops_per_token": 6_000_000}
    plain = ARCHITECTURE.to_dict()
    assert list(plain) == ["architecture", "recipe", "params"]
    assert plain["architecture"] == {"name": "moe", "fingerprint": "beef", "axes": {"experts": 8, "d_model": 96}}
    assert list(OURS.to_dict()) == ["shape", "recipe"]


def test_ids_are_of_what_identifies_a_kind():
    assert program(4, 128).config_id == PROGRAM.config_id, "what is said of its FLOPs changes nothing"
    others = [program(2, 128), program(4, 128, fingerprint="beef"), ARCHITECTURE, OURS]
    assert len({config.config_id for config in (PROGRAM, *others)}) == 5
    assert len({probe_id(config, AT) for config in (PROGRAM, *others)}) == 5
    assert probe_id(PROGRAM, AT) != probe_id(PROGRAM, replace(AT, batch_size=8))


def test_a_shapes_ids_are_those_of_before():
    """Computed by the version before there were kinds."""
    assert OURS.config_id == "8f7f7338739e"
    assert probe_id(OURS, AT) == "p82b96d281e19"


def test_a_program_alone_has_no_recipe():
    for wrong in ({"shape": OURS.shape, "recipe": None}, {"shape": PROGRAM.shape, "recipe": OURS.recipe}):
        with pytest.raises(ValueError, match="a program's config has no recipe"):
            Config(**wrong)


def test_what_is_asked_of_a_recipe_is_nothing_where_there_is_none():
    asked = ("data", "precision", "minutes", "steps", "optimizer", "vocab_size")
    assert [getattr(PROGRAM, name) for name in asked] == [None] * len(asked)
    assert PROGRAM.at_precision("fp8") is PROGRAM
    assert PROGRAM.with_recipe(steps=3) is PROGRAM
    assert PROGRAM.tokens_of(3) is None
    job = Job(kind="train", config=PROGRAM, execution=AT)
    assert job.steps is None
    with pytest.raises(ValueError, match="has not been resolved"):
        _ = job.precision
    with pytest.raises(TypeError, match="nanoGPT with n_layer 4, n_embd 128 is no shape"):
        _ = PROGRAM.ours
    assert OURS.ours == (OURS.shape, OURS.recipe)


def test_kinds_lie_on_their_axes():
    assert (value_on("n_layer", PROGRAM), value_on("experts", ARCHITECTURE), value_on("n_layers", OURS)) == (4, 8, 2)
    assert value_on("kv_groups", OURS) == 3
    assert value_on("optimizer.lr", ARCHITECTURE) == OURS.recipe.optimizer.lr


def test_kinds_are_named_by_what_differs():
    each = [program(2, 64), program(2, 128), program(4, 128)]
    named = labels([config.to_dict() for config in each])
    assert named == ["n_layer 2 n_embd 64", "n_layer 2 n_embd 128", "n_layer 4 n_embd 128"]
    assert labels([PROGRAM.to_dict()]) == ["n_layer 4 n_embd 128 nanoGPT"]
    assert labels([OURS.to_dict()]) == ["d96 L2 f352"]
    assert OURS.shape.label() == "n_layers 2, d_model 96, ffn_hidden 352"


def test_exact_objectives_are_what_a_study_says_of_a_kind():
    assert [exact(name, PROGRAM) for name in ("params", "train_flops_per_token")] == [786432, 6_000_000]
    for name, config in (("kv_bytes_per_token", PROGRAM), ("train_flops_per_token", ARCHITECTURE)):
        with pytest.raises(UsageError, match=f"objective {name}: it isn't known of"):
            exact(name, config)
