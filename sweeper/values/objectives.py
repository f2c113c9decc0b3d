"""What a study can weigh: its objectives, by the field's names, which way is better, and what counts as none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Direction = Literal["min", "max"]


DIRECTIONS: Mapping[str, Direction] = {
    "val_loss": "min",
    "tokens_per_s": "max",
    "peak_memory_bytes": "min",
    "params": "min",
    "trunk_params": "min",
    "kv_bytes_per_token": "min",
    "train_flops_per_token": "min",
}
"""Every objective, and which way is better. The first two are every study's: quality and speed."""


MARGINS: Mapping[str, float] = {"val_loss": 0.0, "tokens_per_s": 0.01}
"""An advantage of less than this is none, where a study doesn't say otherwise: nats of val_loss, a fraction of
tokens_per_s."""
