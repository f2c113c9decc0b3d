"""Pages of synthetic studies: one of many trials, and one that has all that a page can show."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from frontier_fakes import LOSSES, OBJECTIVES, PROXY, SPEEDS, config, environment, final, plan, probe, study
from ledger_lines import as_lines
from test_report_tables import plan_json

from sweeper.frontier.frontiers import frontier
from sweeper.ledger.lines import event_record
from sweeper.measurements.measured import PlannedPoint
from sweeper.report.page.html import render
from sweeper.values.events import Failed
from sweeper.values.records import Execution, Job

FP8 = {"fp8_backend": "torchao", "fp8_filter": "auto"}
RUNGS = tuple(Execution(batch_size=size, compile=True) for size in (2, 4, 8, 16))


def page(planned, records, *, seeds=3, question="Deep or wide?", name="depth-vs-ffn", command="sweeper run x.yaml"):
    """The page as text."""
    result = frontier(as_lines(records), study=name, profile="cpu", planned=planned, objectives=OBJECTIVES)
    plan = plan_json(planned)
    totals = {**plan["totals"], "seeds": seeds, "most_seeds": seeds, "trials": seeds * len(plan["configs"])}
    return render(
        result, plan_json={**plan, "study": name, "totals": totals}, study={"name": name, "question": question},
        records=as_lines(records), command=command,
    )  # fmt: skip


def depth_study() -> str:
    """Seven shapes with three seeds, of which one diverged, and one failed and has no loss, speed or curve."""
    planned, records = study(LOSSES, SPEEDS)
    off = (-0.02, 0.01, -0.5, 0.3, 0.0, -0.03, None)
    planned = [replace(point, off_target=far) for point, far in zip(planned, off, strict=True)]
    lost = [r for r in records if r["type"] == "final" and r["shape"]["n_layers"] == 12]
    records = [r for r in records if r is not lost[1] and r is not lost[2]]
    records.append({**lost[1], "status": "diverged", "val_loss": None, "val_bpb": None, "notes": ["loss was NaN"]})
    job = Job(kind="train", config=planned[-1].config, execution=planned[-1].execution, seed=2)
    records.append({**event_record(Failed(job=job, error="OSError: no space", traceback="")), "time": lost[2]["time"]})
    return page(planned, records)


def hostile_study(text: str) -> str:
    """Two configs with three seeds, and `text` wherever a study or a ledger can put one, labels among them."""
    planned = plan([config(1, 16, data=text), config(2, 16, data=f"{text} 2")])
    own = environment(device=text, driver=text)
    records = [
        {**final(point, seed, loss + 0.1 * seed, speed, environment=own, notes=(text,)), "device": text}
        for point, loss, speed in zip(planned, (1.6, 1.5), (4e4, 2e4), strict=True)
        for seed in range(3)
    ]
    return page(planned, records, name=text, question=text, command=text)


def many_trials(*, depths: int = 25, widths: int = 10, seeds: int = 4, rungs: int = 200) -> tuple[list, list]:
    """Planned points and records of a grid of depths and widths: a smooth loss surface with noise."""
    draw = np.random.default_rng(0)
    shift = draw.normal(0, 0.02, seeds)
    planned, records = [], []
    for n_layers in range(2, 2 + depths):
        for d_model in range(128, 128 + 64 * widths, 64):
            shape = replace(
                config().shape, n_layers=n_layers, d_model=d_model, n_heads=d_model // 64, head_dim=64,
                ffn_hidden=16 * max(4, round((3e7 / n_layers / d_model - 3 * d_model) / 48)), vocab_size=4096,
            )  # fmt: skip
            planned.append(
                PlannedPoint(
                    config=replace(config(), shape=shape), execution=Execution(batch_size=4, compile=True),
                    off_target=0.01,
                )
            )  # fmt: skip
            loss = 3 + 0.05 * math.log(n_layers / 8) ** 2 + 0.08 * math.log(d_model / 384) ** 2
            speed = 2e5 / (1 + 0.08 * n_layers) * (384 / d_model) ** 0.3
            for seed in range(seeds):
                record = final(
                    planned[-1], seed, loss + shift[seed] + draw.normal(0, 0.01), speed * math.exp(draw.normal(0, 0.01))
                )
                at = np.arange(1, rungs + 1)
                losses = loss + 3.5 * np.exp(-10 * at / rungs) + draw.normal(0, 0.03, rungs)
                tokens = record["tokens"] * at // rungs
                records.append(
                    {**record, "curve": [list(pair) for pair in zip(tokens.tolist(), losses.tolist(), strict=True)]}
                )
    return planned, records


def laddered(n_layers: int, ffn_hidden: int, **recipe: Any) -> PlannedPoint:
    return PlannedPoint(
        config=config(n_layers, ffn_hidden, **recipe), execution=RUNGS[0], off_target=0.01, ladder=RUNGS
    )


def precisions_study() -> str:
    """Five shapes in bf16 and FP8, each at the fastest of four micro-batches; the widest FFN has no memory for 16."""
    draw = np.random.default_rng(1)
    planned, records = [], []
    for n_layers, ffn_hidden in PROXY[:5]:
        for gain, recipe in ((1.0, {"precision": "bf16"}), (0.85 + 0.1 * n_layers, {"precision": "fp8", **FP8})):
            point = laddered(n_layers, ffn_hidden, **recipe)
            planned.append(point)
            speed = gain * SPEEDS[n_layers]
            for rung in RUNGS[:-1] if n_layers == 1 else RUNGS:
                records.append(probe(replace(point, execution=rung), speed * (rung.batch_size / 8) ** 0.2, device="H"))
            if n_layers == 1:
                records.append(probe(replace(point, execution=RUNGS[-1]), None, device="H"))
            best = replace(point, execution=RUNGS[2 if n_layers == 1 else 3])
            speed *= (best.execution.batch_size / 8) ** 0.2
            for seed in range(3):
                loss = LOSSES[n_layers] + 0.02 * seed + draw.normal(0, 0.004) + 0.01 * (recipe["precision"] == "fp8")
                measured = speed * math.exp(draw.normal(0, 0.01))
                own = environment(device="H", driver="580.1")
                records.append(final(best, seed, float(loss), measured, environment=own))
    return page(planned, records)
