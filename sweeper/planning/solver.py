"""The value of a solved axis that lands the parameter count nearest its budget. Integers only: exact.

The count is linear in `ffn_hidden` and in `n_layers` (see `sweeper.model.shape`), so there the nearest allowed
value is found in closed form. It isn't always monotone in `d_model`, since the derived KV heads jump;
there it lies between the count with one KV head and the count with as many KV heads as heads, both of
which grow with d_model, and the search ends where these bounds are farther off than the best found.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from typing import Any, Literal

from sweeper.model.shape import DEFAULT_HEAD_DIM, Shape, derive, neighbours
from sweeper.study.schema import ParamsBudget, Solve
from sweeper.values.errors import UsageError

MAX_MULTIPLE = 4096

_NO_BOUND = 2**63 - 1
"""Above all counts that 64 bits hold."""

Found = tuple[int, int]
"""A value of the solved field, and the count it gives."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Why a point isn't feasible. `reason` is short and stable; `message()` says what would be right.

    `of_heads`: a head rule is broken, whatever the trial and the budget say.
    """

    reason: str
    message: Callable[[], str]
    of_heads: bool = False


@dataclass(frozen=True, kw_only=True)
class Window:
    """The counts that a parameter budget allows, `low` to `high` inclusive (None: no bound)."""

    low: int | None
    high: int | None
    target: int | None
    count: Literal["total", "trunk"]

    @classmethod
    def of(cls, budget: ParamsBudget) -> Window:
        """`target` ± `tolerance` × `target`, or `min` to `max`."""
        if budget.target is None:
            return cls(low=budget.min, high=budget.max, target=None, count=budget.count)
        slack = math.floor(budget.target * Fraction(str(budget.tolerance)))
        return cls(low=budget.target - slack, high=budget.target + slack, target=budget.target, count=budget.count)

    @property
    def twice_middle(self) -> int:
        """Twice the count that a solved axis aims at: the target, or the middle of the range."""
        if self.target is not None:
            return 2 * self.target
        if self.low is None or self.high is None:
            raise UsageError("budget.params: a solved axis needs a target, or both min and max")
        return self.low + self.high

    def counted(self, shape: Shape) -> int:
        """The count of `shape` that this budget is about."""
        return shape.params.total if self.count == "total" else shape.params.trunk

    def holds(self, params: int) -> bool:
        """Whether the count `params` meets the budget."""
        return (self.low is None or params >= self.low) and (self.high is None or params <= self.high)

    def hold(self, params: Any) -> Any:
        """`holds` for an array of counts: an array of booleans."""
        return (params >= (self.low or 0)) & (params <= (_NO_BOUND if self.high is None else self.high))

    def exceeds(self, params: int) -> bool:
        """Whether it speaks of counts above `params`."""
        return max(self.low or 0, self.high or 0, self.target or 0) > params

    def off_target(self, params: int) -> float | None:
        """(`params` − target) ÷ target; None where the budget has no target."""
        return None if self.target is None else (params - self.target) / self.target

    def __str__(self) -> str:
        low = "any" if self.low is None else f"{self.low:,}"
        high = "any" if self.high is None else f"{self.high:,}"
        return f"{low} to {high} parameters ({self.count})"


def solve(name: str, fields: Mapping[str, Any], rule: Solve, window: Window) -> Shape | Drop:
    """The shape whose `name` is the allowed value nearest the budget, the lower value on a tie.

    `name` is ffn_hidden, d_model or n_layers; `fields` are those of `sweeper.model.shape.derive`
    (that of `name` isn't read).
    Raises ShapeError where the heads don't divide whatever the value.
    """
    found = _nearest(name, fields, rule, window)
    if found and window.holds(found[0][1]):
        return derive({**fields, name: found[0][0]})
    return Drop(reason=f"solve {name}", message=lambda: _explain(name, fields, rule, window, found))


def _nearest(name: str, fields: Mapping[str, Any], rule: Solve, window: Window) -> list[Found]:
    """The allowed values around the budget, nearest first; empty when no value is allowed."""
    found = _around_d_model(fields, rule, window) if name == "d_model" else _around_linear(name, fields, rule, window)
    return sorted(found, key=lambda pair: (abs(2 * pair[1] - window.twice_middle), pair[0]))


def _around_linear(name: str, fields: Mapping[str, Any], rule: Solve, window: Window) -> list[Found]:
    fixed = window.counted(derive({**fields, name: 0}))
    slope = window.counted(derive({**fields, name: 1})) - fixed
    step = rule.multiple_of
    lowest, highest = ends(rule, step)
    if highest is not None and lowest > highest:
        return []
    below = (window.twice_middle - 2 * fixed) // (2 * slope * step) * step
    values = {_clamp(value, lowest, highest) for value in (below, below + step)}
    return [(value, fixed + slope * value) for value in values]


def _around_d_model(fields: Mapping[str, Any], rule: Solve, window: Window) -> list[Found]:
    step = math.lcm(rule.multiple_of, _head_step(fields))
    lowest, highest = ends(rule, step)
    if highest is not None and lowest > highest:
        return []
    target = window.twice_middle
    start = _clamp(_first_beyond(fields, step, window), lowest, highest)
    found: list[Found] = []
    best = math.inf
    for d_model in _upwards(start, highest, step):
        params, least, _ = _bounded(fields, d_model, window)
        if 2 * least - target > best:
            break
        found.append((d_model, params))
        best = min(best, abs(2 * params - target))
    for d_model in range(start - step, lowest - 1, -step):
        params, _, most = _bounded(fields, d_model, window)
        if target - 2 * most > best:
            break
        found.append((d_model, params))
        best = min(best, abs(2 * params - target))
    return found


def _bounded(fields: Mapping[str, Any], d_model: int, window: Window) -> tuple[int, int, int]:
    """The count at `d_model`, and what it would be with one KV head and with as many as heads."""
    shape = derive({**fields, "d_model": d_model})
    params = window.counted(shape)
    kv_head = 2 * shape.n_layers * shape.d_model * shape.head_dim
    return (
        params,
        params - (shape.n_kv_heads - 1) * kv_head,
        params + (shape.n_heads - shape.n_kv_heads) * kv_head,
    )


def _first_beyond(fields: Mapping[str, Any], step: int, window: Window) -> int:
    """The first multiple of `step` whose count with one KV head reaches the middle of the budget.

    It is sought below a safe bound: the attention's query and output projections alone are 2·L·d².
    """
    layers = max(1, int(fields["n_layers"]))
    widths = range(step, math.isqrt(max(0, window.twice_middle) // (4 * layers)) + 2 * step, step)
    one_kv_head = {**fields, "n_kv_heads": 1, "kv_groups": None}

    def twice_least(d_model: int) -> int:
        one_kv_head["d_model"] = d_model
        return 2 * window.counted(derive(one_kv_head))

    return step * (1 + bisect_left(widths, window.twice_middle, key=twice_least))


def _head_step(fields: Mapping[str, Any]) -> int:
    """d_model keeps the head rules exactly when it is a multiple of this, if it can keep them at all."""
    if fields.get("n_heads") is not None:
        if fields.get("head_dim") is not None:
            raise UsageError("model: to solve d_model, give n_heads or head_dim, not both")
        return 2 * int(fields["n_heads"])
    kv_unit = fields.get("kv_groups") or fields.get("n_kv_heads") or 1
    return int(fields.get("head_dim") or DEFAULT_HEAD_DIM) * int(kv_unit)


def ends(rule: Solve, step: int) -> tuple[int, int | None]:
    """The lowest and the highest multiple of `step` within the rule's min and max."""
    lowest = max(step, -(-(rule.min or 1) // step) * step)
    return lowest, None if rule.max is None else rule.max // step * step


def _clamp(value: int, lowest: int, highest: int | None) -> int:
    return max(lowest, value if highest is None else min(value, highest))


def _upwards(start: int, highest: int | None, step: int) -> Iterator[int]:
    return iter(range(start, highest + 1, step)) if highest is not None else count(start, step)


def _explain(name: str, fields: Mapping[str, Any], rule: Solve, window: Window, found: list[Found]) -> str:
    step = rule.multiple_of
    if name == "d_model":
        step = math.lcm(step, _head_step(fields))
    if not found:
        below, above = neighbours(rule.max or 1, step)
        near = f"{below} and {above}" if below else f"{above}"
        return f"{name} has no multiple of {step} between its min and max: nearest are {near}"
    values = " and ".join(f"{value} ({params:,})" for value, params in sorted(found[:2]))
    others = {"n_layers", "d_model", "ffn_hidden"} - {name}
    given = ", ".join(f"{key} {fields[key]}" for key in sorted(others) if fields.get(key) is not None)
    in_steps = f" in multiples of {step}" if step > 1 else ""
    return (
        f"with {given}, no {name}{in_steps} lands on {window}: nearest {'are' if found[1:] else 'is'} {values}; "
        + _remedy(name, fields, rule, window, found[0][1])
    )


def _remedy(name: str, fields: Mapping[str, Any], rule: Solve, window: Window, nearest: int) -> str:
    multiple = _working_multiple(name, fields, rule, window)
    if multiple is not None:
        return f"multiple_of {multiple} would"
    off = window.off_target(nearest)
    if off is None:
        return f"no multiple_of would; a range that holds {nearest:,} would"
    if abs(off) >= 1:
        return f"no multiple_of would; a target of {nearest:,} would"
    return f"no multiple_of would; a tolerance of {math.ceil(abs(off) * 1000) / 10:g}% would"


def _working_multiple(name: str, fields: Mapping[str, Any], rule: Solve, window: Window) -> int | None:
    """The largest divisor of `multiple_of` above 1 that would meet the budget, else the largest number.

    Numbers that are no divisors are looked at up to MAX_MULTIPLE.
    """

    def works(multiple: int) -> bool:
        found = _nearest(name, fields, rule.model_copy(update={"multiple_of": multiple}), window)
        return bool(found) and window.holds(found[0][1])

    given: int = rule.multiple_of
    if not works(1):
        return None
    divisors = (m for m in range(given // 2, 1, -1) if given % m == 0 and works(m))
    others = (m for m in range(min(given - 1, MAX_MULTIPLE), 0, -1) if works(m))
    return next(divisors, None) or next(others)
