"""What `sweeper shape` makes of its flags, and `sweeper train` of those of the shape: exact counts, or all faults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sweeper.model.shape import FIELDS, Shape, ShapeError, derive
from sweeper.study.presets import PRESETS, layered
from sweeper.values.errors import UsageError
from sweeper.values.records import SCHEMA

DEFAULT_PRESET = "current"
_GIVEN = (*FIELDS, "kv_groups")
_COUNTS = (
    *(name for name in _GIVEN if name != "tie_embeddings"),
    "seq_len", "batch_size", "grad_accum_steps", "seeds", "checkpoint_every",
)  # fmt: skip
"""Flags that take a whole number of at least 1."""


def shape_fields(flags: Mapping[str, Any]) -> Shape:
    """The shape that flags describe, over a preset (the guide's current one unless named).

    Raises UsageError with all that is wrong with the flags, each with what would be right.
    """
    shape, faults = shape_or_faults(flags)
    if faults:
        raise UsageError("\n".join(faults))
    return shape


def shape_or_faults(flags: Mapping[str, Any]) -> tuple[Shape, list[str]]:
    """The shape, or in its place the preset's where flags of the shape are faulty; and all faults of the flags."""
    wrong = [(name, value) for name in _COUNTS for value in counts(flags.get(name)) if value < 1]
    faults = [f"--{name} {value}: write a whole number of at least 1" for name, value in wrong]
    name = flags.get("preset") or DEFAULT_PRESET
    if name not in PRESETS:
        faults.append(f"{name}: no such preset; there are {', '.join(PRESETS)}")
    fallback = derive(preset(flags)["model"])
    if name not in PRESETS or any(name in _GIVEN for name, _ in wrong):
        return fallback, faults
    own = {name: flags[name] for name in _GIVEN if flags.get(name) is not None}
    try:
        shape = derive(layered(preset(flags)["model"], own))
    except ShapeError as error:
        blamed = [f"--{name}" for name in own if name in error.rule.split()]
        return fallback, [*faults, f"{' and '.join(blamed)}: {error}" if blamed else str(error)]
    if shape.n_kv_heads != own.get("n_kv_heads", shape.n_kv_heads):
        faults.append(
            f"--n_kv_heads {own['n_kv_heads']} and --kv_groups {own['kv_groups']}: {shape.n_heads} heads in groups "
            f"of {own['kv_groups']} share {shape.n_kv_heads} KV heads; leave one of the two out"
        )
    return shape, faults


def counts(value: int | list[int] | None) -> list[int]:
    """A flag's count, or its several counts, or none."""
    return [] if value is None else value if isinstance(value, list) else [value]


def preset(flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """The preset that flags name; the guide's current one where they name none, or none that there is."""
    return PRESETS.get(flags.get("preset") or DEFAULT_PRESET) or PRESETS[DEFAULT_PRESET]


def shape_output(flags: Mapping[str, Any]) -> str:
    """What `sweeper shape` prints for its flags, `json` and `seq_len` among them."""
    result = shape_json(shape_fields(flags), seq_len=flags["seq_len"])
    return json.dumps(result, indent=2) if flags["json"] else shape_text(result)


def shape_json(shape: Shape, *, seq_len: int) -> dict[str, Any]:
    """`sweeper shape --json`."""
    return {
        "schema": SCHEMA,
        "shape": shape.to_dict(),
        "params": asdict(shape.params),
        "train_flops_per_token": shape.train_flops_per_token(seq_len),
        "warnings": shape.fp8_warnings(),
    }


def shape_text(result: Mapping[str, Any]) -> str:
    """The same for people."""
    shape, params = result["shape"], result["params"]
    tied = "tied" if shape["tie_embeddings"] else "untied"
    lines = [
        f"{shape['n_layers']} layers × {shape['d_model']}, {shape['n_heads']} heads of {shape['head_dim']} over "
        f"{shape['n_kv_heads']} KV heads, FFN {shape['ffn_hidden']}, vocabulary {shape['vocab_size']:,} {tied}",
        *(f"  {name:<10}{params[name]:>15,}" for name in ("total", "trunk", "embedding", "head")),
        f"  train FLOPs per token {result['train_flops_per_token']:.4g}",
        *(f"warning: {text}" for text in result["warnings"]),
    ]
    return "\n".join(lines)


def shape(arguments: Any) -> None:
    """Exact counts of one shape."""
    print(shape_output(vars(arguments)))
