"""A condition of `sweeper.study.expressions` for arrays of quantities, equal to what it says of one at a time.

numpy's numbers are Python's as long as whole ones stay below 2^53, where 64-bit floats still tell neighbours apart,
and nothing is divided by zero. Where that isn't sure NotExact is raised, and the condition is to be asked one by one.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sweeper.study.expressions import ARITHMETIC, COMPARISONS, Expression

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[Any]

EXACT = 2.0**53


class NotExact(ArithmeticError):
    """Arrays might say something else than numbers one by one, or something can't be computed."""


def hold(expression: Expression, quantities: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Where the condition holds; `quantities` by name, each an array or a number. Raises NotExact."""
    with np.errstate(all="ignore"):
        return cast("NDArray[np.bool_]", _value(expression.tree, quantities))


def _value(node: ast.expr, quantities: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return _exact(np.asarray(value))
        case ast.Name(id=name):
            return _exact(np.asarray(quantities[name]))
        case ast.BoolOp(op=op, values=parts):
            both = np.logical_and if isinstance(op, ast.And) else np.logical_or
            first, *others = (_value(part, quantities) for part in parts)
            for other in others:
                first = both(first, other)
            return first
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_value(part, quantities) for part in (left, *others)]
            holds: Any = True
            for comparison, (here, there) in zip(ops, pairwise(values), strict=True):
                holds = np.logical_and(holds, COMPARISONS[type(comparison)](here, there))
            return holds
        case ast.UnaryOp(op=op, operand=operand):
            inner = _value(operand, quantities)
            return np.logical_not(inner) if isinstance(op, ast.Not) else -inner if isinstance(op, ast.USub) else inner
        case ast.BinOp(op=op, left=left, right=right):
            here, there = _value(left, quantities), _value(right, quantities)
            if isinstance(op, ast.Div | ast.FloorDiv | ast.Mod) and not np.all(there):
                raise NotExact
            return _computed(ARITHMETIC[type(op)], here, there)
    raise AssertionError(f"{type(node).__name__} was let in by the check")


def _computed(compute: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """In floats first: what would wrap around in 64 bits is large there."""
    _exact(compute(left.astype(np.float64), right.astype(np.float64)))
    return _exact(compute(left, right))


def _exact(values: Any) -> Any:
    if values.dtype == object or not np.all(np.abs(values) < EXACT):
        raise NotExact
    return values
