"""Every figure of the guide that sweeper replaces, against the exact count and the rules: writes docs/guide_audit.md.

    python benchmarks/guide/guide_audit.py [--out FILE]

`guide_claims.yaml` holds what the guide says. Counts are those of `sweeper.model.shape`; a count is right where it's
within 5% of the total with a tied or with an untied head, whichever is nearer. The guide's tokens/s are compared with
one another alone, as its GPU is unnamed. What it claims on scaling is held against the records of `guide_scaling.py`,
its claims on quality against those of the studies; nothing is measured here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from guide_scaling_page import section, table  # noqa: E402
from provenance import RESULTS  # noqa: E402

from sweeper.model.shape import FP8_MULTIPLE, Shape, ShapeError, derive, neighbours  # noqa: E402

CLAIMS = Path(__file__).parent / "guide_claims.yaml"
DEFAULTS = {"d_model": 768, "n_heads": 12, "n_kv_heads": 4, "vocab_size": 32768}
"""The guide's command line's."""
TOLERANCE = 0.05
SEQ_LEN = 1024


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One configuration that the guide gives figures for; counts in parameters, `speed` in tokens/s."""

    where: str
    name: str
    flags: Mapping[str, int]
    total: float
    non_embedding: float | None
    speed: tuple[float, float] | None

    def shape(self, *, tied: bool) -> Shape:
        """What the guide's command would build. Raises ShapeError where it can't be built."""
        return derive({**DEFAULTS, **self.flags, "tie_embeddings": tied})

    @property
    def key(self) -> tuple[tuple[str, int], ...]:
        """Equal for two claims on the same shape."""
        fields = {**DEFAULTS, **self.flags}
        fields.setdefault("ffn_hidden", fields["d_model"] * 8 // 3)
        return tuple(sorted(fields.items()))

    @property
    def label(self) -> str:
        """The flags, short."""
        fields = {**DEFAULTS, **self.flags}
        ffn = f" f{fields['ffn_hidden']}" if "ffn_hidden" in fields else ""
        return f"L{fields['n_layers']} d{fields['d_model']}{ffn}"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "guide_audit.md")
    parser.parse_args().out.write_text(page(yaml.safe_load(CLAIMS.read_text())))


def page(said: Mapping[str, Any], *, results: Path = RESULTS) -> str:
    """The whole page, of the claims as `guide_claims.yaml` has them and the records in the folder `results`."""
    claims = list(claimed(said))
    parts = [
        _INTRODUCTION.format(tolerance=TOLERANCE, n=len(claims)),
        "## What is wrong\n",
        *(f"{number}. {finding}" for number, finding in enumerate(findings(said, claims), start=1)),
        "\n## Every configuration\n",
        _COUNTS,
        *table(("where", "configuration", "guide", "untied", "tied", "trunk", "verdict"), map(_count_row, claims)),
        "\n## Non-embedding parameters\n",
        "The trunk: all but the two tables of the vocabulary.\n",
        *table(
            ("where", "guide", "exact", "verdict"),
            (_trunk_row(claim) for claim in claims if claim.non_embedding is not None),
        ),
        "\n## Quick size calculator\n",
        *table(("what", "guide", "exact", "verdict"), _calculator_rows(said["calculator"])),
        "\n## Auto-FFN examples\n",
        *table(
            ("d_model", "guide", "int(d_model × 8 / 3)", f"multiple of {FP8_MULTIPLE}"),
            (_ffn_row(one["d_model"], one["ffn_hidden"]) for one in said["auto_ffn"]),
        ),
        "\n## Throughput, within the guide\n",
        _SPEEDS,
        *table(("configuration", "guide's tokens/s ÷ those of L32", "FLOPs of L32 ÷ its own"), _speed_rows(said)),
        *section(said["scaling"], results),
        "\n## Not audited yet\n",
        _OPEN,
    ]
    return "\n".join(parts)


def claimed(said: Mapping[str, Any]) -> Iterator[Claim]:
    """All configurations with a count."""
    sources = [
        ("preset", said["presets"]),
        *((group["name"], group["configs"]) for group in said["experiments"]),
        ("table", said["table"]),
        ("use case", said["use_cases"]),
    ]
    for where, entries in sources:
        for entry in entries:
            speed = entry.get("speed")
            trunk = entry.get("non_embedding")
            yield Claim(
                where=where,
                name=entry.get("name", ""),
                flags=entry["flags"],
                total=entry["total"] * 1e6,
                non_embedding=trunk and trunk * 1e6,
                speed=speed and (speed[0] * 1e3, speed[1] * 1e3),
            )


def findings(said: Mapping[str, Any], claims: Sequence[Claim]) -> list[str]:
    """What doesn't hold, a sentence or two each."""
    return [
        *_headline(claims),
        *_cannot_run(claims),
        *_not_for_fp8(claims, said["auto_ffn"]),
        *_not_constant(said["experiments"]),
        *_contradictions(claims),
        *_beyond_its_limit(said["use_cases"]),
        *_per_layer(said["calculator"]),
        _how_many(claims),
    ]


def _headline(claims: Sequence[Claim]) -> Iterator[str]:
    current = next(claim for claim in claims if claim.name == "Current Config")
    untied, tied = (current.shape(tied=tied).params for tied in (False, True))
    yield (
        f'The "{_millions(current.total)}" configuration ({current.label}) has {untied.total:,} parameters untied, '
        f"which is what the guide's own formula counts, and {tied.total:,} tied; {untied.trunk:,} of them aren't "
        f"embeddings, where the guide says ~{_millions(current.non_embedding or 0)}."
    )


def _cannot_run(claims: Sequence[Claim]) -> Iterator[str]:
    for claim in claims:
        try:
            claim.shape(tied=True)
        except ShapeError as error:
            yield f"{claim.where}: `{_flags(claim.flags)}` can't run: {error}."


def _not_for_fp8(claims: Sequence[Claim], auto: Sequence[Mapping[str, int]]) -> Iterator[str]:
    widths = {claim.flags["ffn_hidden"] for claim in claims if "ffn_hidden" in claim.flags}
    widths |= {one["ffn_hidden"] for one in auto}
    for width in sorted(width for width in widths if width % FP8_MULTIPLE):
        below, above = neighbours(width, FP8_MULTIPLE)
        yield (
            f"FFN {width} is no multiple of {FP8_MULTIPLE}, so FP8 can't take its matmuls, which stay in bf16; "
            f"{below} and {above} are."
        )


def _not_constant(experiments: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for group in experiments:
        name, values = group["constant"], [entry["flags"].get(group["constant"]) for entry in group["configs"]]
        if len(set(values)) > 1:
            yield (
                f"{group['name']} says that it keeps {name} constant, and takes {', '.join(map(str, values))}: what it "
                "compares differs in two things at once."
            )


def _contradictions(claims: Sequence[Claim]) -> Iterator[str]:
    by_shape: dict[Any, list[Claim]] = {}
    for claim in claims:
        by_shape.setdefault(claim.key, []).append(claim)
    for same in by_shape.values():
        if len({claim.total for claim in same}) > 1:
            said = ", ".join(f"{_millions(claim.total)} ({claim.where})" for claim in _first_of_each(same))
            yield f"{same[0].label} is given several sizes: {said}. {_exactly(same[0])}"


def _first_of_each(same: Sequence[Claim]) -> list[Claim]:
    return list({claim.total: claim for claim in reversed(same)}.values())[::-1]


def _exactly(claim: Claim) -> str:
    totals = [claim.shape(tied=tied).params.total for tied in (False, True)]
    return f"It has {totals[0]:,} untied and {totals[1]:,} tied."


def _beyond_its_limit(use_cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for case in use_cases:
        if "within" in case:
            tied = derive({**DEFAULTS, **case["flags"], "tie_embeddings": True}).params.total
            if tied > case["within"] * 1e6:
                yield (
                    f"The use case {case['name']} names a configuration of {_millions(tied)} at best (tied): it isn't "
                    f"within {case['within']}M."
                )


def _per_layer(calculator: Mapping[str, Any]) -> Iterator[str]:
    layer = _layer(ffn_hidden=2048)
    yield (
        f'"{calculator["per_layer"]}M per layer" is {layer:,} at d_model 768, 4 KV heads and FFN 2048 '
        f"({layer / (calculator['per_layer'] * 1e6) - 1:+.1%}), and {_layer(ffn_hidden=2560):,} at the FFN of 2560 "
        "that the guide gives its 12 layers."
    )


def _how_many(claims: Sequence[Claim]) -> str:
    wrong = [claim for claim in claims if _off(claim) is None or abs(_off(claim) or 0) > TOLERANCE]
    return (
        f"Of {len(claims)} configurations with a count, {len(claims) - len(wrong)} are within {TOLERANCE:.0%} of one."
    )


def _layer(*, ffn_hidden: int) -> int:
    """Parameters of one layer at the guide's defaults: of two layers less those of one."""
    fields = {**DEFAULTS, "ffn_hidden": ffn_hidden, "tie_embeddings": True}
    one, two = (derive({**fields, "n_layers": n}).params.total for n in (1, 2))
    return two - one


def _off(claim: Claim) -> float | None:
    """How far the guide is off the nearer of the two counts, as a fraction of it; None where there is none."""
    try:
        totals = [claim.shape(tied=tied).params.total for tied in (False, True)]
    except ShapeError:
        return None
    return min((claim.total / total - 1 for total in totals), key=abs)


def _count_row(claim: Claim) -> Sequence[str]:
    where, off = f"{claim.where}{f', {claim.name}' if claim.name else ''}", _off(claim)
    if off is None:
        return where, claim.label, _millions(claim.total), "–", "–", "–", "can't run"
    untied, tied = (claim.shape(tied=tied).params for tied in (False, True))
    counts = [_millions(count) for count in (untied.total, tied.total, untied.trunk)]
    return where, claim.label, _millions(claim.total), *counts, _verdict(off)


def _trunk_row(claim: Claim) -> Sequence[str]:
    exact = claim.shape(tied=True).params.trunk
    said = claim.non_embedding or 0.0
    return claim.name, _millions(said), f"{exact:,}", _verdict(said / exact - 1)


def _calculator_rows(calculator: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    table = DEFAULTS["vocab_size"] * DEFAULTS["d_model"]
    yield (
        "embeddings",
        f"{calculator['embeddings']}M",
        f"{table:,}",
        _verdict(calculator["embeddings"] * 1e6 / table - 1),
    )
    layer = _layer(ffn_hidden=2048)
    yield (
        "a layer, FFN 2048",
        f"{calculator['per_layer']}M",
        f"{layer:,}",
        _verdict(calculator["per_layer"] * 1e6 / layer - 1),
    )
    for example in calculator["examples"]:
        n_layers, total = example["n_layers"], example["total"] * 1e6
        exact = derive({**DEFAULTS, "n_layers": n_layers, "ffn_hidden": 2048, "tie_embeddings": True}).params.total
        yield f"{n_layers} layers, tied", _millions(total), f"{exact:,}", _verdict(total / exact - 1)


def _ffn_row(d_model: int, ffn_hidden: int) -> Sequence[str]:
    derived = d_model * 8 // 3
    holds = f"{derived}" if derived == ffn_hidden else f"{derived}, not {ffn_hidden}"
    return str(d_model), str(ffn_hidden), holds, "no" if ffn_hidden % FP8_MULTIPLE else "yes"


def _speed_rows(said: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    claims = [claim for claim in claimed(said) if claim.where == "table" and claim.speed]
    base = next(claim for claim in claims if claim.flags["n_layers"] == 32)
    for claim in claims:
        assert claim.speed is not None
        assert base.speed is not None
        low, high = claim.speed[0] / base.speed[1], claim.speed[1] / base.speed[0]
        flops = [one.shape(tied=True).train_flops_per_token(SEQ_LEN) for one in (base, claim)]
        yield claim.label, f"{low:.2f} to {high:.2f}", f"{flops[0] / flops[1]:.2f}"


def _verdict(off: float) -> str:
    return "holds" if abs(off) <= TOLERANCE else f"{off:+.1%}"


def _millions(count: float) -> str:
    return f"{count / 1e6:.4g}M"


def _flags(flags: Mapping[str, int]) -> str:
    return " ".join(f"--{name} {value}" for name, value in flags.items())


_INTRODUCTION = """\
# The guide, audited

Written by `python benchmarks/guide/guide_audit.py` from the guide's own figures (`guide_claims.yaml` beside it: {n}
configurations), the exact counts of `model/shape.py` and, for scaling and quality, the records in `benchmarks/results`;
a test keeps it so. "Holds" is within {tolerance:.0%}.
"""
_COUNTS = """\
Untied is what the guide's formula counts (an output table of its own); where tied is nearer, that is what it is held
against. L: layers, d: width, f: FFN.
"""
_SPEEDS = f"""\
Its GPU is unnamed, so that its tokens/s mean something only beside one another. If a step cost nothing but its FLOPs
(at {SEQ_LEN} positions), the two columns were equal.
"""
_OPEN = """\
Its tokens/s and its memory, row by row, against measured ones: they need measurements on a GPU, of which none is
recorded yet.
"""


if __name__ == "__main__":
    main()
