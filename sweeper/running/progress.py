"""Live progress: one refreshed block on a terminal, plain lines elsewhere. Fed with ledger records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweeper.ledger.typed import AskedLine, FailedLine, FinalLine, JobLine, Line, MeasuredLine, Outcome, RungLine
from sweeper.search.state.results import RunState
from sweeper.values.records import Job

MANY = 1000
"""Of more jobs than these, counts may be a second old, or as much as looking costs 2% of the time."""
LEAST_SECONDS, MOST_SHARE = 1.0, 0.02


class Progress:
    """Observes a session. `jobs` are all that may be asked, `states` tells what has become of the wanted ones now,
    `more` how many there will be of configs that aren't chosen yet.

    Time left is the mean seconds of the jobs of this run, so it is unknown until the first one ends.
    """

    def __init__(
        self,
        console: Console,
        *,
        jobs: Mapping[str, Job],
        states: Callable[[], Mapping[str, RunState]],
        label: Callable[[Job], str],
        at_a_time: int = 1,
        more: Callable[[], int] = lambda: 0,
    ) -> None:
        self._more = more
        self._last_states: list[RunState] = []
        self._look_again_at = 0.0
        self._ended_since = 0
        self._console, self._jobs, self._states, self._label = console, jobs, states, label
        self._at_a_time = at_a_time
        self._started: dict[str, float] = {}
        self._asked: dict[str, Job] = {}
        self._durations: list[float] = []
        self._current: dict[str, str] = {}
        self._best: tuple[float, str] | None = None
        self._finished = 0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def note_earlier(self, records: Sequence[Line]) -> None:
        """Take the best loss so far from the records of earlier runs."""
        for record in records:
            if isinstance(record, FinalLine):
                self._keep_best(record)

    def observe(self, record: Line) -> None:
        """Take in one ledger record and show what changed."""
        if not isinstance(record, JobLine):
            return
        job_id = record.job_id
        if isinstance(record, AskedLine):
            self._asked[job_id] = record.job
            self._started[job_id] = time.monotonic()
            self._current[job_id] = "starting"
        elif isinstance(record, RungLine):
            job = self._asked.get(job_id)
            of_tokens = job.config.tokens_of(job.steps) if job else None
            self._current[job_id] = _rung_text(record, of_tokens=of_tokens)
        elif isinstance(record, Outcome):
            self._end(job_id, record)
        if self._live:
            self._live.update(self._block(), refresh=True)
        self._ended_since += isinstance(record, MeasuredLine)

    def _end(self, job_id: str, record: Outcome) -> None:
        self._current.pop(job_id, None)
        seconds = time.monotonic() - self._started.pop(job_id, time.monotonic())
        self._finished += 1
        if not isinstance(record, FailedLine):
            self._durations.append(seconds)
        if isinstance(record, FinalLine):
            self._keep_best(record)
        self._console.print(self._line(job_id, record, seconds), highlight=False)

    def _keep_best(self, record: FinalLine) -> None:
        loss, job = record.val_loss, self._jobs.get(record.trial_id)
        if loss is not None and job and record.status == "ok" and (self._best is None or loss < self._best[0]):
            self._best = (loss, self._name(job))

    def _line(self, job_id: str, record: Outcome, seconds: float) -> Text:
        job = self._asked.get(job_id)
        name = self._name(job) if job else job_id
        if isinstance(record, FailedLine):
            return Text(f"  {name}: failed, attempt {record.attempt} of 3: {record.error}", style="red")
        parts = [str(record.status)] if record.status != "ok" else []
        if isinstance(record, FinalLine) and record.val_loss is not None:
            parts.append(f"loss {record.val_loss:.4f}")
        if record.speed:
            parts.append(f"{record.speed.tokens_per_s:,.0f} tokens/s")
        states = self._fresh_states()
        done = min(len(states), states.count("done") + self._ended_since + 1)
        count = f"{done:>3}/{len(states) + self._more()}"
        return Text(f"  {count}  {name}: {', '.join(parts)}  ({seconds:.0f} s)")

    def _block(self) -> Text:
        states = self._fresh_states()
        left = sum(state in ("missing", "running") for state in states) + self._more()
        text = f"{states.count('done')} of {len(states) + self._more()} done, {len(self._current)} running"
        if failed := states.count("failed"):
            text += f", {failed} failed"
        if self._durations and left:
            mean = sum(self._durations) / len(self._durations)
            text += f"; about {_clock(mean * left / self._at_a_time)} to go"
        if self._best:
            text += f"; best loss {self._best[0]:.4f} ({self._best[1]})"
        running = [f"\n  {self._name(self._asked[i])}: {what}" for i, what in self._current.items() if i in self._asked]
        return Text(text + "".join(running))

    def _fresh_states(self) -> list[RunState]:
        """Of all jobs; of very many, not more often than their number allows to count them."""
        began = time.monotonic()
        if len(self._last_states) < MANY or began > self._look_again_at:
            self._last_states, self._ended_since = list(self._states().values()), 0
            ended = time.monotonic()
            self._look_again_at = ended + max(LEAST_SECONDS, (ended - began) / MOST_SHARE)
        return self._last_states

    def _name(self, job: Job) -> str:
        name = self._label(job)
        on = f" on {job.on}" if job.on else ""
        return f"{name} seed {job.seed}{on}" if job.kind == "train" else f"{name} speed{on}"

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()


def _rung_text(rung: RungLine, *, of_tokens: int | None) -> str:
    share = f"{rung.tokens / of_tokens:.0%}, " if of_tokens else f"{rung.tokens:,} tokens, "
    speed = f", {rung.tokens_per_s:,.0f} tokens/s" if rung.tokens_per_s else ""
    return f"{share}training loss {rung.loss:.3f}{speed}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
