"""The `sweeper train` command that trains a config: the inverse of `sweeper.commands.train`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sweeper.model.shape import FIELDS, Shape
from sweeper.study.schema import Trial
from sweeper.values.records import Base, Config, Optimizer, Recipe

_DEFAULTS = Optimizer()


def train_words(
    config: Config, *, batch_sizes: Sequence[int], compiled: bool, data_path: Path | None = None
) -> list[str]:
    """The command's words. Of several `batch_sizes` the fastest is taken; `data_path` is where the recipe's data lies,
    None for an embedded corpus.

    One seed, the first. What `train` does anyway isn't said, but for the learning rate and the shape.
    """
    shape, recipe = config.ours
    micro_batch = ("--batch_size", ",".join(map(str, batch_sizes)), "--tokens_per_step", str(recipe.tokens_per_step))
    how = (*_precision(recipe), *(("--compile",) if compiled else ()), *micro_batch)
    return ["sweeper", "train", *_shape(shape), *how, *_recipe(recipe, data_path)]


def _shape(shape: Shape) -> Iterator[str]:
    for name in FIELDS:
        if name not in ("tie_embeddings", "head_dim"):  # the head's size follows from their number
            yield from (f"--{name}", str(getattr(shape, name)))
    yield "--tie_embeddings" if shape.tie_embeddings else "--no_tie_embeddings"


def _precision(recipe: Recipe) -> Iterator[str]:
    yield from ("--precision", recipe.precision)
    for name in ("fp8_backend", "fp8_filter"):
        if value := getattr(recipe, name):
            yield from (f"--{name}", value)


def _recipe(recipe: Recipe, data_path: Path | None) -> Iterator[str]:
    yield from ("--data", recipe.data if data_path is None else str(data_path), "--seq_len", str(recipe.seq_len))
    if recipe.tokens is None:
        yield from ("--minutes", _text(recipe.minutes))
    else:
        yield from ("--tokens", str(recipe.tokens))
    if recipe.eval_tokens != Trial.model_fields["eval_tokens"].default:
        yield from ("--eval_tokens", str(recipe.eval_tokens))
    optimizer = recipe.optimizer
    if optimizer.name != _DEFAULTS.name:
        yield from ("--optimizer", optimizer.name)
    yield from ("--lr", _text(optimizer.lr))
    for name in ("weight_decay", "warmup", "cooldown", "eps", "grad_clip", "momentum"):
        if (value := getattr(optimizer, name)) != getattr(_DEFAULTS, name):
            yield from (f"--{name}", _text(value))
    if optimizer.betas != _DEFAULTS.betas:
        yield from ("--betas", ",".join(map(_text, optimizer.betas)))
    if optimizer.base is not None:
        yield from ("--parametrization", "completep")
        for field in fields(Base):
            yield from (f"--base_{field.name}", str(getattr(optimizer.base, field.name)))


def _text(value: Any) -> str:
    """A number so that it is read back as the same."""
    return repr(value)
