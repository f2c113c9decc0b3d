"""What `sweeper shape` and `sweeper train` make of their flags: one shape, or a study of one config."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from model.shape import FIELDS, Shape, ShapeError, derive
from sweeper.errors import StudyFaults, UsageError
from sweeper.machine import job_gpus
from sweeper.records import SCHEMA
from sweeper.study.loader import load
from sweeper.study.presets import PRESETS, layered
from sweeper.study.schema import EMBEDDED_DATA, LoadedStudy

DEFAULT_PRESET = "current"
_GIVEN = (*FIELDS, "kv_groups")
_COUNTS = (
    *(name for name in _GIVEN if name != "tie_embeddings"), "seq_len", "batch_size", "grad_accum_steps", "seeds",
)  # fmt: skip
"""Flags that take a whole number of at least 1."""


def shape_fields(flags: Mapping[str, Any]) -> Shape:
    """The shape that flags describe, over a preset (the guide's current one unless named).

    Raises UsageError with all that is wrong with the flags, each with what would be right.
    """
    shape, faults = _shape(flags)
    if faults:
        raise UsageError("\n".join(faults))
    return shape


def _shape(flags: Mapping[str, Any]) -> tuple[Shape, list[str]]:
    """The shape, or in its place the preset's where flags of the shape are faulty; and all faults of the flags."""
    wrong = [name for name in _COUNTS if flags.get(name) is not None and flags[name] < 1]
    faults = [f"--{name} {flags[name]}: write a whole number of at least 1" for name in wrong]
    name = flags.get("preset") or DEFAULT_PRESET
    if name not in PRESETS:
        faults.append(f"{name}: no such preset; there are {', '.join(PRESETS)}")
    fallback = derive(_preset(flags)["model"])
    if name not in PRESETS or any(name in _GIVEN for name in wrong):
        return fallback, faults
    own = {name: flags[name] for name in _GIVEN if flags.get(name) is not None}
    try:
        shape = derive(layered(_preset(flags)["model"], own))
    except ShapeError as error:
        blamed = [f"--{name}" for name in own if name in error.rule.split()]
        return fallback, [*faults, f"{' and '.join(blamed)}: {error}" if blamed else str(error)]
    if shape.n_kv_heads != own.get("n_kv_heads", shape.n_kv_heads):
        faults.append(
            f"--n_kv_heads {own['n_kv_heads']} and --kv_groups {own['kv_groups']}: {shape.n_heads} heads in groups "
            f"of {own['kv_groups']} share {shape.n_kv_heads} KV heads; leave one of the two out"
        )
    return shape, faults


def _preset(flags: Mapping[str, Any]) -> Mapping[str, Any]:
    return PRESETS.get(flags.get("preset") or DEFAULT_PRESET) or PRESETS[DEFAULT_PRESET]


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


def train_study(flags: Mapping[str, Any]) -> LoadedStudy:
    """`sweeper train`'s flags as a study with one config, under the same checks as any study.

    Raises UsageError with all that is wrong with the flags, each with what would be right.
    """
    shape, faults = _shape(flags)
    if flags["use_fp8"] and flags["precision"]:
        faults.append(f"--use_fp8 and --precision {flags['precision']}: one excludes the other; leave one of them out")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.yaml"
        file.write_text(yaml.safe_dump(_document(flags, shape), allow_unicode=True), encoding="utf-8")
        try:
            loaded = load(file)
        except StudyFaults as error:
            faults += [f"--{fault.path.split('.')[-1]}: {fault.message}" for fault in error.faults]
    if faults:
        raise UsageError("\n".join(faults))
    return loaded


def _document(flags: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """The study; a count that is faulty, and was reported, is replaced so that the rest can be checked."""
    defaults = {**_preset(flags)["trial"], "seq_len": 1024, "seeds": 1}
    counts = {name: flags[name] if (flags[name] or 0) >= 1 else default for name, default in defaults.items()}
    data = Path(flags["data"])
    here = flags["data"] not in EMBEDDED_DATA and data.exists()
    return {
        "name": "train",
        "question": f"How well and how fast does {shape.n_layers} × {shape.d_model} train?",
        "model": {key: value for key, value in shape.to_dict().items() if key != "head_dim"},
        "trial": {
            **counts,
            "data": str(data.absolute()) if here else flags["data"],
            "tokens": _number(flags["tokens"]),
            "precision": "fp8" if flags["use_fp8"] else flags["precision"] or "bf16",
            "compile": flags["compile"],
            "optimizer": {"name": "adamw", "lr": _number(flags["lr"])},
        },
        "resources": {"gpus": job_gpus(None)},
    }


def _number(text: str) -> int | float | str:
    """A bare number as one, which YAML would write in quotes; with a unit, or wrong, it stays text."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text
