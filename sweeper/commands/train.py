"""What `sweeper train` makes of its flags: a study of one config, under the same checks as any study."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sweeper.commands.arguments import BASE_FIELDS, LENGTHS, OPTIMIZER_NUMBERS
from sweeper.commands.shape import counts, preset, shape_or_faults
from sweeper.model.shape import Shape
from sweeper.study.loader import load
from sweeper.study.schema import EMBEDDED_DATA, LoadedStudy
from sweeper.study.sizes import typed
from sweeper.values.errors import Fault, StudyFaults, UsageError
from sweeper.values.machine import cpu_count, this_machine
from sweeper.values.paths import results_in, shown

DEFAULT_TOKENS = "60M"
_PLAIN = ("tokens_per_step", "tokens", *LENGTHS, "eval_tokens", "fp8_backend", "fp8_filter")
_BASE = "trial.optimizer.base"
_FLAGS = {"trial.optimizer.name": "optimizer", _BASE: " --".join(f"base_{name}" for name in BASE_FIELDS[:2])}
"""Flags that are called otherwise than the last word of what they set in the study."""


def train_study(flags: Mapping[str, Any]) -> LoadedStudy:
    """The study. Raises UsageError with all that is wrong with the flags, each with what would be right."""
    shape, faults = shape_or_faults(flags)
    if flags["use_fp8"] and flags["precision"] not in (None, "fp8"):
        faults.append(f"--use_fp8 and --precision {flags['precision']}: one excludes the other; leave one of them out")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.yaml"
        file.write_text(yaml.safe_dump(_document(flags, shape), allow_unicode=True), encoding="utf-8")
        try:
            loaded = load(file)
        except StudyFaults as error:
            faults += [f"--{_flag(fault)}: {fault.message}" for fault in error.faults]
    if faults:
        raise UsageError("\n".join(faults))
    return loaded


def _flag(fault: Fault) -> str:
    """The flag that set what is wrong."""
    if fault.path.startswith(f"{_BASE}."):
        return f"base_{fault.path.rpartition('.')[2]}"
    return _FLAGS.get(fault.path) or fault.path.partition("[")[0].removesuffix(".fastest").rpartition(".")[2]


def gave_way(flags: Mapping[str, Any], shape: Shape) -> str:
    """A sentence where the preset's heads couldn't split the width that flags ask for, "" where they could."""
    own = preset(flags)["model"]
    asked = [name for name in ("n_heads", "head_dim", "n_kv_heads", "kv_groups") if flags.get(name) is not None]
    if asked or shape.d_model % own["n_heads"] == 0:
        return ""
    taken = ", ".join(f"{name} {getattr(shape, name)}" for name in ("n_heads", "head_dim", "n_kv_heads"))
    return f"--d_model {shape.d_model} can't be split over {own['n_heads']} heads; taken instead: {taken}"


def _document(flags: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    data = Path(flags["data"])
    here = flags["data"] not in EMBEDDED_DATA and data.exists()
    given = {name: typed(flags[name]) for name in _PLAIN if flags[name] is not None}
    if not any(name in given for name in ("tokens", *LENGTHS)):
        given["tokens"] = DEFAULT_TOKENS
    return {
        "name": "train",
        "question": f"How well and how fast does {shape.n_layers} × {shape.d_model} train?",
        "model": {key: value for key, value in shape.to_dict().items() if key != "head_dim"},
        "budget": {"memory": flags["memory"]} if flags["memory"] is not None else {},
        "trial": {
            **_steps(flags, seq_len=_count(flags, "seq_len", 1024)),
            **given,
            "seq_len": _count(flags, "seq_len", 1024),
            "seeds": _count(flags, "seeds", 1),
            "branch_at": [typed(at) for at in (flags["branch_at"] or "").split(",") if at],
            "data": str(data.absolute()) if here else flags["data"],
            "precision": "fp8" if flags["use_fp8"] else flags["precision"] or "bf16",
            "compile": flags["compile"],
            "optimizer": _optimizer(flags),
        },
        "resources": {"gpus": this_machine().job_gpus(None), "allow_shared": flags["allow_shared"]},
    }


def _count(flags: Mapping[str, Any], name: str, default: int) -> int:
    """A count; where it is faulty, and was reported, a sound one in its place, so that the rest can be checked."""
    value: int | None = flags[name]
    return value if value is not None and value >= 1 else default


def _steps(flags: Mapping[str, Any], *, seq_len: int) -> dict[str, Any]:
    """Micro-batch and tokens per step, from the preset where flags don't say."""
    own = preset(flags)["trial"]
    sizes = counts(flags["batch_size"])
    sound = sizes if sizes and min(sizes) >= 1 else [own["batch_size"]]
    if len(sound) > 1:
        # A ladder's step is the same on each rung: the preset's, unless flags say otherwise.
        step = {} if flags["tokens_per_step"] else {"tokens_per_step": math.prod((*own.values(), seq_len))}
        accumulation = {} if flags["grad_accum_steps"] is None else {"grad_accum_steps": flags["grad_accum_steps"]}
        return {"batch_size": {"fastest": sound}, **step, **accumulation}
    if flags["tokens_per_step"] is not None and flags["grad_accum_steps"] is None:
        return {"batch_size": sound[0]}
    return {
        "batch_size": sound[0],
        "grad_accum_steps": _count(flags, "grad_accum_steps", own["grad_accum_steps"]),
    }


def _optimizer(flags: Mapping[str, Any]) -> dict[str, Any]:
    names = {"name": "optimizer", "parametrization": "parametrization", "batch_scaling": "batch_scaling"}
    words = {name: flags[flag] for name, flag in names.items() if flags[flag] is not None}
    numbers = {name: typed(flags[name]) for name in ("lr", *OPTIMIZER_NUMBERS) if flags[name] is not None}
    base = {name: typed(flags[f"base_{name}"]) for name in BASE_FIELDS if flags[f"base_{name}"] is not None}
    betas = {} if flags["betas"] is None else {"betas": [typed(beta) for beta in flags["betas"].split(",")]}
    return {**words, **numbers, **betas, **({"base": base} if base else {})}


def train(arguments: Any) -> None:
    """Train one shape: a study of one config."""
    from sweeper.commands.opening import planned
    from sweeper.commands.run import execute
    from sweeper.commands.terminal import console
    from sweeper.ledger.file import read
    from sweeper.ledger.typed import FinalLine
    from sweeper.planning.plan import plan_json
    from sweeper.report.tables import plan_table
    from sweeper.runners.training.checkpoint import Checkpoints, outlook
    from sweeper.runners.training.hf_export import export_finished
    from sweeper.running.study_run import StudyRun
    from sweeper.values.run_folder import RunFolder

    loaded = train_study(vars(arguments))
    plan = planned(loaded)
    terminal = console()
    if note := gave_way(vars(arguments), plan.configs[0].config.ours[0]):
        terminal.print(note)
    terminal.print(plan_table(plan_json(plan)))
    if arguments.dry_run:
        return
    folder = RunFolder(root=(arguments.out / "train" / plan.configs[0].config.config_id).absolute())
    run = StudyRun(loaded=loaded, plan=plan, folder=folder, command=arguments.written)
    checkpoints = Checkpoints(folder=folder.checkpoints, every=arguments.checkpoint_every, resume=arguments.resume)
    with results_in(folder.root):
        settled = {line.trial_id for line in read(folder.ledger) if isinstance(line, FinalLine)}
        for line in outlook(checkpoints, plan.configs[0].config, settled=settled, data_path=plan.data_path):
            terminal.print(line)
    execute(
        run,
        terminal,
        machines=this_machine(),
        out=arguments.out,
        gpus=this_machine().job_gpus(loaded.study.resources.gpus),
        cpus=cpu_count(),
        in_process=True,
        options={"checkpoints": checkpoints},
    )
    with results_in(folder.root):
        for seed, model in export_finished(checkpoints, plan.configs[0].config, folder.models):
            terminal.print(f"model of seed {seed}: {shown(model)} (LlamaForCausalLM.from_pretrained takes it)")
