"""Arithmetic over named quantities, as `constraints` are written: read by Python's parser, evaluated here alone.

Allowed are numbers (also 180M, 16MiB), the names of QUANTITIES, + − * / // % **, comparisons, chained ones too, and,
or, not.
Text, tree, exponents and intermediate results are bounded, so that neither reading nor evaluating one takes long.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from sweeper.study.keys import did_you_mean
from sweeper.study.sizes import quantity, value_text

Number = int | float

QUANTITIES: Mapping[str, str] = {
    "n_layers": "layers",
    "d_model": "width",
    "n_heads": "query heads",
    "n_kv_heads": "key/value heads",
    "kv_groups": "query heads per KV head",
    "head_dim": "channels of a head",
    "ffn_hidden": "rows of the FFN",
    "ffn_ratio": "ffn_hidden ÷ d_model",
    "vocab_size": "tokens of the vocabulary",
    "aspect_ratio": "d_model ÷ n_layers",
    "params": "all parameters",
    "trunk_params": "parameters without input table and head",
    "train_flops_per_token": "FLOPs of forward and backward at seq_len",
    "kv_bytes_per_token": "bytes that decoding keeps of a token, keys and values in bf16",
    "seq_len": "tokens of a sequence",
    "tokens_per_step": "tokens of an optimizer step",
}
"""What a constraint may speak of."""

MAX_CHARACTERS = 500
MAX_DEPTH = 20
MAX_PARTS = 200
MAX_EXPONENT = 16
MAX_BITS = 2048
"""Of an intermediate whole number."""

ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_SIZE = re.compile(
    r"(?<![\w.])((?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?)\s?(k|M|G|B|T|KiB|MiB|GiB|TiB)(?![\w.])"
)
_EXAMPLE = "write one like n_layers * head_dim <= 4096"


class ExpressionError(ValueError):
    """An expression that can't be read, or not be evaluated; the message says what would be right."""


class Expression:
    """A condition over QUANTITIES; `text` is it as written, on one line.

    Raises ExpressionError for what isn't a condition of bounded size.
    """

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self.tree = _parsed(text)
        _check_size(self.tree)
        _check_condition(self.tree)

    @property
    def names(self) -> frozenset[str]:
        """The quantities that it speaks of."""
        return frozenset(node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name))

    def holds(self, quantities: Mapping[str, Number]) -> bool:
        """Whether the condition holds for quantities by name.

        Raises ExpressionError where a number can't be made: a division by zero, one out of bounds.
        """
        return bool(_value(self.tree, quantities))


def _parsed(text: str) -> ast.expr:
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"more than {MAX_CHARACTERS} characters; split it into several constraints")
    plain = _SIZE.sub(lambda match: _spelled_out(match[1], match[2]), text).strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's opinions on style, such as of "1 is 2"
            tree = ast.parse(plain, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None or "#" in text:
        raise ExpressionError(f"{value_text(text)} is no expression; {_EXAMPLE}")
    return tree


def _spelled_out(number: str, unit: str) -> str:
    """A size as the number that it stands for. Raises ExpressionError where that isn't whole."""
    try:
        value = quantity(number + unit, kind="bytes" if unit.endswith("iB") else "count")
    except ValueError as error:
        raise ExpressionError(str(error)) from None
    if value != int(value):
        raise ExpressionError(f"{number}{unit} is not whole; write a whole number")
    return str(int(value))


def _check_size(tree: ast.expr) -> None:
    """Before anything else looks at it: that a tree has few parts, and none far down."""
    level: list[ast.AST] = [tree]
    parts = depth = 0
    while level:
        parts, depth = parts + len(level), depth + 1
        if parts > MAX_PARTS:
            raise ExpressionError("too many parts; split it into several constraints")
        if depth > MAX_DEPTH:
            raise ExpressionError(f"nested too deeply; at most {MAX_DEPTH} levels")
        level = [child for node in level for child in ast.iter_child_nodes(node)]


def _check_condition(tree: ast.expr) -> None:
    if not isinstance(tree, ast.Compare | ast.BoolOp) and not _is_not(tree):
        raise ExpressionError(f"{_source(tree)} is no condition; compare it with something, as in n_layers <= 32")
    _check(tree)


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _check(node: ast.expr) -> None:
    """That a part, and all in it, is allowed. Conditions stand where conditions may, numbers elsewhere."""
    match node:
        case ast.BoolOp(values=parts):
            for part in parts:
                _check_part(part, condition=True)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            _check_part(part, condition=True)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARISONS for op in ops):
            for part in (left, *others):
                _check_part(part, condition=False)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=part):
            _check_part(part, condition=False)
        case ast.BinOp(op=ast.Pow(), left=base, right=exponent):
            if not (isinstance(exponent, ast.Constant) and _is_exponent(exponent.value)):
                raise ExpressionError(
                    f"the exponent {_source(exponent)} isn't allowed; write a whole number from 0 to {MAX_EXPONENT}"
                )
            _check_part(base, condition=False)
        case ast.BinOp(op=op, left=left, right=right) if type(op) in ARITHMETIC:
            _check_part(left, condition=False)
            _check_part(right, condition=False)
        case ast.Constant(value=value):
            _check_number(value)
        case ast.Name(id=name):
            if name not in QUANTITIES:
                raise ExpressionError(f"{value_text(name)} is no quantity; {did_you_mean(name, QUANTITIES)}")
        case _:
            raise ExpressionError(f"{_source(node)} isn't arithmetic; {_EXAMPLE}")


def _check_part(node: ast.expr, *, condition: bool) -> None:
    is_condition = isinstance(node, ast.Compare | ast.BoolOp) or _is_not(node)
    if condition and not is_condition:
        _check(node)
        raise ExpressionError(f"{_source(node)} is no condition; compare it with something")
    if is_condition and not condition:
        raise ExpressionError(f"{_source(node)} is a condition, and a number is needed; {_EXAMPLE}")
    _check(node)


def _is_exponent(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_EXPONENT


def _check_number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"{value_text(value)} is no number; {_EXAMPLE}")
    if abs(value) > 10**18:
        raise ExpressionError(f"{value_text(value)} is too large; at most 10**18")


def _source(node: ast.expr) -> str:
    """A part as it may be shown: short, on one line."""
    text = ast.unparse(node).replace("\n", " ")
    return text if len(text) <= 40 else text[:39] + "…"


def _value(node: ast.expr, quantities: Mapping[str, Number]) -> Any:
    """The value of an allowed part."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return quantities[name]
        case ast.BoolOp(op=op, values=parts):
            values = (_value(part, quantities) for part in parts)
            return all(values) if isinstance(op, ast.And) else any(values)
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _holds(left, ops, others, quantities)
        case ast.UnaryOp(op=op, operand=operand):
            inner = _value(operand, quantities)
            return not inner if isinstance(op, ast.Not) else -inner if isinstance(op, ast.USub) else inner
        case ast.BinOp(op=op, left=left, right=right):
            return _computed(node, ARITHMETIC[type(op)], _value(left, quantities), _value(right, quantities))
    raise AssertionError(f"{type(node).__name__} was let in by the check")


def _holds(left: ast.expr, ops: list[ast.cmpop], others: list[ast.expr], quantities: Mapping[str, Number]) -> bool:
    here = _value(left, quantities)
    for op, other in zip(ops, others, strict=True):
        there = _value(other, quantities)
        if not COMPARISONS[type(op)](here, there):
            return False
        here = there
    return True


def _computed(node: ast.expr, compute: Callable[[Any, Any], Any], left: Number, right: Number) -> Number:
    try:
        if compute is operator.pow and isinstance(left, int) and left.bit_length() * right > MAX_BITS:
            raise OverflowError
        result: Number = compute(left, right)
    except ZeroDivisionError:
        raise ExpressionError(f"{_source(node)} divides by zero") from None
    except OverflowError:
        raise ExpressionError(f"{_source(node)} is too large") from None
    if not math.isfinite(result) if isinstance(result, float) else result.bit_length() > MAX_BITS:
        raise ExpressionError(f"{_source(node)} is too large")
    return result
