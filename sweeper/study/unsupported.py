"""What the design has and isn't built yet: refused by name, with what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]

_KEYS: Mapping[Path, str] = {
    ("budget", "memory"): "set batch_size low enough for the device",
    ("constraints",): "list the wanted points under shapes",
    ("strict_alignment",): "list multiples of 16 only",
    ("follow_up",): "write a second study",
    ("nuisance",): "make it an axis",
    ("early_stop",): "every trial trains to its end",
    ("branch_at",): "every trial trains from its start",
    ("trial", "minutes"): "give tokens, flops or tokens_per_param",
    ("trial", "branch_at"): "every trial trains from its start",
    ("trial", "early_stop"): "every trial trains to its end",
    ("trial", "strict_alignment"): "list multiples of 16 only",
    ("trial", "fp8_backend"): "leave it out; fp8 uses torchao",
    ("trial", "follow_up"): "write a second study",
    ("trial", "nuisance"): "make it an axis",
    ("trial", "optimizer", "base"): "make optimizer.lr an axis",
    ("search", "max_gpu_hours"): "see the hours in `sweeper plan` and set trials",
    ("search", "prune"): "every trial trains to its end",
    ("search", "storage"): "leave it out; the ledger is the store",
    ("search", "early_stop"): "every trial trains to its end",
    ("search", "follow_up"): "write a second study",
    ("model", "strict_alignment"): "list multiples of 16 only",
}

_VALUES: Mapping[Path, tuple[tuple[str, ...], str]] = {
    ("trial", "precision"): (("auto",), "give fp32, bf16 or fp8"),
    ("trial", "optimizer", "name"): (("muon",), "use adamw"),
    ("trial", "optimizer", "parametrization"): (
        ("completep", "mup"),
        "leave it out and make optimizer.lr an axis",
    ),
    ("search", "method"): (("space_filling", "tpe", "nsga2", "gp"), "use grid, or random with trials"),
}

_FORMS: Mapping[Path, tuple[str, str]] = {
    ("trial", "batch_size"): ("fastest", "give a number, or make batch_size an axis"),
    ("trial", "seeds"): ("min", "give a number"),
}


def unsupported_key(path: Path) -> str | None:
    """What to say of a key that isn't built yet; None for any other key."""
    return f"not supported yet; {_KEYS[path]}" if path in _KEYS else None


def unsupported_value(path: Path, value: Any) -> str | None:
    """What to say of a value or a form that isn't built yet; None for any other value."""
    if isinstance(value, str) and path in _VALUES:
        words, instead = _VALUES[path]
        return f"{value} is not supported yet; {instead}" if value in words else None
    if isinstance(value, dict) and path in _FORMS:
        key, instead = _FORMS[path]
        return f"{{{key}: …}} is not supported yet; {instead}" if key in value else None
    return None
