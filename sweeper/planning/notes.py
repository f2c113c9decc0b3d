"""What a plan says in sentences: what is settled by measuring while the study runs, and what planning has rescaled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sweeper.labels import gibibytes
from sweeper.planning.memory import LADDER_SLACK
from sweeper.planning.tokens import reference_tokens
from sweeper.records import Config
from sweeper.study.schema import Ladder, Study


def notes(study: Study, batches: Mapping[Config, Sequence[int]]) -> tuple[str, ...]:
    """One sentence for each thing that the plan's figures don't show; `batches`: the micro-batches of each config."""
    made = (_rescaled(study, batches), _ladder(study, batches), _auto(batches), _minutes(batches), _hours(study))
    return tuple(sentence for sentence in made if sentence)


def _rescaled(study: Study, configs: Iterable[Config]) -> str:
    reference = reference_tokens(study.trial, study.axes)
    if reference is None or {config.recipe.tokens_per_step for config in configs} == {reference}:
        return ""
    if study.trial.optimizer.batch_scaling == "none":
        return "lr and weight_decay are the same at all tokens per step (batch_scaling: none)."
    return (
        f"lr and weight_decay are given for {reference:,} tokens per step; both are multiplied by "
        f"√(tokens per step ÷ {reference:,}) in the recipes."
    )


def _ladder(study: Study, batches: Mapping[Config, Sequence[int]]) -> str:
    ladder, cap = study.trial.batch_size, study.budget.memory
    if not isinstance(ladder, Ladder):
        return ""
    rungs = ", ".join(map(str, sorted(ladder.fastest)))
    said = f"The micro-batch is the fastest of {rungs} that has memory, by probes; memory is that of the smallest."
    cut = sum(len(sizes) < len(ladder.fastest) for sizes in batches.values())
    if cut and cap is not None:
        said += (
            f" {cut} of {len(batches)} configs leave out micro-batches predicted above {LADDER_SLACK:g} × "
            f"{gibibytes(cap)}."
        )
    return said


def _auto(configs: Iterable[Config]) -> str:
    if all(config.recipe.precision != "auto" for config in configs):
        return ""
    return "Precision auto is the faster of bf16 and fp8, by probes; memory is that of bf16."


def _minutes(configs: Iterable[Config]) -> str:
    if all(config.recipe.minutes is None for config in configs):
        return ""
    return "Minutes become whole steps by each config's measured speed; tokens and FLOPs here rest on a predicted one."


def _hours(study: Study) -> str:
    hours = study.search.max_gpu_hours
    return "" if hours is None else f"No further job starts once {hours:g} device-hours are spent (max_gpu_hours)."
