"""Configs, Drivers and outcomes for tests of what probes settle."""

from sweeper.model.shape import derive
from sweeper.planning.resolving import JobSettings, MicroBatches
from sweeper.search.driver import Driver
from sweeper.search.grid import Grid
from sweeper.values.events import Final, Speed, SpeedSummary
from sweeper.values.records import Config, Execution, Optimizer, Recipe

GIB = 2**30
TOKENS_PER_STEP = 512


def config(n_layers=1, *, lr=1e-3, **changes):
    fields = {"data": "python-stdlib", "steps": 10, "seq_len": 32, "precision": "fp32", "eval_tokens": 1024}
    recipe = Recipe(tokens_per_step=TOKENS_PER_STEP, optimizer=Optimizer(lr=lr), **{**fields, **changes})
    shape = derive({"n_layers": n_layers, "d_model": 64, "vocab_size": 256, "tie_embeddings": True})
    return Config(shape=shape, recipe=recipe)


def in_minutes(n_layers=1, minutes=1.0, **changes):
    return config(n_layers, steps=None, minutes=minutes, **changes)


def driver(*configs, batch_sizes=(2, 4, 8), choose="fastest", seeds=1, probed=False, **settings):
    executions = tuple(Execution(batch_size=b, compile=False) for b in batch_sizes)
    rungs = MicroBatches(executions=executions, choose=choose, probed=probed)
    return Driver(Grid(configs), seeds=seeds, micro_batches=lambda _: rungs, settings=JobSettings(**settings))


def summary(tokens_per_s):
    return SpeedSummary(
        tokens_per_s=tokens_per_s, low=tokens_per_s, high=tokens_per_s, windows=(tokens_per_s,) * 3, step_ms=1.0
    )


def speed(job, tokens_per_s, device=None):
    """A probe's outcome: its speed, out of memory where that is None."""
    return Speed(
        job=job, status="out_of_memory" if tokens_per_s is None else "ok",
        speed=None if tokens_per_s is None else summary(tokens_per_s), peak_memory_bytes=None, seconds={},
        environment={"device": device},
    )  # fmt: skip


def final(job, status="ok", device=None, peak=None):
    return Final(
        job=job, status=status, val_loss=1.0, val_bpb=None, curve=(), tokens=0, seconds={}, speed=None,
        peak_memory_bytes=peak, environment={"device": device},
    )  # fmt: skip


def climb(machine, *speeds, device=None):
    """Answer the next probes with `speeds`; the jobs that were asked."""
    jobs = []
    for tokens_per_s in speeds:
        job = machine.ask()
        assert job.kind == "speed"
        jobs.append(job)
        machine.tell(speed(job, tokens_per_s, device))
    return jobs


def sizes(jobs):
    return [job.execution.batch_size for job in jobs]
