"""What `sweeper shape` and `sweeper train` make of their flags: one shape, or a study of one config."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from model.shape import FIELDS, Shape, ShapeError, derive
from sweeper.errors import StudyFaults, UsageError
from sweeper.records import SCHEMA
from sweeper.study.loader import load
from sweeper.study.presets import PRESETS, layered
from sweeper.study.schema import LoadedStudy

DEFAULT_PRESET = "current"
_GIVEN = (*FIELDS, "kv_groups")


def shape_fields(flags: Mapping[str, Any]) -> Shape:
    """The shape that flags describe, over a preset (the guide's current one unless named).

    UsageError names the nearest shape that keeps a broken rule.
    """
    for name in _GIVEN:
        if flags.get(name) is not None and name != "tie_embeddings" and flags[name] < 1:
            raise UsageError(f"--{name} {flags[name]}: write a whole number of at least 1")
    own = {name: flags[name] for name in _GIVEN if flags.get(name) is not None}
    try:
        return derive(layered(_preset(flags)["model"], own))
    except ShapeError as error:
        raise UsageError(str(error)) from None


def _preset(flags: Mapping[str, Any]) -> Mapping[str, Any]:
    name = flags.get("preset") or DEFAULT_PRESET
    if name not in PRESETS:
        raise UsageError(f"{name}: no such preset; there are {', '.join(PRESETS)}")
    return PRESETS[name]


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
    """`sweeper train`'s flags as a study with one config, under the same checks as any study."""
    shape = shape_fields(flags)
    preset = _preset(flags)["trial"]
    data = Path(flags["data"])
    document = {
        "name": "train",
        "question": f"How well and how fast does {shape.n_layers} × {shape.d_model} train?",
        "model": {key: value for key, value in shape.to_dict().items() if key != "head_dim"},
        "trial": {
            "data": str(data.absolute()) if data.exists() else flags["data"],
            "tokens": flags["tokens"],
            "seq_len": flags["seq_len"],
            "batch_size": flags["batch_size"] or preset["batch_size"],
            "grad_accum_steps": flags["grad_accum_steps"] or preset["grad_accum_steps"],
            "precision": "fp8" if flags["use_fp8"] else flags["precision"],
            "compile": flags["compile"],
            "optimizer": {"name": "adamw", "lr": flags["lr"]},
            "seeds": flags["seeds"],
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.yaml"
        file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        try:
            return load(file)
        except StudyFaults as error:
            raise UsageError("\n".join(f"--{f.path.split('.')[-1]}: {f.message}" for f in error.faults)) from None
