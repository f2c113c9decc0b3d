"""Whole trials: FP8 against bf16 losses, out of memory, the memory cap, many shapes in one process."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from gpu_steps.jobs import Bench, figures, measured, outcome
from gpu_steps.rows import Rows
from sweeper.runners.device.memory import resident_bytes, tensor_bytes
from sweeper.values.records import Optimizer

LOSS_AGREES = 0.01
LEARNED = 0.75
"""Share of what a chain lets a model learn, from uniform guessing to the chain's own entropy."""
SPEED_UNHARMED = 0.9
LIVE_GROWTH = 1.05
SLACK_BYTES = 2**20
RESIDENT_GROWTH_BYTES = 5e6
"""Of the process, a shape."""
SHORT_STEPS = 14
"""First step, ten of warm-up, three windows."""
TRAINED = {"ok", "diverged"}
"""So few steps on made-up text needn't end below the loss of uniform guessing, and that's called diverged."""


def fp8_losses(rows: Rows) -> None:
    """The same training in every precision: bf16 agrees with fp32, FP8 with bf16, and all have learned the chain."""
    bench = Bench(rows)
    shards, entropy = bench.chain()
    recipe = bench.scale.chain_recipe
    uniform = math.log(bench.scale.chain_states)
    losses: dict[str, float] = {}

    def training(precision: str) -> dict[str, Any]:
        job = bench.job(
            bench.scale.chain_shape, precision, kind="train", shards=shards,
            batch_size=recipe["tokens_per_step"] // recipe["seq_len"],
            compile=precision in bench.scale.compiled_precisions,
            optimizer=Optimizer(lr=bench.scale.chain_lr), **recipe,
        )  # fmt: skip
        found = figures(outcome(job))
        learned = (uniform - found["val_loss"]) / (uniform - entropy)
        peer = {"bf16": "fp32", "fp32": "fp32"}.get(precision, "bf16")
        apart = abs(found["val_loss"] / losses.get(peer, found["val_loss"]) - 1)
        report = found["environment"]["precision"]
        whole = job.precision != "fp8" or not precision.endswith("all") or report["converted"] == report["total"]
        return found | {
            "entropy": entropy,
            "learned": round(learned, 4),
            "compared_with": peer,
            "apart": apart,
            "limit": LOSS_AGREES,
            "green": found["status"] == "ok" and learned >= LEARNED and apart <= LOSS_AGREES and whole,
        }

    for precision in bench.scale.precisions:
        row = rows.add(precision, partial(training, precision))
        if row:
            losses[precision] = row["val_loss"]


def out_of_memory(rows: Rows) -> None:
    """A trial; one that fails while it is built; one that fails in a step; the first again.

    Uncompiled, as giants compile for as long as others do; `tests/gpu` has the compiled case.
    """
    rows.add("a trial between two that are out of memory", lambda: _out_of_memory(Bench(rows)))


def _out_of_memory(bench: Bench) -> dict[str, Any]:
    scale = bench.scale
    ordinary = bench.job(scale.gradient_shape, "bf16", batch_size=4, compile=False)
    giants = {"giant shape": bench.job(scale.giant_shape, "bf16", batch_size=4, compile=False)}
    if scale.giant_micro_batch:
        giants["giant micro-batch"] = bench.job(
            scale.gradient_shape, "bf16", batch_size=scale.giant_micro_batch, compile=False
        )
    before = measured(ordinary)
    baseline = tensor_bytes(bench.device)
    found: dict[str, Any] = {"live_bytes_before": baseline, "tokens_per_s_before": before["tokens_per_s"]}
    statuses, live = [], []
    for name, giant in giants.items():
        found[name] = figures(outcome(giant))["status"]
        statuses.append(found[name])
        live.append(tensor_bytes(bench.device))
    after = measured(ordinary)
    live.append(tensor_bytes(bench.device))
    speed = after["tokens_per_s"] / before["tokens_per_s"]
    right = set(statuses) == {"out_of_memory"} and before["status"] == after["status"] == "ok"
    kept = max(live) - baseline
    timed = bench.device.type == "cuda"  # a processor that others use says nothing here
    return found | {
        "tokens_per_s_after": after["tokens_per_s"],
        "speed_after_to_before": round(speed, 4),
        "live_bytes_kept": kept,
        "green": right and kept <= SLACK_BYTES and (speed >= SPEED_UNHARMED or not timed),
    }


def memory_cap(rows: Rows) -> None:
    """A job that fits, the same with half of that memory, then with ample memory, then without a cap; uncompiled."""
    rows.add("half of what a trial needs", lambda: _memory_cap(Bench(rows)))


def _memory_cap(bench: Bench) -> dict[str, Any]:
    def run(batch_size: int, cap_bytes: int | None = None) -> dict[str, Any]:
        return measured(bench.job(
            bench.scale.gradient_shape, "bf16", kind="train", steps=SHORT_STEPS, batch_size=batch_size,
            compile=False, cap_bytes=cap_bytes,
        ))  # fmt: skip

    large = bench.scale.capped_micro_batch
    before = 0
    if bench.device.type == "cpu":
        run(1)  # what the process takes once and for all isn't the job's
        before = resident_bytes()
    free = run(large)
    need = free["peak_memory_bytes"] - before
    capped, ample, again = run(large, need // 2), run(large, 4 * need), run(large)
    ran = [found["status"] in TRAINED for found in (free, ample, again)]
    return {
        "needs_bytes": need,
        "cap_bytes": need // 2,
        "peak_under_the_cap": capped["peak_memory_bytes"] - before,
        "boundary": capped["environment"].get("out_of_memory"),
        "statuses": [found["status"] for found in (free, capped, ample, again)],
        # A processor's memory is looked at between steps: there the peak may lie above the cap.
        "green": all(ran) and capped["status"] == "out_of_memory"
        and (bench.device.type == "cpu" or capped["peak_memory_bytes"] <= need // 2),
    }  # fmt: skip


def many_shapes(rows: Rows) -> None:
    """Trials of different shapes one after another, with what is alive and resident after each."""
    bench = Bench(rows)
    rows.add(f"{bench.scale.many_shapes} shapes", lambda: _many_shapes(bench))


def _many_shapes(bench: Bench) -> dict[str, Any]:
    live, resident, statuses, breaks = [], [], [], 0
    for number in range(bench.scale.many_shapes):
        shape = {**bench.scale.chain_shape, "ffn_hidden": 64 + 32 * number, "n_layers": 1 + number % 3}
        job = bench.job(shape, "bf16", kind="train", steps=SHORT_STEPS, batch_size=4,
                        shards=bench.text(shape["vocab_size"]))  # fmt: skip
        found = figures(outcome(job))
        statuses.append(found["status"])
        breaks += found["environment"]["graph_breaks"]
        live.append(tensor_bytes(bench.device))
        resident.append(resident_bytes())
    growth = (resident[-1] - resident[1]) / (len(resident) - 2)
    return {
        "statuses": sorted(set(statuses)),
        "graph_breaks": breaks,
        "live_bytes_second_and_last": [live[1], live[-1]],
        "resident_growth_bytes_a_shape": round(growth),
        "resident_limit": RESIDENT_GROWTH_BYTES,
        "resident_within_limit": growth <= RESIDENT_GROWTH_BYTES,
        "green": set(statuses) <= TRAINED and not breaks and live[-1] <= LIVE_GROWTH * live[1] + SLACK_BYTES,
    }
