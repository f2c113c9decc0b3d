"""What a plan says in sentences: what is settled by measuring while the study runs, and what planning has rescaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sweeper.planning.memory import LADDER_SLACK, Cap
from sweeper.planning.tokens import longer, reference_tokens
from sweeper.study.schema import Ladder, Study
from sweeper.values.labels import duration, gibibytes, listed, short
from sweeper.values.records import Config

if TYPE_CHECKING:
    from sweeper.planning.estimates import Calibration
    from sweeper.planning.feasible import Group


MOST_CANDIDATES = 20_000
"""How many configs a search that takes a part of them chooses from, at most."""


def notes(study: Study, groups: Sequence[Group], cap: Cap | None) -> tuple[str, ...]:
    """One sentence for each thing that the plan's figures don't show. `cap`: on the memory of a trial."""
    made = (
        _rescaled(study, groups),
        _ladder(study, groups, cap),
        _auto(groups),
        _minutes(groups),
        _candidates(study, groups),
        _hours(study),
        _seeds(study),
        _branches(study),
        _prune(study),
    )
    return tuple(sentence for sentence in made if sentence)


def _rescaled(study: Study, groups: Sequence[Group]) -> str:
    reference = reference_tokens(study.trial, study.axes)
    if reference is None or {group.settings.tokens_per_step for group in groups} == {reference}:
        return ""
    if study.trial.optimizer.batch_scaling == "none":
        return "lr and weight_decay are the same at all tokens per step (batch_scaling: none)."
    return (
        f"lr and weight_decay are given for {reference:,} tokens per step; both are multiplied by "
        f"√(tokens per step ÷ {reference:,}) in the recipes."
    )


def _ladder(study: Study, groups: Sequence[Group], cap: Cap | None) -> str:
    ladder = study.trial.batch_size
    if not isinstance(ladder, Ladder):
        return ""
    rungs = ", ".join(map(str, sorted(ladder.fastest)))
    said = f"The micro-batch is the fastest of {rungs} that has memory, by probes; memory is that of the smallest."
    if cap is None:
        return said
    cut = sum(group.above(cap.for_tensors(LADDER_SLACK)) for group in groups)
    if cut:
        configs = sum(len(group) for group in groups)
        said += (
            f" {cut} of {configs} configs leave out micro-batches predicted above {LADDER_SLACK:g} × "
            f"{gibibytes(cap.memory_bytes)}."
        )
    return said


def _auto(groups: Sequence[Group]) -> str:
    if all(group.settings.common_recipe.precision != "auto" for group in groups):
        return ""
    return "Precision auto is the faster of bf16 and fp8, by probes; memory is that of bf16."


def _minutes(groups: Sequence[Group]) -> str:
    if all(group.settings.common_recipe.minutes is None for group in groups):
        return ""
    return "Minutes become whole steps by each config's measured speed; tokens and FLOPs here rest on a predicted one."


def _candidates(study: Study, groups: Sequence[Group]) -> str:
    configs = sum(len(group) for group in groups)
    if study.search.method == "grid" or configs <= MOST_CANDIDATES:
        return ""
    return f"The search chooses from {MOST_CANDIDATES:,} of the {configs:,} configs, drawn by search.seed."


def _hours(study: Study) -> str:
    hours = study.search.max_gpu_hours
    return "" if hours is None else f"No further job starts once {hours:g} device-hours are spent (max_gpu_hours)."


def _seeds(study: Study) -> str:
    least, most = study.trial.first_seeds, study.trial.most_seeds
    if most == least:
        return ""
    return (
        f"Once every config has {least} seed{'s' if least > 1 else ''}, those that are neither surely on the frontier "
        f"nor surely off it get more, up to {most}: trials, tokens and time above leave these out."
    )


def _branches(study: Study) -> str:
    branch_at = study.trial.branch_at
    if not branch_at:
        return ""
    at = listed([f"{100 * fraction:.3g}%" for fraction in branch_at])
    several = len(branch_at) > 1
    return (
        f"Trials also cool down at {at} of their tokens, in {'branches' if several else 'a branch'} of "
        f"{'their' if several else 'its'} own (trial.branch_at): tokens, FLOPs and time above count "
        f"{'them' if several else 'it'} in."
    )


def follow_up_note(study: Study, configs: Sequence[Config], speed: Calibration) -> tuple[str, ...]:
    """What follow-ups come to, at some of the configs' average."""
    asked = study.follow_up
    if asked is None:
        return ()
    made = [(config, longer(config.recipe, asked.tokens)) for config in configs if config.recipe]
    if not made:
        return ()
    trials = min(asked.shapes, len(configs)) * study.trial.first_seeds
    tokens = trials * sum(speed.tokens(config.flops_per_token or 0, recipe) for config, recipe in made) / len(made)
    each = [speed.seconds(replace(config, recipe=recipe), study.trial.branch_at) or 0.0 for config, recipe in made]
    seconds = trials * sum(each) / len(made)
    at = f"{asked.tokens:g}x their length" if isinstance(asked.tokens, float) else f"{short(asked.tokens)} tokens"
    return (
        f"Then up to {asked.shapes} configs are trained once more, at {at} (follow_up): {trials} trials, about "
        f"{short(tokens)} tokens and {duration(seconds)} on one device, which the figures above leave out.",
    )


def _prune(study: Study) -> str:
    if not study.search.prune:
        return ""
    where = "trials or hours" if study.search.trials else "hours"
    return (
        "Every speed is measured first; what is slower than a finished config, and hardly likely to reach a lower loss "
        f"than that one, is put last, and trained only where {where} are left (search.prune)."
    )
