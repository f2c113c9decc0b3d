"""What a study can weigh: its objectives, by the field's names, and what each is of a config or of an outcome."""

from __future__ import annotations

import math

from sweeper.ledger.typed import FinalLine
from sweeper.values.events import Final
from sweeper.values.records import Config

EXACT = ("params", "trunk_params", "kv_bytes_per_token", "train_flops_per_token")
"""Those that follow from the config and have no noise; they are quantities of constraints, too."""


def exact(name: str, config: Config) -> float:
    """One of `EXACT`, of a config."""
    from sweeper.planning.constraints import quantities

    recipe = config.recipe
    found = quantities(config.shape, seq_len=recipe.seq_len, tokens_per_step=recipe.tokens_per_step, names=[name])
    return float(found[name])


def of_final(name: str, final: Final) -> float | None:
    """An objective of a trial, in its own unit; None where the trial hasn't measured it."""
    tokens_per_s = final.speed.tokens_per_s if final.speed else None
    return _value(name, final.job.config, final.val_loss, tokens_per_s, final.peak_memory_bytes)


def of_line(name: str, line: FinalLine) -> float | None:
    """The same of a trial's line in the ledger."""
    tokens_per_s = line.speed.tokens_per_s if line.speed else None
    return _value(name, line.config, line.val_loss, tokens_per_s, line.peak_memory_bytes)


def _value(
    name: str, config: Config, val_loss: float | None, tokens_per_s: float | None, peak_memory_bytes: int | None
) -> float | None:
    if name in EXACT:
        return exact(name, config)
    return {"val_loss": val_loss, "tokens_per_s": tokens_per_s, "peak_memory_bytes": peak_memory_bytes}[name]


def scaled(name: str, value: float) -> float:
    """As a sampler is told it: all but the loss compare by ratios, so that no extreme decides a hypervolume alone."""
    return value if name == "val_loss" else math.log(value) if value > 0 else math.nan
