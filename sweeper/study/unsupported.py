"""What the design has and isn't built yet: refused by name, with what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]

_KEYS: Mapping[Path, str] = {
    ("strict_alignment",): "list multiples of 16 only",
    ("trial", "strict_alignment"): "list multiples of 16 only",
    ("model", "strict_alignment"): "list multiples of 16 only",
}

_VALUES: Mapping[Path, tuple[tuple[str, ...], str]] = {
    ("trial", "optimizer", "parametrization"): (("mup",), "write completep, which scales with width and with depth"),
}


def unsupported_key(path: Path) -> str | None:
    """What to say of a key that isn't built yet; None for any other key."""
    return f"not supported yet; {_KEYS[path]}" if path in _KEYS else None


def unsupported_value(path: Path, value: Any) -> str | None:
    """What to say of a value or a form that isn't built yet; None for any other value."""
    if isinstance(value, str) and path in _VALUES:
        words, instead = _VALUES[path]
        return f"{value} is not supported yet; {instead}" if value in words else None
    return None
