"""What compiled layers and the loss keep for the backward pass on CUDA, against what a plan predicts.

    python benchmarks/activation_memory.py [--out FILE]

Counted on the graphs that torch.compile makes, cut in two by the partitioner that Inductor calls, with Inductor's
decompositions and passes before it. All tensors are fakes, so that sizes cost nothing and no GPU is needed. Attention
is the one operator that CUDA runs: flash attention in bf16, the memory-efficient kernel in fp32. A view counts as the
whole memory that it keeps alive. Weights and their copies are left out: they don't grow with the tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import operator
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from functorch.compile import make_boxed_func
from provenance import RESULTS, provenance
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.compile_fx import partition_fn
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode

from sweeper.model import precision as precisions
from sweeper.model import transformer
from sweeper.model.attention import fusible_on_cuda
from sweeper.model.compile import forget_compiled
from sweeper.model.loss import LOSS_ON, make_loss
from sweeper.model.shape import Shape, derive
from sweeper.planning.estimates import fp8_matmuls, head_bytes, layer_bytes_per_token
from sweeper.study.presets import PRESETS

SEQ_LEN = 1024
SEQUENCES = 3
"""Odd, so that no weight has as many rows as there are tokens."""
TABLES = {"vocab_size": 32768, "tie_embeddings": False}
SHAPES = {
    "current": PRESETS["current"]["model"],
    "gpt2-medium": PRESETS["gpt2-medium"]["model"],
    "wide-shallow": PRESETS["wide-shallow"]["model"],
    "ungrouped": {**PRESETS["current"]["model"], "n_kv_heads": 12},
    "2048, heads of 128": {"n_layers": 8, "d_model": 2048, "n_heads": 16, "n_kv_heads": 2, "ffn_hidden": 5504,
                           **TABLES},
    "256, one KV head": {"n_layers": 8, "d_model": 256, "n_heads": 8, "n_kv_heads": 1, "ffn_hidden": 704, **TABLES},
}  # fmt: skip
PRECISIONS = {"bf16": None, "fp32": None, "fp8": "auto", "fp8, all": "none"}
"""By name, and FP8's filter."""
NOT_COUNTED = (
    "the attention kernel's state of random numbers: 16 bytes a layer",
    "cuDNN's log-sum-exp where it differs from flash attention's: as large by its operator's shapes",
    "rounding by CUDA's allocator, and workspaces of cuBLAS and cuDNN",
    "rows that Inductor widens on CUDA where sizes aren't aligned",
    "what fp8_backend transformer_engine keeps",
)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes of one memory that outlives the forward pass; `name` is its node, `made_by` the operator."""

    name: str
    made_by: str
    bytes: int


def kept_by_layer(shape: Shape, precision: str, *, layer_filter: str | None = None) -> list[Kept]:
    """What one layer keeps of SEQUENCES × SEQ_LEN tokens, its input among it."""
    with _as_on_cuda(precision):
        model = transformer.Transformer(replace(shape, n_layers=1), seq_len=SEQ_LEN)
        precisions.apply(model, name=precision, device=torch.device("cpu"), layer_filter=layer_filter or "auto")
        return _kept(model.blocks[0], (_stream(shape), model.cos_TC, model.sin_TC), rows=SEQUENCES)


def kept_by_head(shape: Shape, precision: str) -> list[Kept]:
    """What the final norm and CUDA's loss keep of SEQUENCES × SEQ_LEN tokens, the norm's input among it."""
    with _as_on_cuda(precision):
        head = transformer.Transformer(replace(shape, n_layers=1), seq_len=SEQ_LEN).head
        x_ND = torch.empty(SEQUENCES * SEQ_LEN, shape.d_model, requires_grad=True)
        targets_N = torch.zeros(len(x_ND), dtype=torch.int64)
        by_norm = _kept(head.norm, (_stream(shape),), rows=SEQUENCES)
        loss = make_loss(LOSS_ON["cuda"], compiled=False)
        return by_norm + _kept(loss, (x_ND, head.weight, targets_N), rows=len(x_ND))


def bytes_per_token(kept: list[Kept]) -> float:
    """Of all that is kept."""
    return sum(one.bytes for one in kept) / (SEQUENCES * SEQ_LEN)


def _stream(shape: Shape) -> Tensor:
    return torch.empty(SEQUENCES, SEQ_LEN, shape.d_model, requires_grad=True)


@contextlib.contextmanager
def _as_on_cuda(precision: str) -> Iterator[None]:
    """Fake tensors, CUDA's attention, and autocast for both types of device: torchao asks for CUDA's."""
    before = torch.is_autocast_enabled("cuda")
    with (
        warnings.catch_warnings(),
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch.object(transformer, "causal_attention", _attention_on_cuda),
        precisions.autocast(name=precision, device=torch.device("cpu")),
    ):
        warnings.simplefilter("ignore")
        torch.set_autocast_enabled("cuda", precision != "fp32")
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", before)
            forget_compiled()


def _attention_on_cuda(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor) -> Tensor:
    k, v = fusible_on_cuda(q_BHTC, k_BKTC, v_BKTC)
    if q_BHTC.dtype == torch.float32:
        return torch.ops.aten._scaled_dot_product_efficient_attention(q_BHTC, k, v, None, True, 0.0, True)[0]
    return torch.ops.aten._scaled_dot_product_flash_attention(q_BHTC, k, v, 0.0, True)[0]


def _kept(function: Callable[..., Any], inputs: tuple[Tensor, ...], *, rows: int) -> list[Kept]:
    """What the compiled function keeps for its backward pass of what depends on its inputs of so many rows."""
    parts: list[tuple[fx.Graph, int]] = []

    def cut(graph: fx.GraphModule, joint_inputs: Any, **settings: Any) -> Any:
        forward, backward = partition_fn(graph, joint_inputs, **settings)
        parts.append((forward.graph, settings["num_fwd_outputs"]))
        return forward, backward

    def as_it_is(graph: fx.GraphModule, _: Any) -> Any:
        return make_boxed_func(graph)

    backend = aot_autograd(
        fw_compiler=as_it_is, bw_compiler=as_it_is, partition_fn=cut, decompositions=select_decomp_table()
    )
    torch.compile(function, backend=backend, fullgraph=True, dynamic=False)(*inputs)
    ((forward, outputs),) = parts
    return list(_memories(forward, outputs, rows).values())


def _memories(forward: fx.Graph, outputs: int, rows: int) -> dict[int, Kept]:
    of_inputs: set[fx.Node] = set()
    for node in forward.nodes:
        given = node.op == "placeholder" and node.meta["val"].shape[:1] == (rows,)
        if given or of_inputs.intersection(node.all_input_nodes):
            of_inputs.add(node)
    found: dict[int, Kept] = {}
    for node in forward.output_node().args[0][outputs:]:
        if node in of_inputs:
            memory = node.meta["val"].untyped_storage()
            maker = node.all_input_nodes[0] if node.target is operator.getitem else node
            found.setdefault(memory._cdata, Kept(name=node.name, made_by=str(maker.target), bytes=memory.nbytes()))
    return found


def measure(shape: Shape) -> dict[str, Any]:
    """Counted and predicted, a layer's by precision and FP8's filter, the head's in bf16 and fp32."""
    figures: dict[str, Any] = {"layer": {}, "head": {}}
    for name, layer_filter in PRECISIONS.items():
        precision, width = name.partition(",")[0], 4 if name == "fp32" else 2
        in_fp8 = fp8_matmuls(
            shape, precision=precision, seq_len=SEQ_LEN, backend="torchao", layer_filter=layer_filter
        )  # fmt: skip
        counted = kept_by_layer(shape, precision, layer_filter=layer_filter)
        figures["layer"][name] = _row(counted, layer_bytes_per_token(shape, width=width, in_fp8=in_fp8))
    for precision, width in (("bf16", 2), ("fp32", 4)):
        tokens = SEQUENCES * SEQ_LEN
        # The weight's gradient comes with the backward pass.
        predicted = head_bytes(shape, width=width, tokens=tokens) - width * shape.vocab_size * shape.d_model
        figures["head"][precision] = _row(kept_by_head(shape, precision), predicted / tokens)
    return figures


def _row(counted: list[Kept], predicted: float) -> dict[str, Any]:
    per_token = bytes_per_token(counted)
    return {
        "counted_bytes_per_token": round(per_token, 2),
        "predicted_bytes_per_token": round(predicted, 2),
        "predicted_to_counted": round(predicted / per_token, 4),
        "kept": {f"{one.name}, {one.made_by}": round(one.bytes / (SEQUENCES * SEQ_LEN), 2) for one in counted},
    }


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "activation_memory.json")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        **provenance("torch", "torchao"),
        "seq_len": SEQ_LEN,
        "sequences": SEQUENCES,
        "not_counted": NOT_COUNTED,
        "shapes": {},
    }
    for name, fields in SHAPES.items():
        shape = derive(fields)
        result["shapes"][name] = {"shape": shape.to_dict(), **measure(shape)}
        for part, rows in result["shapes"][name].items():
            for label, row in rows.items() if part != "shape" else ():
                print(f"{name:20} {part:6} {label:10} {row['counted_bytes_per_token']:10.1f} B a token counted, "
                      f"predicted {row['predicted_to_counted']:.3f} ×", flush=True)  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
