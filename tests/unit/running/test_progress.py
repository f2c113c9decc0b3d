"""What a run says of itself while it goes on: a line for each outcome, of jobs as they were asked."""

import io

from frontier_fakes import config, summary
from ledger_lines import as_line
from rich.console import Console

from sweeper.ledger.lines import asked_record, event_record, started_record
from sweeper.planning.resolving import MicroBatches
from sweeper.running.progress import MANY, Progress
from sweeper.search.driver import Driver
from sweeper.search.grid import Grid
from sweeper.values.events import Failed, Final, Rung, Speed
from sweeper.values.records import Execution, Resolved
from tests.fakes import FakeTime, make_final, make_job

RUNGS = MicroBatches(executions=tuple(Execution(batch_size=b, compile=True) for b in (2, 4, 8)), choose="fastest")


class Watched:
    """A Driver's jobs, told to a Progress as a Session does: recorded first, then taken in."""

    def __init__(self, *, terminal=False):
        one = config(1, 16, steps=None, minutes=1.0)
        self.driver = Driver(Grid([one]), seeds=1, micro_batches=lambda _: RUNGS)
        self.said = io.StringIO()
        console = Console(file=self.said, width=100, force_terminal=terminal)
        self.progress = Progress(
            console, jobs=self.driver.jobs, states=self.driver.states, label=lambda job: f"b{job.execution.batch_size}"
        )
        self.progress.observe(as_line(started_record(devices=1, command="sweeper run s.yaml")))

    def ask(self):
        job = self.driver.ask()
        self.progress.observe(as_line(asked_record(job)))
        return job

    def tell(self, event):
        self.progress.observe(as_line(event_record(event)))
        self.driver.tell(event)

    def probe(self, tokens_per_s):
        job = self.ask()
        known = None if tokens_per_s is None else summary(tokens_per_s)
        self.tell(
            Speed(
                job=job, status="ok" if known else "out_of_memory", speed=known, peak_memory_bytes=None, seconds={},
                environment={},
            )
        )  # fmt: skip


def test_a_line_for_each_outcome_counts_what_is_still_wanted():
    watched = Watched()
    watched.probe(1024.0)
    watched.probe(900.0)
    job = watched.ask()
    assert job.resolved == Resolved(steps=60)
    watched.tell(Failed(job=job, error="no space left"))
    job = watched.ask()
    watched.tell(Rung(job=job, tokens=30 * 1024, loss=2.0, tokens_per_s=1000.0))
    watched.tell(
        Final(
            job=job, status="ok", val_loss=1.5, val_bpb=None, curve=(), tokens=60 * 1024, seconds={},
            speed=summary(1000.0), peak_memory_bytes=None, environment={},
        )
    )  # fmt: skip
    lines = [line.strip().rpartition("  (")[0] or line.strip() for line in watched.said.getvalue().splitlines()]
    assert lines == [
        "1/4  b8 speed: 1,024 tokens/s",
        "2/4  b4 speed: 900 tokens/s",
        "b8 seed 0: failed, attempt 1 of 3: no space left",
        "3/3  b8 seed 0: loss 1.5000, 1,000 tokens/s",
    ]


def test_the_share_that_is_done_is_of_the_steps_that_were_resolved():
    watched = Watched(terminal=True)
    with watched.progress:
        watched.probe(1024.0)
        watched.probe(900.0)
        job = watched.ask()
        watched.tell(Rung(job=job, tokens=15 * 1024, loss=2.0))
    assert "25%, training loss 2.000" in watched.said.getvalue()


def test_of_very_many_jobs_states_are_looked_at_seldom_and_the_count_goes_on(monkeypatch):
    looks, clock = [], FakeTime()
    monkeypatch.setattr("sweeper.running.progress.time", clock)

    def states():
        looks.append(clock.now)
        clock.advance(0.05)  # a second and a half would go into looking at 30 outcomes
        return {f"{n}": "done" if n < len(told) else "missing" for n in range(2 * MANY)}

    told, said = [], io.StringIO()
    progress = Progress(Console(file=said, width=100), jobs={}, states=states, label=lambda job: "x")
    for seed in range(30):
        clock.advance(0.01)
        record = event_record(make_final(make_job(seed)))
        progress.observe(as_line(asked_record(make_job(seed))))
        progress.observe(as_line(record))
        told.append(record)
    counts = [int(line.split("/")[0]) for line in said.getvalue().splitlines()]
    assert counts == list(range(1, 31))
    assert len(looks) == 1
