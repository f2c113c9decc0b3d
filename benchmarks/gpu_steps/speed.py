"""Speed and memory of trials: the flagship, the guide's presets and table, what auto chooses, what was predicted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gpu_steps import ahead, expected
from gpu_steps.jobs import Bench, figures, measured, outcome
from gpu_steps.rows import Rows
from sweeper.planning.resolving import JobSettings, MicroBatches, Settled, ladders, resolve
from sweeper.values.records import Job, Optimizer

FP8 = ("fp8 torchao", "fp8 torchao, all", "fp8 transformer_engine", "fp8 transformer_engine, all")
TIE = 0.01
"""Speeds nearer than this are one speed: what is chosen between them doesn't matter."""
REPEATS = 3


def flagship(rows: Rows) -> None:
    """bf16 and FP8 by micro-batch, then FP8's other kinds, the tied head and Muon at bf16's fastest."""
    bench = Bench(rows)
    add = _adder(rows, bench)
    for batch_size in bench.scale.micro_batches:
        for precision in bench.scale.speed_precisions:
            add(ahead.flagship_label(precision, batch_size), bench.scale.flagship, precision, batch_size)
    best = best_micro_batch(rows, bench, found=rows.rows)
    for precision in FP8:
        add(f"{precision}, micro-batch {best}", bench.scale.flagship, precision, best)
    add(f"bf16, tied, micro-batch {best}", {**bench.scale.flagship, "tie_embeddings": True}, "bf16", best)
    muon = Optimizer(name="muon", momentum=0.95)
    add(f"bf16, muon, micro-batch {best}", bench.scale.flagship, "bf16", best, optimizer=muon)


def _adder(rows: Rows, bench: Bench) -> Callable[..., Mapping[str, Any]]:
    """A function that adds the row of one measurement, at the flagship's tokens per step unless told otherwise."""

    def add(label: str, shape: Mapping[str, Any], precision: str, batch_size: int, **more: Any) -> Mapping[str, Any]:
        settings = {"tokens_per_step": bench.scale.tokens_per_step, **more}

        def figures_beside() -> dict[str, Any]:
            found = measured(bench.job(shape, precision, batch_size=batch_size, **settings))
            return found | _expectation(bench, found, shape, precision, settings)

        return rows.add(label, figures_beside, least_s=bench.scale.row_s)

    return add


def _expectation(
    bench: Bench, found: Mapping[str, Any], shape: Mapping[str, Any], precision: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Tokens/s by arithmetic beside those measured: of AdamW on a CUDA device alone."""
    if bench.device.type != "cuda" or "optimizer" in settings:
        return {}
    sizes = {"batch_size": found["batch_size"], "tokens_per_step": settings["tokens_per_step"]}
    told = expected.tokens_per_s(shape, precision, seq_len=bench.scale.seq_len, **sizes)
    return expected.beside(found.get("tokens_per_s"), told)


def best_micro_batch(
    rows: Rows, bench: Bench, *, most_bytes: float = math.inf, found: Mapping[str, Any] | None = None
) -> int:
    """The fastest bf16 micro-batch of the flagship step that took `most_bytes` at most.

    Where none is known, the first of the ladder; where none is so small, its smallest. `found`: that step's rows,
    from within it.
    """
    found = rows.task.steps.get("flagship", {}).get("rows", {}) if found is None else found
    timed = [row for label, row in found.items() if label.startswith("bf16, micro-batch") and "tokens_per_s" in row]
    if not timed:
        return bench.scale.micro_batches[0] if most_bytes == math.inf else min(bench.scale.micro_batches)
    fitting = [row for row in timed if row["peak_memory_bytes"] <= most_bytes]
    best = max(fitting, key=lambda row: row["tokens_per_s"], default=None)
    return int(best["batch_size"]) if best else min(bench.scale.micro_batches)


def presets(rows: Rows) -> None:
    """The guide's five, as the guide runs them; what they need is compiled side by side first."""
    bench = Bench(rows)
    if bench.scale.compiled:
        ahead.compile_ahead(rows, ahead.preset_jobs(bench.scale, rows.rows))
    add = _adder(rows, bench)
    for precision in bench.scale.speed_precisions:
        for name, (shape, batch_size, grad_accum_steps) in bench.scale.presets.items():
            tokens = batch_size * grad_accum_steps * bench.scale.seq_len
            add(f"{name}, {precision}", shape, precision, batch_size, tokens_per_step=tokens)


def table(rows: Rows) -> None:
    """The six rows of the guide's table, all at one micro-batch."""
    bench = Bench(rows)
    add = _adder(rows, bench)
    batch_size = best_micro_batch(rows, bench)
    for precision in ("bf16", "fp8 torchao"):
        for shape in bench.scale.table:
            add(f"{shape['n_layers']} layers, FFN {shape['ffn_hidden']}, {precision}", shape, precision, batch_size)


def memory(rows: Rows) -> None:
    """Shapes and micro-batches for the planner's estimate, without accumulation."""
    bench = Bench(rows)
    add = _adder(rows, bench)
    for shape, batch_size in bench.scale.memory_grid:
        for precision in ("bf16", "fp8 torchao"):
            label = f"{shape['n_layers']} × {shape['d_model']}, micro-batch {batch_size}, {precision}"
            add(label, shape, precision, batch_size, tokens_per_step=batch_size * bench.scale.seq_len)


def auto(rows: Rows) -> None:
    """For each shape: one probe of each precision and what auto makes of it; then both measured again, in turns."""
    bench = Bench(rows)
    for name, shape in bench.scale.auto_shapes.items():
        rows.add(name, partial(_auto, bench, shape), least_s=REPEATS * bench.scale.row_s)


def _auto(bench: Bench, shape: Mapping[str, Any]) -> dict[str, Any]:
    batch_size = bench.scale.micro_batches[0]
    sizes = {"batch_size": batch_size, "tokens_per_step": bench.scale.tokens_per_step}
    bf16, fp8 = (bench.job(shape, precision, **sizes) for precision in ("bf16", "fp8 torchao"))
    config = replace(fp8.config, recipe=replace(fp8.config.recipe, precision="auto"))
    micro_batches = MicroBatches(executions=(bf16.execution,))
    settings = JobSettings(data_path=bf16.data_path, device=bf16.device, shared_ok=bf16.shared_ok)
    probed = ladders(config, micro_batches, settings)
    jobs = {ladder.precision: ladder.probes[0] for ladder in probed}
    speeds: dict[str, list[float]] = {precision: [_tokens_per_s(job)] for precision, job in jobs.items()}
    first = {job.probe_id: speeds[precision][0] for precision, job in jobs.items()}
    choice = resolve(config, micro_batches, probed, lambda job: first.get(job.probe_id))
    if not isinstance(choice, Settled):
        raise RuntimeError(f"auto came to no choice: {choice}")
    for _ in range(REPEATS - 1):
        for precision, job in jobs.items():
            speeds[precision].append(_tokens_per_s(job))
    medians = {precision: statistics.median(kept[1:]) for precision, kept in speeds.items()}
    chosen, fastest = choice.resolved.precision, max(medians, key=lambda precision: medians[precision])
    tie = medians[chosen] >= (1 - TIE) * medians[fastest]
    return {
        "chosen": chosen,
        "fastest": fastest,
        "chosen_to_fastest": round(medians[chosen] / medians[fastest], 4),
        "fp8_to_bf16": round(medians["fp8"] / medians["bf16"], 4),
        "tokens_per_s": {precision: [round(speed) for speed in kept] for precision, kept in speeds.items()},
        "batch_size": batch_size,
        "green": chosen == fastest or tie,
    }


def _tokens_per_s(job: Job) -> float:
    found = figures(outcome(job))
    if "tokens_per_s" not in found:
        raise RuntimeError(f"{job.precision} has no speed: {found['status']}")
    return float(found["tokens_per_s"])
