"""Numbers as people write them: `180M`, `4k`, `1.5B`, `16GiB`, `2%`, `1e-4`, `30min`; and the bounds of a field."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

Kind = Literal["count", "bytes", "fraction", "duration"]

_UNITS: dict[str, tuple[Kind, Decimal]] = {
    "k": ("count", Decimal(10**3)),
    "M": ("count", Decimal(10**6)),
    "G": ("count", Decimal(10**9)),
    "B": ("count", Decimal(10**9)),
    "T": ("count", Decimal(10**12)),
    "KiB": ("bytes", Decimal(2**10)),
    "MiB": ("bytes", Decimal(2**20)),
    "GiB": ("bytes", Decimal(2**30)),
    "TiB": ("bytes", Decimal(2**40)),
    "%": ("fraction", Decimal("0.01")),
    "s": ("duration", Decimal(1)),
    "min": ("duration", Decimal(60)),
    "h": ("duration", Decimal(3600)),
}
_NUMBER = r"[-+]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"
_QUANTITY = re.compile(rf"({_NUMBER})\s*([A-Za-z%]*)")
_EXAMPLES: dict[Kind, str] = {
    "count": "4096, 4k or 180M",
    "bytes": "16GiB",
    "fraction": "0.02, 2% or 1e-4",
    "duration": "90s, 30min or 2h",
}


def quantity(text: str, *, kind: Kind) -> Decimal:
    """The exact value of a number with a unit of `kind` (`bytes` in bytes, `2%` as 0.02, `30min` in seconds).

    Raises ValueError, saying what would be right, for anything else, a bare number in quotes included.
    """
    match = _QUANTITY.fullmatch(text.strip()) if len(text) <= 60 else None
    if match is None:
        raise ValueError(f"{value_text(text)} is no number; write one like {_EXAMPLES[kind]}")
    number, unit = match.groups()
    if not unit:
        right = f"write {number} without quotes" if kind != "duration" else f"give a unit, like {_EXAMPLES[kind]}"
        raise ValueError(f"{value_text(text)} is text; {right}")
    if unit not in _UNITS:
        near = [known for known in _UNITS if known.lower() == unit.lower() and _UNITS[known][0] == kind]
        hint = f"write {number}{near[0]}" if near else f"write a number like {_EXAMPLES[kind]}"
        raise ValueError(f"{unit} in {value_text(text)} is no unit; {hint}")
    unit_kind, factor = _UNITS[unit]
    if unit_kind != kind:
        raise ValueError(f"{unit} in {value_text(text)} doesn't fit here; write a number like {_EXAMPLES[kind]}")
    return Decimal(number.replace("_", "")) * factor


def typed(text: str) -> int | float | str:
    """A bare number as one, which YAML would write in quotes; with a unit, or wrong, it stays text."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def value_text(value: Any) -> str:
    """A value as a message shows it: short, on one line, printable."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value) if isinstance(value, str) else f"{value}"
    return text if len(text) <= 60 else text[:57] + "…'"


def _number(value: Any, *, kind: Kind) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value_text(value)} is no number; write one like {_EXAMPLES[kind]}")
    if isinstance(value, str):
        return quantity(value, kind=kind)
    if not math.isfinite(value):
        raise ValueError(f"{value} is no finite number; write one like {_EXAMPLES[kind]}")
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Field metadata for pydantic: a whole number from `low` to `high`, also as `180M`.

    Where `kind` is bytes: as `16GiB`, with `low` in whole MiB.
    """

    low: int = 1
    high: int = 10**15
    kind: Literal["count", "bytes"] = "count"

    def parse(self, value: Any) -> int:
        """`value` as an int. Raises ValueError saying what would be right."""
        number = _number(value, kind=self.kind)
        if number > self.high:
            raise ValueError(f"{value_text(value)} is too large; at most {self.high}")
        if number < self.low:
            least = self.low if self.kind == "count" else f"{self.low // 2**20}MiB"
            raise ValueError(f"{value_text(value)} is too small; at least {least}")
        if number != int(number) and self.kind == "count":
            raise ValueError(f"{value_text(value)} is not whole; nearest are {int(number)} and {int(number) + 1}")
        return int(number)

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        number = {"type": "number", "multipleOf": 1, "minimum": self.low, "maximum": self.high}
        units = "[kMGBT]" if self.kind == "count" else "[KMGT]iB"
        return {"anyOf": [number, {"type": "string", "pattern": rf"^{_NUMBER}\s*{units}$"}]}


@dataclass(frozen=True, kw_only=True)
class Real:
    """Field metadata for pydantic: a number from `low` (or `above` it) to `below`, in units of `kind`."""

    low: float = 0.0
    above: bool = False
    below: float = math.inf
    kind: Kind = "fraction"

    def parse(self, value: Any) -> float:
        """`value` as a float. Raises ValueError saying what would be right."""
        number = float(_number(value, kind=self.kind))
        if number < self.low or (self.above and number <= self.low):
            bound = "more than" if self.above else "at least"
            raise ValueError(f"{value_text(value)} is too small; {bound} {self.low:g}")
        if not math.isfinite(number):
            raise ValueError(f"{value_text(value)} is too large")
        if number >= self.below:
            raise ValueError(f"{value_text(value)} is too large; less than {self.below:g}{self._percent(number)}")
        return number

    def _percent(self, number: float) -> str:
        meant = self.kind == "fraction" and 1 <= number < 100 and self.below == 1
        return f" (did you mean {number:g}%?)" if meant else ""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        number: dict[str, Any] = {"type": "number", "exclusiveMinimum" if self.above else "minimum": self.low}
        if math.isfinite(self.below):
            number["exclusiveMaximum"] = self.below
        units = "[kMGBT]" if self.kind == "count" else "%"
        # Editors that follow YAML 1.1 hand on 1e-4 as text, hence the optional unit.
        return {"anyOf": [number, {"type": "string", "pattern": rf"^{_NUMBER}\s*{units}?$"}]}


@dataclass(frozen=True, kw_only=True)
class Longer:
    """Field metadata for pydantic: so many times as much, `4x` as the float 4.0, or a count like `240M` as an int."""

    def parse(self, value: Any) -> int | float:
        """`value` as a factor above 1 or as a count. Raises ValueError saying what would be right."""
        match = re.fullmatch(rf"({_NUMBER})\s*[x×]", value.strip()) if isinstance(value, str) else None
        if match is None:
            return Whole().parse(value)
        factor = float(match.group(1).replace("_", ""))
        if not 1 < factor < math.inf:
            raise ValueError(f"{value_text(value)} is not longer; write more than 1x, like 4x")
        return factor

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        number = {"type": "number", "multipleOf": 1, "minimum": 1}
        return {"anyOf": [number, {"type": "string", "pattern": rf"^{_NUMBER}\s*([kMGBT]|x|×)$"}]}


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Field metadata for pydantic: a time above zero like `30min`, in seconds; `off` is None."""

    def parse(self, value: Any) -> float | None:
        """`value` in seconds. Raises ValueError saying what would be right."""
        if value is False or value == "off":
            return None
        if not isinstance(value, str):
            raise ValueError(f"{value_text(value)} is no time; write one like {_EXAMPLES['duration']}, or off")
        seconds = float(quantity(value, kind="duration"))
        if not 0 < seconds < math.inf:
            raise ValueError(f"{value_text(value)} is too {'small; more than 0s' if seconds <= 0 else 'large'}, or off")
        return seconds

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["off", False]}, {"type": "string", "pattern": rf"^{_NUMBER}\s*(s|min|h)$"}]}
