"""What is said of points whose values scatter more than those of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.values.labels import listed

MOST_NAMED = 4
_WORDS = {"lr": "learning rate", "n_layers": "depth", "d_model": "width", "ffn_hidden": "FFN width"}


@dataclass(frozen=True, kw_only=True)
class NoiseClass:
    """Points whose values scatter more than those of the others that they were split from, which are `others`.

    `sd` and `others_sd` are of one trial: nats of val_loss, a fraction (log) of tokens_per_s. `by` is the covariate
    that the two sides differ in, with the values of the noisy side; None where nothing recorded tells them apart.
    `p` is that of the test, corrected for the number of splits tried.
    """

    metric: str
    labels: tuple[str, ...]
    others: tuple[str, ...]
    sd: float
    others_sd: float
    by: str | None
    values: tuple[Any, ...]
    lowest: bool
    p: float


def class_sentences(classes: Sequence[NoiseClass]) -> list[str]:
    """Of each class that something recorded tells apart: where it is, and how much more it scatters."""
    return [
        f"{_what(one.metric)} scatter more at {_where(one)} (sd {_sd(one.metric, one.sd)} against "
        f"{_sd(one.metric, one.others_sd)}): intervals differ accordingly."
        for one in classes
        if one.by is not None
    ]


def noisy_caveats(classes: Sequence[NoiseClass]) -> list[str]:
    """Names each config that is noisier than the others for nothing that is recorded of it."""
    return [
        f"{listed(one.labels, most=MOST_NAMED)} {'scatters' if len(one.labels) == 1 else 'scatter'} more than the "
        f"others in {'loss' if one.metric == 'val_loss' else 'speed'} (sd {_sd(one.metric, one.sd)} against "
        f"{_sd(one.metric, one.others_sd)}), for nothing that is recorded: intervals there are wider. More seeds "
        "narrow them."
        for one in classes
        if one.by is None
    ]


def _what(metric: str) -> str:
    return "Losses" if metric == "val_loss" else "Speeds"


def _sd(metric: str, sd: float) -> str:
    return f"{sd:.3g} nats" if metric == "val_loss" else f"{sd:.2%}"


def _where(one: NoiseClass) -> str:
    name = (one.by or "").rsplit(".", 1)[-1]
    name = _WORDS.get(name, name)
    if len(one.values) == 1:
        return f"{name} {_value(one.values[0])}"
    if all(isinstance(value, int | float) for value in one.values):
        return f"{name} ≤ {_value(one.values[-1])}" if one.lowest else f"{name} ≥ {_value(one.values[0])}"
    return f"{name} {listed([_value(value) for value in one.values])}"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
