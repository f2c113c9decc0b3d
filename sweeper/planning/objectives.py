"""What a study can weigh: its objectives, by the field's names, and what each is of a config or of an outcome."""

from __future__ import annotations

import math

from sweeper.ledger.typed import FinalLine
from sweeper.model.shape import Shape
from sweeper.values.errors import UsageError
from sweeper.values.events import Final
from sweeper.values.records import Config

EXACT = ("params", "trunk_params", "kv_bytes_per_token", "train_flops_per_token")
"""Those that follow from the config and have no noise; they are quantities of constraints, too."""


def exact(name: str, config: Config) -> float:
    """One of `EXACT`, of a config. UsageError where it isn't known of one that isn't ours."""
    from sweeper.planning.constraints import quantities

    if not isinstance(config.shape, Shape):
        return _stated(name, config)
    shape, recipe = config.ours
    found = quantities(shape, seq_len=recipe.seq_len, tokens_per_step=recipe.tokens_per_step, names=[name])
    return float(found[name])


def _stated(name: str, config: Config) -> float:
    """Of another kind than a shape: what its study says of it."""
    params, flops = config.shape.params, config.flops_per_token
    found = {"params": params.total, "trunk_params": params.trunk, "train_flops_per_token": flops}.get(name)
    if found is None:
        raise UsageError(f"objective {name}: it isn't known of {config.shape.label()}")
    return float(found)


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
