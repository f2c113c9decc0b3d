"""How much text there is to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainTokens:
    """How many training tokens the data holds, None where unknown; `exact` or estimated, by `source`."""

    tokens: int | None
    exact: bool
    source: str


TokensOf = Callable[[str, int], TrainTokens | None]
"""Training tokens of a data name at a vocabulary size; None where nothing is known."""
