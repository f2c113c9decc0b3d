"""How far two orders agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def kendall_tau(first: Sequence[float] | NDArray[Any], second: Sequence[float] | NDArray[Any]) -> float | None:
    """Kendall's τ-b of two lists of values; None where one of them has but one place, or there's nothing to order."""
    if len(first) < 2:
        return None
    from scipy.stats import kendalltau

    tau = float(kendalltau(first, second).statistic)
    return tau if math.isfinite(tau) else None
