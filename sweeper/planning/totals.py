"""What all trials of a plan come to, from its configs in columns: exact sums, whatever their size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.planning.estimates import Calibration, branch_tokens
from sweeper.planning.feasible import Feasible, Group
from sweeper.planning.train_tokens import TokensOf
from sweeper.study.schema import Study

SPARE = 2
"""With search.prune, a search may propose so many times its trials: others in place of what is put last."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Over all trials. `seconds` are of jobs one after another; `max_epochs` None where data is unknown.

    `probes` are short runs that measure speed alone, beside the trials, and at most so many: one per micro-batch
    (and, of precision auto, per precision) where a config has several, or minutes; configs that differ only in what
    speed doesn't depend on share them. Tokens, FLOPs and seconds leave them out. `tokens_exact` is False where
    tokens and FLOPs are estimates, as recipes give minutes. Tokens, FLOPs and seconds are also those of branches, whose
    tokens are `branch_tokens`; they add no pass over the data, as a branch reads what its trial reads too.
    Every config has `seeds`, and may get up to `most_seeds`; trials and all sums are those of `seeds`.
    Where the search tries fewer configs than are feasible, sums are those of as many average configs.
    """

    configs: int
    trials: int
    probes: int
    seeds: int
    most_seeds: int
    tokens: int
    branch_tokens: int
    tokens_exact: bool
    train_flops: int
    seconds: float
    max_epochs: float | None


def totals(study: Study, found: Feasible, speed: Calibration, held: TokensOf, *, probes: int) -> Totals:
    """Of a plan with at least one config; `probes` as of all of them."""
    configs, seeds, branch_at = len(found), study.trial.first_seeds, study.trial.branch_at
    tried = configs if study.search.trials is None else min(configs, study.search.trials)
    tokens = of_branches = flops = 0
    seconds = 0.0
    epochs: list[float] = []
    for group in found.groups:
        recipe = group.settings.common_recipe
        per_token: Any = group.shapes.shape.train_flops_per_token(recipe.seq_len)
        each = _tokens(group, per_token, speed)
        branches = branch_tokens(each, recipe, branch_at)
        tokens += _sum(each + branches)
        of_branches += _sum(branches)
        flops += _sum(each + branches, per_token)
        seconds += float(np.sum(speed.seconds_of(per_token, each, recipe, branch_at)))
        epochs += _epochs(group, each, held)
    return Totals(
        configs=tried,
        trials=tried * seeds,
        probes=probes * min(configs, tried * (SPARE if study.search.prune else 1)) // configs,
        seeds=seeds,
        most_seeds=study.trial.most_seeds,
        tokens=tokens * tried * seeds // configs,
        branch_tokens=of_branches * tried * seeds // configs,
        tokens_exact=all(group.settings.common_recipe.minutes is None for group in found.groups),
        train_flops=flops * tried * seeds // configs,
        seconds=seconds * tried * seeds / configs,
        max_epochs=max(epochs, default=None),
    )


def _tokens(group: Group, per_token: Any, speed: Calibration) -> Any:
    """Training tokens of each config."""
    recipe = group.settings.common_recipe
    if group.steps is None:
        return np.asarray(speed.tokens_in_minutes(per_token, recipe)).astype(np.int64)
    return np.broadcast_to(group.steps * recipe.tokens_per_step, per_token.shape)


def _epochs(group: Group, tokens: Any, held: TokensOf) -> list[float]:
    """The most passes over the data, for each vocabulary of which it's known what the data holds."""
    vocabulary: Any = group.shapes.shape.vocab_size
    most = []
    for size in np.unique(vocabulary).tolist():
        known = held(group.settings.common_recipe.data, size)
        if known is not None and known.tokens:
            most.append(int(tokens[vocabulary == size].max()) / known.tokens)
    return most


def _sum(*factors: Any) -> int:
    """The sum of products, in 64 bits where these suffice."""
    bound = float(len(factors[0]))
    for factor in factors:
        bound *= float(factor.max())
    if bound >= 2.0**62:
        factors = tuple(factor.astype(object) for factor in factors)
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return int(product.sum())
