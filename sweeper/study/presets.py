"""The guide's five configurations by name: shape fields, micro-batch and accumulation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_SHARED = {"vocab_size": 32768, "tie_embeddings": False}


def _preset(*, batch_size: int, grad_accum_steps: int, **shape: Any) -> Mapping[str, Any]:
    fields = {**_SHARED, **shape}
    return MappingProxyType(
        {"model": fields, "trial": {"batch_size": batch_size, "grad_accum_steps": grad_accum_steps}}
    )


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "gpt2-small": _preset(d_model=768, n_layers=12, n_heads=12, n_kv_heads=4, ffn_hidden=2560,
                              batch_size=12, grad_accum_steps=8),
        "current": _preset(d_model=768, n_layers=32, n_heads=12, n_kv_heads=4, ffn_hidden=2048,
                           batch_size=8, grad_accum_steps=12),
        "medium-deep": _preset(d_model=768, n_layers=20, n_heads=12, n_kv_heads=4, ffn_hidden=2304,
                               batch_size=10, grad_accum_steps=10),
        "wide-shallow": _preset(d_model=1024, n_layers=12, n_heads=16, n_kv_heads=4, ffn_hidden=2730,
                                batch_size=8, grad_accum_steps=12),
        "gpt2-medium": _preset(d_model=1024, n_layers=24, n_heads=16, n_kv_heads=4, ffn_hidden=4096,
                               batch_size=4, grad_accum_steps=16),
    }
)  # fmt: skip

ALTERNATIVES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "n_heads": ("head_dim",),
        "head_dim": ("n_heads",),
        "n_kv_heads": ("kv_groups",),
        "kv_groups": ("n_kv_heads",),
        "ffn_hidden": ("ffn_ratio",),
        "ffn_ratio": ("ffn_hidden",),
    }
)
"""Fields of which one replaces the other."""


def layered(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Shape fields of a preset (`base`) under fields set by the user (`own`).

    A field replaces the preset's alternative of it, and when `d_model` is set the preset's heads, KV heads and FFN give
    way unless they are set too, so that they're derived from the new width.
    """
    fields = dict(base)
    if own.get("d_model", base.get("d_model")) != base.get("d_model"):
        for name in ("n_heads", "head_dim", "n_kv_heads", "kv_groups", "ffn_hidden", "ffn_ratio"):
            fields.pop(name, None)
    if any(own.get(name) is not None for name in ("n_heads", "head_dim")) and not any(
        own.get(name) is not None for name in ("n_kv_heads", "kv_groups")
    ):
        n_heads = own.get("n_heads")
        if n_heads is None or ("n_kv_heads" in fields and n_heads % fields["n_kv_heads"]):
            fields.pop("n_kv_heads", None)
    for name, value in own.items():
        for other in ALTERNATIVES.get(name, ()):
            if other not in own:
                fields.pop(other, None)
        fields[name] = value
    return fields
