"""What a recommended config must keep, and by how much one misses it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.study.sizes import Real, Whole, typed
from sweeper.values.errors import UsageError
from sweeper.values.labels import gibibytes, short

GUIDE = {"max_params": 200_000_000, "max_memory_bytes": 16 * 2**30}
"""The bounds of the guide's use cases, where none is given."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Parameters, tokens/s, bytes; None where there is no limit."""

    max_params: int | None = None
    min_tokens_per_s: float | None = None
    max_memory_bytes: int | None = None

    def missed(self, params: Any, tokens_per_s: Any, memory_bytes: Any) -> Any:
        """The logarithm of the ratio by which the limits are missed at worst, 0 where all are kept; of arrays too."""
        ratios = [
            (params, self.max_params, 1),
            (tokens_per_s, self.min_tokens_per_s, -1),
            (memory_bytes, self.max_memory_bytes, 1),
        ]
        worst = np.zeros(np.shape(params))
        for value, limit, sign in ratios:
            if limit is not None:
                worst = np.maximum(worst, sign * np.log(np.asarray(value) / limit))
        return worst

    def flags(self) -> list[str]:
        """As they are written on the command line."""
        return [
            f"--{_FLAGS[name][0]} {_FLAGS[name][2](value)}" for name, value in vars(self).items() if value is not None
        ]

    def loosened(self, params: int, tokens_per_s: float, memory_bytes: int) -> list[str]:
        """The flags that would let such a config in, of the limits that it misses."""
        found = []
        if self.max_params is not None and params > self.max_params:
            found.append(f"--max-params {params}")
        if self.min_tokens_per_s is not None and tokens_per_s < self.min_tokens_per_s:
            found.append(f"--min-tokens-per-s {math.floor(tokens_per_s)}")
        if self.max_memory_bytes is not None and memory_bytes > self.max_memory_bytes:
            found.append(f"--max-memory {-(-memory_bytes // 2**20)}MiB")
        return found


_FLAGS: Mapping[str, tuple[str, Callable[[Any], Any], Callable[[Any], str]]] = {
    "max_params": ("max-params", Whole().parse, lambda value: short(value)),
    "min_tokens_per_s": ("min-tokens-per-s", Real(above=True, kind="count").parse, lambda value: short(value)),
    "max_memory_bytes": ("max-memory", Whole(low=2**20, high=2**60, kind="bytes").parse,
                         lambda value: gibibytes(value).replace(" ", "")),
}  # fmt: skip
"""Of each limit: its flag, what reads it, what writes it."""


def limits_of(flags: Mapping[str, Any]) -> Limits:
    """The limits among a command's `flags`, as written. Raises UsageError with all that is wrong with them."""
    values, faults = {}, []
    for name, (flag, read, _) in _FLAGS.items():
        text = flags[flag.replace("-", "_")]
        try:
            values[name] = None if text is None else read(typed(text))
        except ValueError as error:
            faults.append(f"--{flag}: {error}")
    if faults:
        raise UsageError("\n".join(faults))
    return Limits(**values)
