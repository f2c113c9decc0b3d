"""Numbers as people write them, and scalars by YAML 1.2."""

import math
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.study.nodes import resolved
from sweeper.study.sizes import Duration, Real, Whole, quantity


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("180M", 180_000_000),
        ("0.5M", 500_000),
        ("4k", 4_000),
        ("1.5B", 1_500_000_000),
        ("1G", 10**9),
        ("2T", 2 * 10**12),
        ("60 M", 60_000_000),
        ("1e3k", 10**6),
        ("1_000k", 10**6),
        (4096, 4096),
        (3e6, 3_000_000),
    ],
)
def test_counts(written: Any, value: int) -> None:
    parsed = Whole().parse(written)
    assert (parsed, type(parsed)) == (value, int)


@pytest.mark.parametrize(("written", "value"), [("2%", 0.02), ("0.5%", 0.005), (1e-4, 1e-4), (0, 0.0)])
def test_fractions(written: Any, value: float) -> None:
    parsed = Real(below=1).parse(written)
    assert (parsed, type(parsed)) == (value, float)


@pytest.mark.parametrize(
    ("written", "value"),
    [("30min", 1800.0), ("90s", 90.0), ("1.5 h", 5400.0), ("1e-1s", 0.1), ("off", None), (False, None)],
)
def test_times(written: Any, value: float | None) -> None:
    assert Duration().parse(written) == value


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("30", "'30' is text; give a unit, like 90s, 30min or 2h"),
        (30, "30 is no time; write one like 90s, 30min or 2h, or off"),
        ("30m", "m in '30m' is no unit; write a number like 90s"),
        ("30Min", "write 30min"),
        ("30M", "M in '30M' doesn't fit here; write a number like 90s"),
        ("0s", "too small; more than 0s"),
        ("-1h", "too small"),
        ("1e999h", "too large"),
        (True, "true is no time"),
        ("often", "'often' is no number; write one like 90s"),
    ],
)
def test_what_is_no_time(written: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Duration().parse(written)


def test_memory() -> None:
    assert quantity("16GiB", kind="bytes") == 16 * 2**30
    assert quantity("1.5 KiB", kind="bytes") == 1536


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("180m", "write 180M"),
        ("4K", "write 4k"),
        ("12", "write 12 without quotes"),
        ("16GiB", "doesn't fit here"),
        ("2%", "doesn't fit here"),
        ("0.0001k", "too small"),
        ("1.0005k", "not whole; nearest are 1000 and 1001"),
        (2.5, "not whole; nearest are 2 and 3"),
        (True, "true is no number"),
        (0, "too small; at least 1"),
        (math.nan, "no finite number"),
        (math.inf, "no finite number"),
        ("1e999T", "too large"),
        ("M", "no number"),
        ("9" * 100, "no number"),
        ([1], "a list is no number"),
    ],
)
def test_what_is_no_count(written: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Whole().parse(written)


@given(number=st.decimals(0, 9999, places=3), unit=st.sampled_from([("k", 3), ("M", 6), ("B", 9), ("T", 12)]))
def test_a_quantity_is_exact(number: Decimal, unit: tuple[str, int]) -> None:
    name, power = unit
    assert quantity(f"{number}{name}", kind="count") == number * 10**power


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("3e-3", 3e-3), ("1E5", 1e5), (".5", 0.5), ("-1.", -1.0), ("12", 12), ("-7", -7),
        ("0o17", 15), ("0x1F", 31), ("010", 10), ("1_000", 1000), ("true", True), ("False", False),
        ("off", "off"), ("yes", "yes"), ("No", "No"), ("on", "on"), ("", None), ("~", None), ("null", None),
        ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("180M", "180M"), ("2%", "2%"), ("=", "="),
        ("e5", "e5"), ("1e", "1e"), ("٣", "٣"), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_yaml_1_2_scalars(text: str, value: Any) -> None:
    assert (resolved(text), type(resolved(text))) == (value, type(value))
