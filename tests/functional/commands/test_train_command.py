"""`sweeper train` takes the guide's every command line, and the study's every key under its own name."""

import pytest

from sweeper.commands import main, opening
from sweeper.values import machine
from sweeper.values.records import Base, Execution, Optimizer

GUIDE = """
python train.py --d_model 768 --n_layers 12 --n_heads 12 --n_kv_heads 4 --ffn_hidden 2560 --use_fp8 --compile --batch_size 12 --grad_accum_steps 8
python train.py --d_model 768 --n_layers 32 --n_heads 12 --n_kv_heads 4 --ffn_hidden 2048 --use_fp8 --compile --batch_size 8 --grad_accum_steps 12
python train.py --d_model 768 --n_layers 20 --n_heads 12 --n_kv_heads 4 --ffn_hidden 2304 --use_fp8 --compile --batch_size 10 --grad_accum_steps 10
python train.py --d_model 1024 --n_layers 12 --n_heads 16 --n_kv_heads 4 --ffn_hidden 2730 --use_fp8 --compile --batch_size 8 --grad_accum_steps 12
python train.py --d_model 1024 --n_layers 24 --n_heads 16 --n_kv_heads 4 --ffn_hidden 4096 --use_fp8 --compile --batch_size 4 --grad_accum_steps 16
python train.py --n_layers 32 --ffn_hidden 1792 --use_fp8 --compile
python train.py --n_layers 32 --ffn_hidden 2048 --use_fp8 --compile
python train.py --n_layers 32 --ffn_hidden 2304 --use_fp8 --compile
python train.py --n_layers 12 --ffn_hidden 2560 --use_fp8 --compile
python train.py --n_layers 20 --ffn_hidden 2304 --use_fp8 --compile
python train.py --n_layers 40 --ffn_hidden 1792 --use_fp8 --compile
python train.py --d_model 640 --n_layers 32 --use_fp8 --compile
python train.py --d_model 768 --n_layers 32 --use_fp8 --compile
python train.py --d_model 896 --n_layers 32 --use_fp8 --compile
python train.py --n_layers 12 --ffn_hidden 2560 --use_fp8 --compile --batch_size 16
python train.py --n_layers 20 --ffn_hidden 2304 --use_fp8 --compile --batch_size 10
python train.py --n_layers 32 --ffn_hidden 2048 --use_fp8 --compile --batch_size 8
python train.py --n_layers 12 --ffn_hidden 2048 --use_fp8 --compile --batch_size 8
python train.py --d_model 1024 --n_layers 24 --use_fp8 --compile
python train.py --d_model 1280 --n_layers 20 --use_fp8 --compile
"""  # noqa: E501
"""Every command line that the model size guide prints, but that with an X for a number."""

HEADS_INSTEAD = {
    640: "taken instead: n_heads 10, head_dim 64, n_kv_heads 5",
    896: "taken instead: n_heads 14, head_dim 64, n_kv_heads 7",
    1024: "taken instead: n_heads 16, head_dim 64, n_kv_heads 4",
    1280: "taken instead: n_heads 20, head_dim 64, n_kv_heads 5",
}
"""Of the guide's widths that its default 12 heads can't split."""


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Runs `sweeper train`, which must end with the code expected; what it said in one line, and what it planned."""
    (tmp_path / "text").mkdir()
    for number in range(10):
        lines = [f"line {i} of file {number}: {i * number}\n" for i in range(200)]
        (tmp_path / "text" / f"{number}.txt").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "gpu_count", lambda: 0)
    plans, real = [], opening.planned
    monkeypatch.setattr(opening, "planned", lambda loaded: plans.append((loaded.study, real(loaded))) or plans[-1][1])

    def run(*flags, code=0):
        try:
            ended = main.main(["train", "--data", "text", *flags, "--dry_run"])
        except SystemExit as refused:
            ended = refused.code
        out, err = capsys.readouterr()
        assert ended == code, out + err
        return err if code else (" ".join(out.split()), *plans.pop())

    return run


def guides_total(d_model, n_layers, n_kv_heads, head_dim, ffn_hidden):
    """The guide's own formula, its "norms" two a layer, "output" a second table."""
    emb_params = 32768 * d_model
    attn_params = d_model * (d_model + 2 * n_kv_heads * head_dim + d_model)
    layer_params = attn_params + d_model * ffn_hidden * 3 + 2 * d_model
    return emb_params + n_layers * layer_params + d_model + emb_params


@pytest.mark.parametrize("line", GUIDE.split("\n")[1:-1])
def test_the_guides_command_lines(train, line):
    flags = line.removeprefix("python train.py ").split()
    said, study, plan = train(*flags)
    given = {"d_model": 768, "batch_size": 8, "grad_accum_steps": 12}
    words = iter(flags)
    given |= {flag[2:]: int(next(words)) for flag in words if flag not in ("--use_fp8", "--compile")}
    (planned,) = plan.configs
    shape, recipe = planned.config.shape, planned.config.recipe
    assert (recipe.precision, study.trial.compile) == ("fp8", True)
    assert recipe.tokens_per_step == given["batch_size"] * given["grad_accum_steps"] * 1024
    assert planned.executions == (Execution(batch_size=given["batch_size"], compile=True),)
    asked = {name: value for name, value in given.items() if hasattr(shape, name)}
    assert {name: getattr(shape, name) for name in asked} == asked
    assert shape.ffn_hidden == given.get("ffn_hidden", int(shape.d_model * 8 / 3))
    kv, head_dim = shape.n_kv_heads, shape.head_dim
    assert shape.n_heads * head_dim == shape.d_model
    assert planned.params.total == guides_total(shape.d_model, shape.n_layers, kv, head_dim, shape.ffn_hidden)
    heads = None if "n_heads" in given else HEADS_INSTEAD.get(shape.d_model)
    assert ("can't be split over 12 heads" in said) == (heads is not None)
    assert heads is None or heads in said


def test_the_guides_line_with_a_placeholder_is_refused(train):
    assert "argument --n_layers: invalid int value: 'X'" in train("--n_layers", "X", code=2)


def test_heads_that_do_not_divide_are_refused_with_the_nearest(train):
    assert "--d_model and --n_heads: d_model 640 can't be split over 12 heads" in train(
        "--d_model", "640", "--n_heads", "12", code=2
    )


STUDY_KEYS = (
    "--optimizer muon --lr 2e-3 --weight_decay 0.2 --warmup 0.1 --cooldown 50% --betas 0.8,0.9 --eps 1e-9 "
    "--grad_clip 0.5 --momentum 0.9 --seq_len 256 --tokens_per_step 16384 --batch_size 4 --tokens 1M "
    "--eval_tokens 100k --precision fp8 --fp8_backend transformer_engine --fp8_filter none --memory 8GiB "
    "--allow_shared --seeds 2 --branch_at 50%,0.75"
)


def test_flags_are_the_studys_keys(train):
    _, study, plan = train(*STUDY_KEYS.split())
    recipe = plan.configs[0].config.recipe
    assert recipe.optimizer == Optimizer(
        name="muon", lr=2e-3, weight_decay=0.2, warmup=0.1, cooldown=0.5, betas=(0.8, 0.9), eps=1e-9, grad_clip=0.5,
        momentum=0.9,
    )  # fmt: skip
    assert (recipe.seq_len, recipe.tokens_per_step, recipe.steps, recipe.eval_tokens) == (256, 16384, 61, 100_000)
    assert (recipe.precision, recipe.fp8_backend, recipe.fp8_filter) == ("fp8", "transformer_engine", "none")
    assert study.trial.branch_at == (0.5, 0.75)
    assert (study.budget.memory, study.resources.allow_shared, study.trial.seeds) == (8 * 2**30, True, 2)


def test_what_isnt_said_is_the_studys_default(train):
    _, study, plan = train()
    assert plan.configs[0].config.recipe.optimizer == Optimizer(lr=1e-3)
    assert (study.trial.precision, study.trial.eval_tokens, study.trial.seeds) == ("bf16", 1_048_576, 1)
    assert not study.resources.allow_shared


def test_completep_scales_from_its_base(train):
    flags = "--parametrization completep --base_n_layers 12 --base_d_model 384 --base_tokens_per_step 24576"
    optimizer = train(*flags.split())[2].configs[0].config.recipe.optimizer
    assert optimizer.base == Base(n_layers=12, d_model=384, ffn_hidden=1024)
    assert optimizer.lr == pytest.approx(2e-3)
    unscaled = train(*flags.split(), "--batch_scaling", "none")[2].configs[0].config.recipe.optimizer
    assert unscaled.lr == 1e-3


def test_several_micro_batches_are_a_ladder(train):
    planned = train("--batch_size", "16,4,8")[2].configs[0]
    assert [execution.batch_size for execution in planned.executions] == [4, 8, 16]
    assert (planned.choose, planned.config.recipe.tokens_per_step) == ("fastest", 98304)


@pytest.mark.parametrize(
    ("flags", "recipe"),
    [
        ("--minutes 5", {"minutes": 5.0, "steps": None}),
        ("--flops 1e15 --n_layers 1 --d_model 64", {"steps": 745}),
        ("--tokens_per_param 1", {"steps": 2561}),
        ("--precision auto", {"precision": "auto", "fp8_backend": "torchao", "fp8_filter": "auto"}),
        ("--use_fp8 --precision fp8", {"precision": "fp8"}),
    ],
)
def test_other_ways_to_say_how_long_and_in_what(train, flags, recipe):
    planned = train(*flags.split())[2].configs[0].config.recipe
    assert {name: getattr(planned, name) for name in recipe} == recipe


@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        ("--optimizer muon --momentum 1", "--momentum"),
        ("--momentum 0.9", "--momentum"),
        ("--betas 0.9", "--betas"),
        ("--weight_decay -1", "--weight_decay"),
        ("--warmup 0.9 --cooldown 0.3", "--warmup"),
        ("--tokens 1M --minutes 3", "--tokens"),
        ("--tokens_per_step 1000", "--tokens_per_step"),
        ("--tokens_per_step 98304 --grad_accum_steps 12", "--tokens_per_step"),
        ("--batch_size 4,8 --grad_accum_steps 2", "--grad_accum_steps"),
        ("--batch_size 4,4", "--batch_size"),
        ("--batch_size 4,0", "--batch_size 0"),
        ("--fp8_backend torchao", "--fp8_backend"),
        ("--parametrization completep", "--parametrization"),
        ("--parametrization completep --base_n_layers 4", "--base_d_model"),
        ("--base_n_layers 4", "--base_n_layers"),
        ("--parametrization completep --base_n_layers x --base_d_model 64", "--base_n_layers"),
        ("--optimizer muon --parametrization completep --base_n_layers 4 --base_d_model 64", "--parametrization"),
        ("--memory much", "--memory"),
        ("--branch_at 2%,50%", "--branch_at"),
        ("--branch_at 50%,half", "--branch_at"),
        ("--eval_tokens few", "--eval_tokens"),
        ("--checkpoint_every 0", "--checkpoint_every 0"),
    ],
)
def test_faults_name_the_flag(train, flags, flag):
    lines = train(*flags.split(), code=2).splitlines()
    assert [line for line in lines if not line.startswith("--")] == []
    assert any(line.startswith(flag) for line in lines), lines


@pytest.mark.parametrize("flags", ["--batch_size four", "--batch_size 4,", "--precision int8", "--optimizer sgd"])
def test_words_that_are_no_choice_are_refused(train, flags):
    assert flags.split()[0] in train(*flags.split(), code=2)
