"""Compiling ahead, side by side: a shape's first job finds its kernels on disk, and the card doesn't wait for each.

One block's kernels serve every depth, so that a model of one layer is enough. Nothing else is measured meanwhile: the
seconds in these rows are those of compilations that share the cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from typing import Any

from gpu_steps.rows import Rows, Task
from gpu_steps.scale import SCALES, Scale

MOST_AT_ONCE = 14
"""Each holds a CUDA context and the logits of its micro-batch."""
PATIENCE_S = {"cuda": 80, "cpu": 600}


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What one process compiles: `shape` with a single layer, at this micro-batch and sequence length."""

    shape: Mapping[str, Any]
    precision: str
    batch_size: int
    seq_len: int

    @property
    def label(self) -> str:
        """The row's name."""
        shape = f"width {self.shape['d_model']}, FFN {self.shape['ffn_hidden']}"
        return f"{shape}, {self.precision}, {self.batch_size} × {self.seq_len}"


def correctness_and_flagship(rows: Rows) -> None:
    """What the correctness steps compile, and the flagship at its micro-batches, as far as it isn't known yet.

    Kernels don't travel with a report: what another run has compiled may lie on another machine.
    """
    compile_ahead(rows, first_jobs(SCALES[rows.task.device], rows.task.steps))


def first_jobs(scale: Scale, steps: Mapping[str, Any] | None = None) -> list[Ahead]:
    """Those of the correctness steps and of the flagship, but for what `steps` has already."""
    have = steps or {}
    checked = all(have.get(name, {}).get("status") == "done" for name in ("model_gradients", "fp8_losses"))
    measured = have.get("flagship", {}).get("rows", {})
    speeds = [one for one in flagship_jobs(scale) if flagship_label(one.precision, one.batch_size) not in measured]
    return [*([] if checked else _correctness(scale)), *speeds][: scale.most_ahead]


def flagship_label(precision: str, batch_size: int) -> str:
    """The flagship's row at a micro-batch."""
    return f"{precision}, micro-batch {batch_size}"


def _correctness(scale: Scale) -> list[Ahead]:
    if not scale.compiled:
        return []
    chain, (count, seq_len) = scale.chain_recipe, scale.gradient_tokens
    batch_size = chain["tokens_per_step"] // chain["seq_len"]
    found = []
    for precision in scale.compiled_precisions:
        found.append(Ahead(shape=scale.gradient_shape, precision=precision, batch_size=count, seq_len=seq_len))
        found.append(
            Ahead(shape=scale.chain_shape, precision=precision, batch_size=batch_size, seq_len=chain["seq_len"])
        )
    return found


def flagship_jobs(scale: Scale) -> list[Ahead]:
    """The flagship's, largest micro-batch first: its logits are the most."""
    return [
        Ahead(shape=scale.flagship, precision=precision, batch_size=batch_size, seq_len=scale.seq_len)
        for batch_size in sorted(scale.micro_batches, reverse=True)
        for precision in scale.speed_precisions
    ]


def preset_jobs(scale: Scale, known: Collection[str] = ()) -> list[Ahead]:
    """The guide's presets', at the guide's micro-batches, but for the rows that are `known`."""
    return [
        Ahead(shape=shape, precision=precision, batch_size=batch_size, seq_len=scale.seq_len)
        for name, (shape, batch_size, _) in scale.presets.items()
        for precision in scale.speed_precisions
        if f"{name}, {precision}" not in known
    ]


def compile_ahead(rows: Rows, wanted: Sequence[Ahead]) -> None:
    """A row for each, in the order of their ends, in place of an earlier run's."""
    left = list({one.label: one for one in wanted}.values())
    for one in left:
        rows.rows.pop(one.label, None)
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(max(1, min(MOST_AT_ONCE, cores - 1))) as pool:
        running = {pool.submit(_answer_of, rows.task, one): one for one in left}
        for ended in as_completed(running):
            rows.add(running[ended].label, ended.result)


def _answer_of(task: Task, one: Ahead) -> dict[str, Any]:
    """What a process of its own says; RuntimeError where it fails."""
    own = {"earlier_rows": {}, "steps": {}}
    told = json.dumps({"task": asdict(replace(task, **own)), "ahead": {**asdict(one), "shape": dict(one.shape)}})
    few = {"TORCHINDUCTOR_COMPILE_THREADS": "1"} | ({"OMP_NUM_THREADS": "1"} if task.device == "cuda" else {})
    ran = subprocess.run(
        [sys.executable, "-m", "gpu_steps.ahead"], input=told, capture_output=True, text=True, check=False,
        timeout=PATIENCE_S[task.device], env={**os.environ, **few},
    )  # fmt: skip
    if ran.returncode != 0:
        raise RuntimeError(f"compiling ahead ended with {ran.returncode}: {ran.stderr[-800:]}")
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def main() -> None:
    """Be such a process: run one speed job of a single layer and say what compiling took."""
    told = json.load(sys.stdin)
    from gpu_steps.jobs import Bench, measured

    one, task = Ahead(**told["ahead"]), Task(**told["task"])
    bench = Bench(Rows(task))
    job = bench.job({**one.shape, "n_layers": 1}, one.precision, batch_size=one.batch_size, seq_len=one.seq_len)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not pass for the answer
    found = measured(job)
    seconds = found["seconds"]
    answers.write(json.dumps({"status": found["status"], "compile_s": seconds.get("compile"), "seconds": seconds}))
    answers.close()


if __name__ == "__main__":
    main()
