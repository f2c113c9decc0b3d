"""Configs as points in a box spanned by the study's axes, for strategies that measure how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.planning.axes import value_on
from sweeper.values.records import Config

if TYPE_CHECKING:
    from numpy import ndarray

DIGITS = 9
"""What is kept of a feature, so that no machine's logarithm decides between two that are as far."""


@dataclass(frozen=True)
class AxisColumns:
    """A side of the box: an axis on which configs differ. `words` are its values where these aren't numbers, else ().

    `columns`: (configs, 1) in [0, 1] for numbers, (configs, words) for words; float64.
    """

    axis: str
    words: tuple[Any, ...]
    columns: ndarray


def axis_columns(configs: Sequence[Config], axes: Sequence[str]) -> list[AxisColumns]:
    """One for each of `axes` that has more than one value.

    Numbers are on a logarithmic scale where all are above zero, as widths, depths and learning rates compare by
    ratios. A word's column holds √½ or 0, so that two words are as far apart as the ends of a number's range.
    """
    import numpy as np

    found = []
    for axis in axes:
        values = [value_on(axis, config) for config in configs]
        if len(set(values)) < 2:
            continue
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            column = np.array([math.log(value) for value in values] if min(values) > 0 else values, dtype=np.float64)
            scaled = (column - column.min()) / (column.max() - column.min())
            found.append(AxisColumns(axis, (), scaled[:, None].round(DIGITS)))
        else:
            words = tuple(sorted(set(values), key=str))
            is_word = np.array([[value == word for word in words] for value in values])
            found.append(AxisColumns(axis, words, (is_word * math.sqrt(0.5)).round(DIGITS)))
    return found


def features(configs: Sequence[Config], axes: Sequence[str]) -> ndarray:
    """(configs, features): the columns of all sides; a column of zeros where there is none."""
    import numpy as np

    columns = [side.columns for side in axis_columns(configs, axes)]
    return np.concatenate(columns, axis=1) if columns else np.zeros((len(configs), 1))
