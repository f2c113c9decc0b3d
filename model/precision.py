"""What a trial computes in: fp32, bf16 autocast, or FP8 matmuls inside bf16 autocast.

FP8 with one scale per tensor, found anew at each use: an operand X is stored as E4M3 (gradients as E5M2) of X·s with
s = max_representable ÷ max|X|, and the product is scaled back (2209.05433). Half the operand bytes and twice bf16's
peak on Hopper, against the cost of finding max|X|: at small widths that cost wins, so FP8 is measured, never assumed.

Two backends do this: torchao's float8 with tensorwise dynamic scaling, and te.Linear under Float8CurrentScaling.
torchao's rowwise scaling is more exact and slower: its own filter keeps N ≤ 2048 and K ≤ 1024 out, so that at
d_model 768 nothing would be left. Its other settings stay at their defaults: padding would only cost, since what
isn't aligned stays out anyway, and fast accumulation in the forward product alone is what it was measured with.

Constraint: all three of a matmul's dimensions must be multiples of 16, K inputs and N outputs, and the tokens, over
which the weight's gradient sums (torch's `_scaled_mm` and cuBLASLt both ask for it). Of the tokens the sequence length
is looked at, not the micro-batch, so that which matmuls are converted doesn't depend on it.

A scale of activations or gradients spans the micro-batch. So under FP8, and there alone, the loss depends on the
micro-batch: by a part of FP8's own rounding.

Without hardware support (CUDA capability ≥ 8.9) torchao emulates: operands are rounded to FP8 and multiplied in fp32.
Those numerics are real, the speed is not; and on a CPU torchao doesn't see autocast, so that operands are rounded from
fp32 where CUDA's are rounded from bf16. Embedding, head and norms stay out of FP8. Parameters, gradients and optimizer
state are fp32 throughout.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch import nn

from sweeper.model.shape import FP8_MULTIPLE, SLOWER_IN_FP8, computes_in_fp8
from sweeper.model.transformer import Transformer

Backend = Literal["torchao", "transformer_engine"]
LayerFilter = Literal["auto", "none"]

CUDA_CAPABILITY = (8, 9)
COMPILES_FROM = {"torch": "2.14", "transformer_engine": "2.20"}
"""te.Linear's compiled path: transformer-engine 2.20 (2.19 has none) needs torch 2.14's `register_custom_class`."""


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """What became of the blocks' matmuls, counted as built: `converted` of `total`, four a block.

    `kept_out` says which were not converted and why, one line for each reason. `backend` and `layer_filter` are None
    but for fp8. `eager` says why blocks must not be compiled, None where they can be.
    """

    name: str
    converted: int
    total: int
    kept_out: tuple[str, ...] = ()
    emulated: bool = False
    backend: Backend | None = None
    layer_filter: LayerFilter | None = None
    eager: str | None = None


def apply(
    model: Transformer,
    *,
    name: str,
    device: torch.device,
    backend: Backend = "torchao",
    layer_filter: LayerFilter = "auto",
) -> PrecisionReport:
    """Convert the blocks' linear layers in place as `name` (fp32 | bf16 | fp8) asks; say what was converted.

    `layer_filter` auto leaves out what FP8 slows down, none converts all that is aligned. Parameters stay the same
    objects under the same names. Raises RuntimeError with the remedy when this machine lacks what `backend` needs.
    """
    linears = {path: module for path, module in model.blocks.named_modules() if isinstance(module, nn.Linear)}
    if name != "fp8":
        return PrecisionReport(name=name, converted=0, total=len(linears))
    if lacking := fp8_lacks(backend, device):
        raise RuntimeError(lacking)
    seq_len = model.cos_TC.shape[0]
    reasons = {path: _reason(linear, seq_len, layer_filter) for path, linear in linears.items()}
    fitting = [path for path, reason in reasons.items() if reason is None]
    emulated = not _has_fp8(device)
    if backend == "torchao":
        _to_torchao(model, fitting, emulated=emulated)
    else:
        _to_transformer_engine(model, fitting)
    return PrecisionReport(
        name=name,
        converted=len(fitting),
        total=len(linears),
        kept_out=_merged({path: reason for path, reason in reasons.items() if reason is not None}),
        emulated=emulated,
        backend=backend,
        layer_filter=layer_filter,
        eager=_eager_reason() if backend == "transformer_engine" and fitting else None,
    )


def autocast(
    *, name: str, device: torch.device, backend: Backend = "torchao"
) -> contextlib.AbstractContextManager[object]:
    """The context in which a forward pass runs: bf16 autocast unless `name` is fp32, and the backend's own."""
    if name == "fp32":
        return contextlib.nullcontext()
    mixed = torch.autocast(device.type, dtype=torch.bfloat16)
    if name == "fp8" and backend == "transformer_engine":
        return _both(mixed, _transformer_engine().autocast(enabled=True, recipe=_current_scaling()))
    return mixed


def fp8_lacks(backend: Backend, device: torch.device) -> str | None:
    """What keeps `backend` from running FP8 on `device`, and how to mend it; None when nothing does."""
    if backend == "transformer_engine" and not _has_fp8(device):
        return (
            f"fp8_backend transformer_engine needs a CUDA device of capability 8.9 or above, not {device.type}: "
            "fp8_backend torchao emulates FP8 elsewhere"
        )
    try:
        with _quiet():
            importlib.import_module("torchao.float8" if backend == "torchao" else "transformer_engine.pytorch")
    except Exception as error:  # transformer-engine also fails to load by AssertionError, OSError and RuntimeError
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(("torchao", "transformer_"))
        problem = "which isn't installed" if absent else f"which fails to import ({error})"
        if backend == "torchao":
            return f"precision fp8 needs torchao, {problem}: pip install torchao"
        return (
            f"fp8_backend transformer_engine needs transformer-engine, {problem}: on a CUDA machine, in sweeper's "
            "folder, pip install --no-build-isolation '.[transformer-engine]', or use fp8_backend torchao"
        )
    return None


def _has_fp8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CUDA_CAPABILITY


def _reason(linear: nn.Linear, seq_len: int, layer_filter: LayerFilter) -> str | None:
    """Why a matmul of K inputs and N outputs stays in bf16, None when it goes to FP8."""
    k, n = linear.in_features, linear.out_features
    if computes_in_fp8(k, n, seq_len=seq_len, layer_filter=layer_filter):
        return None
    sizes = {"K": k, "N": n, "sequence length": seq_len}
    unaligned = [f"{dimension} {size}" for dimension, size in sizes.items() if size % FP8_MULTIPLE]
    if unaligned:
        return f"{' and '.join(unaligned)} no multiple of {FP8_MULTIPLE}"
    most_k, most_n = SLOWER_IN_FP8
    return f"K {k} ≤ {most_k} and N {n} ≤ {most_n} (FP8 slower than bf16 there)"


def _merged(reasons: dict[str, str]) -> tuple[str, ...]:
    """ "0.ffn.down" … "31.ffn.down" with one reason → "blocks 0–31: ffn.down: the reason". All blocks are alike."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for path, reason in reasons.items():
        block, _, layer = path.partition(".")
        groups.setdefault(reason, []).append((int(block), layer))
    lines = []
    for reason, places in groups.items():
        last = max(block for block, _ in places)
        layers = ", ".join(dict.fromkeys(layer for _, layer in places))
        lines.append(f"{f'blocks 0–{last}' if last else 'block 0'}: {layers}: {reason}")
    return tuple(lines)


def _to_torchao(model: Transformer, fitting: list[str], *, emulated: bool) -> None:
    chosen = frozenset(fitting)
    with _quiet():
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training

        convert_to_float8_training(
            model.blocks,
            config=Float8LinearConfig(emulate=emulated),
            module_filter_fn=lambda _module, path: path in chosen,
        )


def _to_transformer_engine(model: Transformer, fitting: list[str]) -> None:
    """Put te.Linear in place of nn.Linear, around the same fp32 parameter."""
    te = _transformer_engine()
    for path in fitting:
        parent, _, own_name = path.rpartition(".")
        linear = model.blocks.get_submodule(path)
        # On "meta" it neither allocates nor draws numbers for a weight that is replaced at once.
        layer = te.Linear(
            linear.in_features, linear.out_features, bias=False, params_dtype=torch.float32, device="meta"
        )
        layer.weight = linear.weight
        setattr(model.blocks.get_submodule(parent), own_name, layer)


def _eager_reason() -> str | None:
    te_version = importlib.import_module("transformer_engine").__version__
    # TorchVersion compares with a str as versions do: 2.9 < 2.14.
    versions = {"torch": torch.__version__, "transformer_engine": torch.torch_version.TorchVersion(te_version)}
    if all(versions[package] >= least for package, least in COMPILES_FROM.items()):
        return None
    return (
        f"te.Linear compiles from transformer-engine 2.20 with torch 2.14 on; "
        f"these are {te_version} and {torch.__version__}"
    )


def _transformer_engine() -> ModuleType:
    with _quiet():
        return importlib.import_module("transformer_engine.pytorch")


@functools.cache
def _current_scaling() -> object:
    # One object for the whole process: compiled code is guarded on the recipe that it was traced with.
    return importlib.import_module("transformer_engine.common.recipe").Float8CurrentScaling()


@contextlib.contextmanager
def _both(
    outer: contextlib.AbstractContextManager[object], inner: contextlib.AbstractContextManager[object]
) -> Iterator[None]:
    with outer, inner:
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the backends' import-time notes about kernels that aren't needed here away from users."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
