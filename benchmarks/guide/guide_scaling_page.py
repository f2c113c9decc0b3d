"""The audit's section on scaling, of the records that `guide_scaling.py` has made, if there are any."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guide_quality import quality_rows
from scaling_fits import Curve, Estimate, Verdict, curve, exponent, judge, near, near_power

from sweeper.model.shape import derive
from sweeper.planning.estimates import memory_bytes
from sweeper.study.presets import PRESETS

TOLERANCE = 0.05
"""Of a ratio that the guide gives; the page's own."""
NAMES = {"n_layers": "layers", "d_model": "d_model", "ffn_hidden": "FFN", "batch_size": "micro-batch"}
CURRENT = PRESETS["current"]
GUIDE = {**CURRENT["model"], "batch_size": CURRENT["trial"]["batch_size"]}
GUIDE_SEQ_LEN = 1024
HEAD_DIM, KV_HEADS = 64, 4
"""Of the guide's two widths with heads that it names: 768 with 12, 1024 with 16."""
OUT_OF_MEMORY = "out_of_memory"
FEWEST_SIZES = 4
"""One more than a parabola has coefficients."""
NOT_MEASURED = "–", "–", "not measured"


@dataclass(frozen=True, kw_only=True)
class Series:
    """Means over whole rounds by size, ascending; memory in bytes."""

    sizes: tuple[int, ...]
    tokens_per_s: tuple[float, ...]
    memory: tuple[float, ...]
    predicted: tuple[float, ...]
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """One file of measurements. `left_out`: what isn't used of it, and why."""

    where: str
    device_type: str
    base: Mapping[str, int]
    axes: Mapping[str, Series]
    left_out: tuple[str, ...]


def read_records(folder: Path) -> list[Record]:
    """All records of a folder, in the order of their names."""
    return [read_record(json.loads(path.read_text())) for path in sorted(folder.glob("guide_scaling_*.json"))]


def read_record(data: Mapping[str, Any]) -> Record:
    """A record's means, and what can't be used."""
    settings = data["settings"]
    base, axes, left_out = settings["base"], {}, []
    for axis, sizes in settings["sizes"].items():
        rounds = list(_rounds(data["steps"], axis, sizes, base[axis]))
        fits = [size for size in sizes if not any(of[size].get("status") == OUT_OF_MEMORY for of in rounds)]
        left_out += [f"{NAMES[axis]} {size} is out of memory" for size in sizes if size not in fits]
        found = _series(rounds, fits)
        if isinstance(found, Series):
            axes[axis] = found
        else:
            left_out.append(f"{NAMES[axis]}: {found}")
    where = (
        f"{data['device']}, {settings['precision']}; L{base['n_layers']} d{base['d_model']} f{base['ffn_hidden']} "
        f"V{settings['vocab_size']}, micro-batch {base['batch_size']} × {settings['seq_len']}"
    )
    return Record(where=where, device_type=settings["device"], base=base, axes=axes, left_out=tuple(left_out))


def _rounds(
    steps: Mapping[str, Any], axis: str, sizes: Sequence[int], base: int
) -> Iterator[dict[int, Mapping[str, Any]]]:
    """The axis' points by size, round after round; {} of what isn't measured."""
    number = 1
    while any(name.startswith(f"round {number}: ") for name in steps):
        labels = {size: "base" if size == base else f"{axis} {size}" for size in sizes}
        yield {
            size: steps.get(f"round {number}: {label}", {}).get("rows", {}).get("point", {})
            for size, label in labels.items()
        }
        number += 1


def _series(rounds: Sequence[Mapping[int, Mapping[str, Any]]], sizes: Sequence[int]) -> Series | str:
    """The means of some sizes over the rounds that have them all, or why there are none."""
    whole = [[of[size] for size in sizes] for of in rounds if all(of[size].get("status") == "ok" for size in sizes)]
    if not whole:
        return "no whole round"
    if len(sizes) < FEWEST_SIZES:
        return f"{len(sizes)} sizes are too few"
    if any((point["memory_bytes"] or 0) <= 0 for points in whole for point in points):
        return "its memory can't be told from the process's own"
    mean = {
        key: tuple(statistics.geometric_mean(points[i][key] for points in whole) for i in range(len(sizes)))
        for key in ("tokens_per_s", "memory_bytes", "predicted_bytes")
    }
    return Series(
        sizes=tuple(sizes), tokens_per_s=mean["tokens_per_s"], memory=mean["memory_bytes"],
        predicted=mean["predicted_bytes"], rounds=len(whole),
    )  # fmt: skip


def section(said: Mapping[str, Any], results: Path) -> list[str]:
    """The section's lines, of the guide's claims on scaling and what the folder `results` holds."""
    records = read_records(results)
    lines = ["\n## Scaling, measured\n", _introduction(records)]
    header = ("claim", "device and scale", "measured", "verdict")
    lines += table(header, _claim_rows(said, records))
    lines += ["\n" + _FORMULA]
    lines += table(("memory", "guide", "formula"), map(_formula_row, said["memory"]))
    for record in records:
        lines += [f"\n### {record.where}\n"]
        lines += [f"Left out: {'; '.join(record.left_out)}.\n"] if record.left_out else []
        lines += table(
            ("axis", "sizes", "rounds", "tokens/s ∝ x^b", "memory ∝ x^b", "memory ÷ plan's estimate"),
            (_axis_row(axis, series) for axis, series in record.axes.items()),
        )
    lines += ["\n## Quality, from the recorded studies\n", _QUALITY]
    lines += table(("claim", "study, device and scale", "measured", "verdict"), quality_rows(said["quality"], results))
    return lines


def _introduction(records: Sequence[Record]) -> str:
    if not records:
        return _UNMEASURED
    devices = {record.device_type for record in records}
    return _MEASURED + ("" if "cuda" in devices else _CPU_ALONE)


def _claim_rows(said: Mapping[str, Any], records: Sequence[Record]) -> Iterator[Sequence[str]]:
    for claim in said["throughput"]:
        yield from _rows_of(records, claim["axis"], claim["said"], _faster)
    for claim in said["memory"]:
        yield from _rows_of(records, claim["axis"], claim["said"], _power(claim))
        yield from _rows_of(records, claim["axis"], claim["said_ratio"], _ratio(claim))


def _rows_of(
    records: Sequence[Record],
    axis: str,
    said: str,
    measured: Callable[[Series, int], tuple[str, Verdict]],
) -> Iterator[Sequence[str]]:
    """A claim against every record, or that none has it."""
    found = [record for record in records if axis in record.axes]
    if not found:
        yield said, *NOT_MEASURED
    for record in found:
        yield said, record.where, *measured(record.axes[axis], record.base[axis])


def _faster(series: Series, _base: int) -> tuple[str, Verdict]:
    """Whether smaller is faster: the exponent of tokens/s is below zero."""
    found = exponent(series.sizes, series.tokens_per_s)
    return f"tokens/s ∝ x^b, b = {_estimate(found)}", judge(found, high=0.0)


def _power(claim: Mapping[str, Any]) -> Callable[[Series, int], tuple[str, Verdict]]:
    """Whether memory is proportional to the claim's power, and how near to a line or parabola with a constant it is."""

    def measured(series: Series, base: int) -> tuple[str, Verdict]:
        found, fit = exponent(series.sizes, series.memory), _curve(claim, series.sizes, series.memory)
        start, _ = _ends(claim, base)
        kind = {1: "straight line", 2: "parabola"}[claim["power"]]
        text = (
            f"∝ x^b, b = {_estimate(found)}; a {kind} with R² {fit.r_squared:.4f}, no size more than {fit.worst:.1%} "
            f"off it, whose constant is {_estimate(fit.constant_share(start), 100, '%')} of the memory at {start:g}"
        )
        return text, near_power(found, claim["power"], tolerance=TOLERANCE)

    return measured


def _ratio(claim: Mapping[str, Any]) -> Callable[[Series, int], tuple[str, Verdict]]:
    """The guide's ratio against that of the curve, at the same fractions of the base as in the guide."""

    def measured(series: Series, base: int) -> tuple[str, Verdict]:
        ends = _ends(claim, base)
        fit = _curve(claim, series.sizes, series.memory)
        if min(map(fit.at, ends)) <= 0:
            return "the curve through the sizes isn't positive there", "isn't decided"
        found = fit.ratio(*ends)
        plan = _curve(claim, series.sizes, series.predicted).ratio(*ends).value
        text = f"{ends[0]:g} → {ends[1]:g}: × {_estimate(found)}; by the plan's formula × {plan:.2f}"
        return text, near(found, claim["ratio"], tolerance=TOLERANCE)

    return measured


def _ends(claim: Mapping[str, Any], base: int) -> tuple[float, float]:
    """Where the guide's two sizes are when its main configuration is the base that was measured."""
    guide = GUIDE[claim["axis"]]
    return claim["from"] / guide * base, claim["to"] / guide * base


def _curve(claim: Mapping[str, Any], sizes: Sequence[int], values: Sequence[float]) -> Curve:
    return curve(sizes, values, degree=claim["power"])


def _axis_row(axis: str, series: Series) -> Sequence[str]:
    speed, memory = (exponent(series.sizes, values) for values in (series.tokens_per_s, series.memory))
    ratios = [measured / plan for measured, plan in zip(series.memory, series.predicted, strict=True)]
    sizes = ", ".join(map(str, series.sizes))
    off = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return NAMES[axis], sizes, str(series.rounds), _estimate(speed), _estimate(memory), off


def _formula_row(claim: Mapping[str, Any]) -> Sequence[str]:
    small, large = (_predicted(claim["axis"], claim[end]) for end in ("from", "to"))
    between = f"{NAMES[claim['axis']]}: {claim['from']} → {claim['to']}"
    return between, f"× {claim['ratio']:g}", f"× {large / small:.2f} ({small / 2**30:.1f} → {large / 2**30:.1f} GiB)"


def _predicted(axis: str, size: int) -> int:
    """The plan's memory of the guide's main configuration with one thing changed, in FP8 as its commands are."""
    fields = {**GUIDE, axis: size}
    batch_size = fields.pop("batch_size")
    if axis == "d_model":
        fields = {name: value for name, value in fields.items() if name not in ("n_heads", "ffn_hidden")}
        fields |= {"head_dim": HEAD_DIM, "n_kv_heads": KV_HEADS}
    return memory_bytes(derive(fields), precision="fp8", batch_size=batch_size, seq_len=GUIDE_SEQ_LEN)


def _estimate(estimate: Estimate, factor: float = 1, unit: str = "") -> str:
    digits = 0 if factor > 1 else 2
    value, low, high = (f"{factor * x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value}{unit} [{low}, {high}]"


def table(header: Sequence[str], rows: Any) -> Iterator[str]:
    """A table's lines."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


_UNMEASURED = """\
Nothing is recorded yet: `python benchmarks/guide/guide_scaling.py` measures it, on a CPU or on a GPU.
"""
_MEASURED = f"""\
By `python benchmarks/guide/guide_scaling.py`: one size at a time is varied about a base, each point in a process of its
own, orders shuffled by round. x is the size; intervals are 95% (t) and hold noise and lack of fit. A ratio "holds"
where its whole interval is within {TOLERANCE:.0%} of the guide's, a power where that is so of its factor for a
doubling, "faster" where the exponent's interval is below zero; where the interval lies across such a limit, it "isn't
decided". The guide's two sizes are taken at the same fractions of the measured base as they are of its main
configuration.
"""
_CPU_ALONE = """
All of this is a CPU's, at the scale that stands in each row. It tells how the arithmetic and the tensors scale. What it
leaves open: a GPU's speed, which falls less than its work where shapes are too small to fill it; its memory in bf16 and
FP8, in which states weigh more beside activations; and the guide's own scale.
Its memory also holds what compiled code and the allocator keep, a constant by which ratios come out smaller; the plan's
formula beside it counts tensors alone.
"""
_FORMULA = """\
The guide's ratios at its own scale by the formula of `sweeper plan`, which isn't a measurement:
"""
_QUALITY = """\
Sizes that differ in nothing but what the claim names (for width: its heads and FFN with it; for layers: the FFN where
the study gives each depth its own), each at the best of the study's learning rates. Better or worse is a difference
beyond the 95% range of all that were compared (Tukey's). A claim "doesn't hold" where a larger size is worse than a
smaller one, "isn't decided" where none is better or worse. At equal parameters one size was paid for with another, so
that the claim, which gives more capacity as the reason, isn't tested as it's meant.
"""
