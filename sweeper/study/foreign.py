"""Files of other tools' searches, pasted where a study belongs: named as what they are, with the study they would be.

Weights & Biases' sweeps, Hydra's configurations and Optuna's search spaces. What is known by another name here, or not
at all, is said; what a study needs and the file hasn't is filled in and marked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeper.study.nodes import YamlNode, plain, resolved
from sweeper.values.errors import Fault

_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("n_layers", "n_layer", "num_layers", "num_hidden_layers", "layers", "depth"), "n_layers"),
    **dict.fromkeys(("d_model", "hidden_size", "n_embd", "embed_dim", "hidden_dim", "dim", "width"), "d_model"),
    **dict.fromkeys(("n_heads", "n_head", "num_heads", "num_attention_heads", "heads"), "n_heads"),
    **dict.fromkeys(("n_kv_heads", "n_kv_head", "num_key_value_heads", "num_kv_heads"), "n_kv_heads"),
    **dict.fromkeys(("ffn_hidden", "intermediate_size", "ffn_dim", "d_ff", "mlp_dim"), "ffn_hidden"),
    **dict.fromkeys(("batch_size", "micro_batch_size", "per_device_train_batch_size"), "batch_size"),
    **dict.fromkeys(("seq_len", "block_size", "context_length", "max_seq_len", "sequence_length"), "seq_len"),
    **dict.fromkeys(("grad_accum_steps", "gradient_accumulation_steps"), "grad_accum_steps"),
    **dict.fromkeys(("lr", "learning_rate", "max_lr"), "optimizer.lr"),
    **dict.fromkeys(("weight_decay", "wd"), "optimizer.weight_decay"),
    **dict.fromkeys(("grad_clip", "max_grad_norm", "clip_grad_norm"), "optimizer.grad_clip"),
    **{name: name for name in ("head_dim", "vocab_size", "tokens", "tokens_per_step")},
}
"""The last word of a parameter's name elsewhere, and what it is here."""
_MODEL = ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "ffn_hidden", "vocab_size")
_MISSING = {"n_layers": 12, "d_model": 768, "vocab_size": 32768}
_METHODS = {"bayes": "tpe", "tpesampler": "tpe", "tpe": "tpe", "random": "random", "randomsampler": "random"}
_TRIALS = 20


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Another tool's search: `parameters` by name, each an axis in YAML's flow form; `fixed` fields likewise."""

    tool: str
    method: str = ""
    trials: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)


def foreign_fault(root: YamlNode) -> Fault | None:
    """The fault of a file that is another tool's search, None of any other file."""
    values = plain(root)
    if not isinstance(values, dict) or "trial" in values or "axes" in values:
        return None
    search = _weights_and_biases(values) or _hydra(values) or _optuna(values)
    if search is None:
        return None
    return root.fault(f"this is {search.tool}, not a study; as a study it would be\n\n{_study(search)}")


def _weights_and_biases(values: Mapping[str, Any]) -> _Search | None:
    parameters = values.get("parameters")
    if not isinstance(parameters, dict) or not values.keys() & {"method", "metric", "program"}:
        return None
    leaves = dict(_leaves(parameters, inner="parameters"))
    return _Search(
        tool="a Weights & Biases sweep",
        method=str(values.get("method", "")),
        trials=_count(values.get("run_cap")),
        parameters={name: axis for name, leaf in leaves.items() if (axis := _axis(leaf))},
        fixed={name: _flow(leaf["value"]) for name, leaf in leaves.items() if "value" in leaf},
    )


def _hydra(values: Mapping[str, Any]) -> _Search | None:
    own = values.get("hydra")
    if not isinstance(own, dict) and not isinstance(values.get("defaults"), list):
        return None
    sweeper = own.get("sweeper") if isinstance(own, dict) else None
    sweeper = sweeper if isinstance(sweeper, dict) else {}
    parameters = sweeper.get("params") or sweeper.get("search_space") or {}
    sampler = sweeper.get("sampler")
    axes = {name: _axis(value) for name, value in parameters.items()} if isinstance(parameters, dict) else {}
    rest = {key: value for key, value in values.items() if key not in ("hydra", "defaults")}
    return _Search(
        tool="a Hydra configuration",
        method=str(sampler.get("_target_", "")).rpartition(".")[2] if isinstance(sampler, dict) else "",
        trials=_count(sweeper.get("n_trials")),
        parameters={name: axis for name, axis in axes.items() if axis},
        fixed={name: _flow(value) for name, value in _leaves(rest) if not isinstance(value, dict | list)},
    )


def _optuna(values: Mapping[str, Any]) -> _Search | None:
    parameters = next((values[key] for key in ("search_space", "params", "parameters") if key in values), None)
    signs = {"n_trials", "sampler", "direction", "directions", "study_name", "pruner"}
    if not isinstance(parameters, dict) or not values.keys() & signs:
        return None
    sampler = values.get("sampler")
    sampler = sampler.get("type") or sampler.get("name") if isinstance(sampler, dict) else sampler
    return _Search(
        tool="an Optuna search space",
        method=str(sampler or "tpe"),
        trials=_count(values.get("n_trials")),
        parameters={name: axis for name, value in parameters.items() if (axis := _axis(value))},
    )


def _leaves(values: Mapping[str, Any], *, inner: str = "", prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The parameters of nested mappings by their dotted names; W&B nests under a key of its own."""
    for name, value in values.items():
        below = value.get(inner) if inner and isinstance(value, dict) else None if inner else value
        if isinstance(below, dict):
            yield from _leaves(below, inner=inner, prefix=f"{prefix}{name}.")
        elif not inner or isinstance(value, dict):
            yield f"{prefix}{name}", value


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _axis(value: Any) -> str:
    """What a parameter may be, as an axis; "" where that can't be told."""
    if isinstance(value, str):
        return _hydra_axis(value)
    if isinstance(value, list):
        return _flow(value)
    if not isinstance(value, dict):
        return ""
    value = {**value, **value["attributes"]} if isinstance(value.get("attributes"), dict) else value
    values = value.get("values") or value.get("choices")
    low, high = value.get("min", value.get("low")), value.get("max", value.get("high"))
    if isinstance(values, list):
        return _flow(values)
    log = value.get("log") is True or "log" in str(value.get("distribution", value.get("type", "")))
    return _range(low, high, value.get("q", value.get("step")), log=log)


def _range(low: Any, high: Any, step: Any, *, log: bool) -> str:
    numbers = (int, float)
    if not isinstance(low, numbers) or not isinstance(high, numbers) or not low < high:
        return ""
    if log and low > 0:
        return _flow({"from": low, "to": high, "log": 5})
    if isinstance(low, int) and isinstance(high, int):
        return _flow({"from": low, "to": high, "step": step if isinstance(step, int) else 1})
    return _flow([float(f"{low + (high - low) * part / 4:.6g}") for part in range(5)])


def _hydra_axis(text: str) -> str:
    """`1,2,4`, `choice(…)`, `range(from, end[, step])`, `interval(from, to)`, and what is tagged `log`."""
    tagged = re.fullmatch(r"tag\(\s*log\s*,\s*(.*)\)", text.strip())
    called = re.fullmatch(r"(choice|range|interval)\((.*)\)", tagged[1] if tagged else text.strip())
    parts = [resolved(part.strip().strip("'\"")) for part in (called[2] if called else text).split(",")]
    if called is None:
        return _flow(parts) if len(parts) > 1 else ""
    if called[1] == "choice" or len(parts) < 2:
        return _flow(parts)
    low, high, *step = parts
    if called[1] == "interval":
        return _range(low, high, None, log=tagged is not None)
    step = step or [1]
    whole = all(isinstance(part, int) for part in (low, high, *step))
    return _flow(list(range(low, high, step[0]))) if whole and step != [0] else ""  # type: ignore[arg-type]


def _flow(value: Any) -> str:
    """A value in YAML's flow form."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or value is True or value is False
        else f"{value}"
    )


def _study(search: _Search) -> str:
    axes, unknown = _translated(search.parameters)
    fixed, unknown_fixed = _translated(search.fixed)
    fixed = {name: value for name, value in fixed.items() if name not in axes}
    missing = {name: f"{value}" for name, value in _MISSING.items() if name not in axes and name not in fixed}
    model = {name: value for name, value in (fixed | missing).items() if name in _MODEL}
    optimizer = {name.partition(".")[2]: value for name, value in fixed.items() if name.startswith("optimizer.")}
    trial = {"data": "python-stdlib"} | {n: v for n, v in fixed.items() if n not in _MODEL and "." not in n}
    length = {} if "tokens" in axes or "tokens" in trial else {"tokens": "60M"}
    yours = ", ".join((*missing, "data", *length))
    lines = [
        "name: my-study",
        f"model: {_mapping(model)}",
        *(["axes:", *(f"  {name}: {value}" for name, value in axes.items())] if axes else []),
        f"trial: {_mapping(trial | length | ({'optimizer': _mapping(optimizer)} if optimizer else {}))}",
        f"# {yours}: put yours here",
    ]
    if method := _METHODS.get(search.method.lower()):
        lines.insert(-1, f"search: {{method: {method}, trials: {search.trials or _TRIALS}}}")
    if unknown:
        lines.append(f"# no axis here: {', '.join(unknown)}")
    if unknown_fixed and not unknown and search.tool == "a Weights & Biases sweep":
        lines.append(f"# not known here: {', '.join(unknown_fixed)}")
    return "\n".join(f"  {line}" for line in lines)


def _translated(parameters: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    known = {name: _NAMES.get(re.split(r"[./]", name)[-1].lstrip("-").replace("-", "_").lower()) for name in parameters}
    found = {ours: parameters[name] for name, ours in known.items() if ours is not None}
    return found, [name for name, ours in known.items() if ours is None]


def _mapping(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"
