"""The contestants of a comparison: the same shape, tokens and precision, each in a process of its own.

    sweeper      runners.training as a trial runs it
    huggingface  LlamaForCausalLM, SDPA attention, torch.compile of the whole model, fused AdamW
    plain        a straightforward loop in the manner of nanoGPT: torch.compile of the whole model, fused AdamW
    autotuned    sweeper with Inductor's max-autotune (no CUDA graphs)

The yardstick is plain. Before torch 2.14 transformers gives a compiled model a whole mask (its `masking_utils` and
`is_torchdynamo_exporting`), for which no kernel skips the hidden half of attention; uncompiled it doesn't. So compiled,
Hugging Face pays for full attention, and says so in what its first step finds.

A contestant takes its job on the command line and answers on standard output, one JSON object a line: first what its
first step cost, then, for every number read from standard input, the seconds that so many steps took.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SEED = 0
FULL_ATTENTION = "whole mask: the hidden half of attention is computed too, so plain is the yardstick"
CLOSING_S = 20


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every contestant trains: `shape` are model.shape fields, `shards` a folder with train.bin (uint16)."""

    shape: Mapping[str, Any]
    shards: str
    seq_len: int
    batch_size: int
    grad_accum_steps: int
    precision: str
    device: str
    lr: float = 1e-3

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_size * self.grad_accum_steps * self.seq_len


class Contestant:
    """A running contestant. `cache` is its own compile cache; an empty one makes the first step a cold one."""

    def __init__(self, name: str, task: Task, *, cache: Path, threads: int, wait: bool = True) -> None:
        """Start it and, unless told not to `wait`, take its first step."""
        self.name = name
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": str(cache),
            "TRITON_CACHE_DIR": str(cache / "triton"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
        }
        # A file, as it may say more than a pipe holds while nobody reads.
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, __file__, name, json.dumps(vars(task))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, env=environment,
        )  # fmt: skip
        self.start: dict[str, Any] = {}
        if wait:
            self.begin()

    def begin(self, *, within_s: float | None = None) -> dict[str, Any]:
        """What its first step cost, once it has taken it; TimeoutError where that isn't `within_s` seconds from now."""
        if not self.start:
            ready, _, _ = select.select([self._process.stdout], [], [], within_s)
            if not ready:
                raise TimeoutError(f"{self.name} took no step within {within_s:.0f} s")
            self.start = self._answer()
        return self.start

    def seconds(self, steps: int) -> float:
        """Take `steps` optimizer steps; the seconds from idle device to idle device."""
        return float(self._ask(steps)["seconds"])

    def peak_memory_bytes(self) -> int | None:
        """Reserved by the allocator on CUDA, resident in the process elsewhere, since its start."""
        peak = self._ask(0)["peak_memory_bytes"]
        return None if peak is None else int(peak)

    def close(self) -> None:
        """End the process; one that doesn't heed the end of its input is killed."""
        try:
            self._process.communicate(timeout=CLOSING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._said.close()

    def _ask(self, steps: int) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # it has ended: the answer says why
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            raise RuntimeError(f"{self.name} ended: {self._said.read()[-2000:]}")
        return json.loads(line)


def main() -> None:
    """Be a contestant."""
    name, task = sys.argv[1], Task(**json.loads(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not pass for an answer
    started = time.perf_counter()
    import torch

    from sweeper.runners.device.measuring import peak_memory_bytes, pick_device, synchronise

    torch.manual_seed(SEED)
    device = pick_device(task.device)
    imported = time.perf_counter() - started
    step, facts = CONTESTANTS[name](task, device)

    def timed(steps: int) -> float:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        synchronise(device)
        return time.perf_counter() - start

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    say(first_step_s=timed(1), import_s=imported, **facts)
    for line in sys.stdin:
        if int(line):
            say(seconds=timed(int(line)))
        else:
            say(peak_memory_bytes=peak_memory_bytes(device))


Built = tuple[Callable[[], None], dict[str, Any]]
"""A contestant's step, and what is known of it once it has taken one: `params`, and `attention` where it's hampered."""


def attends_in_full(graph: Any) -> bool:
    """Whether attention in a graph that Dynamo captured is given a mask, so that it can't skip what is hidden."""
    import torch

    calls = [n for n in graph.graph.nodes if n.target is torch.nn.functional.scaled_dot_product_attention]
    return any(n.kwargs.get("attn_mask") is not None for n in calls)


def _sweeper(task: Task, device: Any) -> Built:
    from sweeper.model.shape import derive
    from sweeper.runners.data.dataset import open_data, train_batches
    from sweeper.runners.device.host_memory import keep_freed_memory
    from sweeper.runners.training.training import build_training
    from sweeper.values.records import Config, Execution, Job, Optimizer, Recipe

    keep_freed_memory()
    fp8 = {"fp8_backend": "torchao", "fp8_filter": "auto"} if task.precision == "fp8" else {}
    recipe = Recipe(
        data="tokens", steps=1_000_000, seq_len=task.seq_len, tokens_per_step=task.tokens_per_step,
        precision=task.precision, optimizer=Optimizer(lr=task.lr), eval_tokens=task.seq_len, **fp8,
    )  # fmt: skip
    shape = derive(task.shape)
    job = Job(
        kind="speed", config=Config(shape=shape, recipe=recipe),
        execution=Execution(batch_size=task.batch_size, compile=True), data_path=task.shards, device=task.device,
    )  # fmt: skip
    batches = train_batches(
        open_data("tokens", task.shards, shape.vocab_size), seed=SEED, batch_size=task.batch_size,
        seq_len=task.seq_len, device=device,
    )  # fmt: skip
    training = build_training(job=job, device=device, batches=batches)

    def step() -> None:
        training.step()
        training.losses.clear()

    return step, {"params": shape.params.total}


def _autotuned(task: Task, device: Any) -> Built:
    from torch._inductor import config

    config.max_autotune = True
    return _sweeper(task, device)


def _huggingface(task: Task, device: Any) -> Built:
    import torch
    from torch._inductor.compile_fx import compile_fx
    from transformers import LlamaConfig, LlamaForCausalLM

    from sweeper.model.shape import derive

    shape = derive(task.shape)
    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.d_model, intermediate_size=shape.ffn_hidden,
        num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads, num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=task.seq_len, tie_word_embeddings=shape.tie_embeddings,
        attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(device)

    def inductor(graph: Any, inputs: Any) -> Any:
        if attends_in_full(graph):
            facts["attention"] = FULL_ATTENTION
        return compile_fx(graph, inputs)

    whole = torch.compile(model, backend=inductor)
    # Given as shifted already, so that the loss is over the same T targets as the others'.
    step, facts = _loop(task, device, model, lambda x, y: whole(input_ids=x, labels=x, shift_labels=y).loss)
    return step, facts


def _plain(task: Task, device: Any) -> Built:
    import torch
    from plain_model import PlainModel

    from sweeper.model.shape import derive

    model = PlainModel(derive(task.shape), task.seq_len).to(device)
    return _loop(task, device, model, torch.compile(model))


def _loop(task: Task, device: Any, model: Any, loss_of: Callable[..., Any]) -> Built:
    """nanoGPT's loop: random windows of a memory map, autocast, accumulation, clipping, fused AdamW."""
    import numpy as np
    import torch

    tokens = np.memmap(Path(task.shards) / "train.bin", dtype=np.uint16, mode="r")
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=task.lr, betas=(0.9, 0.95), fused=True)
    autocast = contextlib.nullcontext()
    if task.precision == "bf16":
        autocast = torch.autocast(device.type, dtype=torch.bfloat16)

    def batch() -> tuple[Any, Any]:
        starts = torch.randint(len(tokens) - task.seq_len - 1, (task.batch_size,)).tolist()
        rows = torch.stack([torch.from_numpy(tokens[i : i + task.seq_len + 1].astype(np.int64)) for i in starts])
        x, y = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        if device.type == "cuda":
            return x.pin_memory().to(device, non_blocking=True), y.pin_memory().to(device, non_blocking=True)
        return x, y

    def step() -> None:
        for _ in range(task.grad_accum_steps):
            x, y = batch()
            with autocast:
                loss = loss_of(x, y) / task.grad_accum_steps
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, {"params": sum(p.numel() for p in parameters)}


CONTESTANTS = {"sweeper": _sweeper, "huggingface": _huggingface, "plain": _plain, "autotuned": _autotuned}

if __name__ == "__main__":
    main()
