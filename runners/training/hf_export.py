"""A trained model as Hugging Face has it: a folder that `LlamaForCausalLM.from_pretrained` loads.

Fused projections are split into theirs. Llama has no multipliers, so CompleteP's are folded into weights, where they
mean the same: that of a residual branch into the branch's last matrix, the head's into the final norm.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.model.shape import llama_config
from sweeper.runners.data.cache import tokens_entry
from sweeper.runners.training.checkpoint import Checkpoints, Header, parameters_of, read_header, save_tensors
from sweeper.values.errors import UsageError
from sweeper.values.records import Config
from sweeper.values.run_folder import replacing, writing

if TYPE_CHECKING:
    from torch import Tensor

TOKENIZER = "tokenizer.json"


def export(checkpoint: Path, folder: Path) -> None:
    """Write a finished training's checkpoint to `folder`: config.json, model.safetensors in fp32, and the tokenizer
    of an embedded corpus or a folder of text, where it was one. The folder appears whole or not at all.

    UsageError where there is no whole checkpoint, CantWrite where `folder` can't be written.
    """
    header = read_header(checkpoint)
    if header is None:
        raise UsageError(f"{checkpoint}: there is no whole checkpoint here")
    new = folder.with_name(f".{folder.name}.writing")
    with writing(folder):
        try:
            _fill(new, checkpoint, header)
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _fill(folder: Path, checkpoint: Path, header: Header) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = Config.from_dict(header.config)
    tensors = llama_tensors(config, parameters_of(checkpoint))
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replacing(folder / "model.safetensors") as file:
        save_tensors(whole, file, metadata={"format": "pt"})
    shape, recipe = config.ours
    _write_json(folder / "config.json", llama_config(shape, seq_len=recipe.seq_len))
    tokenizer = tokens_entry(header.data_fingerprint, shape.vocab_size) / TOKENIZER
    if tokenizer.is_file():
        shutil.copyfile(tokenizer, folder / TOKENIZER)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": recipe.seq_len}
        _write_json(folder / "tokenizer_config.json", settings)


def export_finished(checkpoints: Checkpoints, config: Config, models: Path) -> list[tuple[int, Path]]:
    """Export each finished training of a config to a folder of `models`; the seeds, and their folders."""
    done = []
    for path, header in checkpoints.of(config):
        if header.finished:
            folder = models / f"s{header.seed}"
            if not _is_newer(folder, path):
                export(path, folder)
            done.append((header.seed, folder))
    return done


def _is_newer(folder: Path, checkpoint: Path) -> bool:
    return folder.exists() and folder.stat().st_mtime >= checkpoint.stat().st_mtime


def _write_json(path: Path, plain: dict[str, Any]) -> None:
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def llama_tensors(config: Config, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters under Llama's names, with the same logits. `own` as `Transformer.named_parameters`."""
    from sweeper.runners.training.optimizer import parametrization_for

    shape, recipe = config.ours
    scaled = parametrization_for(shape, recipe.optimizer.base)
    tensors = {
        "model.embed_tokens.weight": own["embedding.weight"],
        "model.norm.weight": own["head.norm.weight"] * scaled.head_input,
    }
    if not shape.tie_embeddings:
        tensors["lm_head.weight"] = own["head.weight"]
    heads = [count * shape.head_dim for count in (shape.n_heads, shape.n_kv_heads, shape.n_kv_heads)]
    for index in range(shape.n_layers):
        block, layer = f"blocks.{index}", f"model.layers.{index}"
        q, k, v = own[f"{block}.attention.qkv.weight"].split(heads)
        gate, up = own[f"{block}.ffn.gate_up.weight"].chunk(2)
        tensors |= {
            f"{layer}.self_attn.q_proj.weight": q,
            f"{layer}.self_attn.k_proj.weight": k,
            f"{layer}.self_attn.v_proj.weight": v,
            f"{layer}.self_attn.o_proj.weight": own[f"{block}.attention.out.weight"] * scaled.branch,
            f"{layer}.mlp.gate_proj.weight": gate,
            f"{layer}.mlp.up_proj.weight": up,
            f"{layer}.mlp.down_proj.weight": own[f"{block}.ffn.down.weight"] * scaled.branch,
            f"{layer}.input_layernorm.weight": own[f"{block}.attention_norm.weight"],
            f"{layer}.post_attention_layernorm.weight": own[f"{block}.ffn_norm.weight"],
        }
    return tensors
