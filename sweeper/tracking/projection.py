"""What MLflow should hold for a ledger: a parent run, and a child run per trial. Pure; `tracking` writes it."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sweeper.ledger.typed import (
    AskedLine,
    FailedLine,
    FinalLine,
    JobLine,
    Line,
    MeasuredLine,
    OutcomeLine,
    RungLine,
    SpeedLine,
)
from sweeper.measurements.utilization import of_own_seconds
from sweeper.values.events import SpeedSummary
from sweeper.values.kinds import kind_fields
from sweeper.values.labels import differing, label
from sweeper.values.records import Job, flat, without_none

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
MAX_PARAM = 500
"""Characters of a param's or tag's value: what every MLflow store takes."""
MAX_DIGEST = 36
"""Characters of a data set's digest, likewise."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of a metric. `time_ms` since the epoch; `step` in tokens for what a trial measures."""

    key: str
    value: float
    time_ms: int
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What trials were trained on: its name in recipes, and its fingerprint."""

    name: str
    digest: str


@dataclass(kw_only=True)
class Run:
    """What one MLflow run should hold. `points` only grows, in the ledger's order."""

    name: str
    start_ms: int
    end_ms: int
    status: RunStatus = "RUNNING"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    asked_ms: int = 0


class Projection:
    """Folds ledger records into runs. `trials` by trial_id; `parent` is None until there is a record.

    A trial without an outcome is RUNNING when it was asked live, by this process, else KILLED: whoever asked
    for it is gone. A trial keeps its run over all its attempts. Probes are no trials: their speeds are
    metrics of the parent, `probe.<probe_id>.…`. `datasets`, in the order in which they were first named.

    A trial is named by the fields `named_by` of its config, as the report names configs, and its seed.
    """

    def __init__(self, *, study: str, profile: str, named_by: Sequence[str] = ()) -> None:
        self._study, self._profile, self._named_by = study, profile, named_by or differing([])
        self.parent: Run | None = None
        self.folder_id = ""
        self.trials: dict[str, Run] = {}
        self.datasets: dict[Dataset, None] = {}
        self._outcomes: dict[str, str] = {}
        self._kinds: Counter[str] = Counter()

    def add(self, record: Line, *, live: bool) -> None:
        """Take in one record; earlier ones must have been added before."""
        time_ms = milliseconds(record.time)
        if self.parent is None:
            self.folder_id = _identity(record)
            self.parent = Run(name=f"{self._study} · {self._profile}", start_ms=time_ms, end_ms=time_ms)
        self.parent.end_ms = time_ms
        if (dataset := _dataset(record)) is not None:
            self.datasets[dataset] = None
        if isinstance(record, JobLine) and record.trial_id is not None:
            self._add_to_trial(record, record.trial_id, time_ms, live)
        elif isinstance(record, SpeedLine):
            self._add_probe(record, time_ms)

    def end(self, status: RunStatus, *, time_ms: int) -> None:
        """The driver ends: nothing is running any more."""
        for run in [*self.trials.values(), *([self.parent] if self.parent else [])]:
            if run.status == "RUNNING":
                run.status = status if run is self.parent else "KILLED"
                run.end_ms = time_ms
                if run is not self.parent:
                    run.tags["sweeper.status"] = "interrupted"

    def _add_to_trial(self, record: JobLine, trial_id: str, time_ms: int, live: bool) -> None:
        job = record.job if isinstance(record, AskedLine | OutcomeLine) else None
        if trial_id not in self.trials:
            if job is None:
                return
            self.trials[trial_id] = Run(name=self._name(job), start_ms=time_ms, end_ms=time_ms)
        run = self.trials[trial_id]
        run.end_ms = time_ms
        if job is not None:
            run.params |= trial_params(job)
        run.tags |= _tags(record, self._study, self._profile)
        if isinstance(record, AskedLine):
            run.asked_ms = time_ms
            run.status = "RUNNING" if live else "KILLED"
            run.tags["sweeper.status"] = "running" if live else "interrupted"
        elif isinstance(record, RungLine):
            values = {"rung_loss": record.loss, "rung_tokens_per_s": record.tokens_per_s}
            run.points += _points(values, time_ms, record.tokens)
        elif isinstance(record, FinalLine):
            run.status, run.tags["sweeper.status"] = "FINISHED", record.status
            run.points += _final_points(record, run.asked_ms or run.start_ms, time_ms)
            self._count(trial_id, "final", time_ms)
        elif isinstance(record, FailedLine):
            run.status = "FAILED"
            run.tags["sweeper.status"] = "failed"
            self._count(trial_id, "failed", time_ms)

    def _name(self, job: Job) -> str:
        return f"{label(job.config.to_dict(), self._named_by)} · seed {job.seed}"

    def _add_probe(self, record: SpeedLine, time_ms: int) -> None:
        assert self.parent is not None
        values = _measured(record)
        kind = f"{record.on}." if record.beside else ""
        prefix = f"probe.{record.probe_id}.{kind}"
        self.parent.points += _points({prefix + key: value for key, value in values.items()}, time_ms, 0)

    def _count(self, trial_id: str, kind: str, time_ms: int) -> None:
        assert self.parent is not None
        if trial_id in self._outcomes:
            self._kinds[self._outcomes[trial_id]] -= 1
        self._outcomes[trial_id] = kind
        self._kinds[kind] += 1
        counts = {"trials.done": self._kinds["final"], "trials.failed": self._kinds["failed"]}
        self.parent.points += _points(counts, time_ms, len(self._outcomes))


def milliseconds(time: str) -> int:
    """A ledger's time in milliseconds since the epoch."""
    return round(datetime.fromisoformat(time).timestamp() * 1000)


def study_params(study: Mapping[str, Any]) -> dict[str, str]:
    """A study's fields as params, nested keys joined by dots; profiles and the question left out."""
    flat: dict[str, str] = {}

    def flatten(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                flatten(inner, f"{path}.{key}" if path else str(key))
        elif value is not None:
            flat[path] = _text(value)

    flatten({key: value for key, value in study.items() if key not in ("profiles", "question")}, "")
    return flat


def trial_params(job: Job) -> dict[str, str]:
    """Shape or axes, recipe (`optimizer.lr` …), exact counts (`params.total` …), micro-batch, compile and seed."""
    config = job.config
    counts = {f"params.{name}": count for name, count in flat(config.shape.params).items()}
    recipe = study_params(config.recipe.to_dict()) if config.recipe else {}
    own = {**kind_fields(config.to_dict()), **counts, **flat(job.execution), "seed": job.seed}
    return {**recipe, **{key: _text(value) for key, value in own.items()}}


def _identity(first: Line) -> str:
    """The run folder's id: its ledger's first line, which moves with the folder and never changes."""
    ids = (first.trial_id, first.probe_id) if isinstance(first, JobLine) else (None, None)
    named = [first.time, first.kind, *ids]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


def _dataset(record: Line) -> Dataset | None:
    if isinstance(record, AskedLine):
        name, digest = record.job.config.data, record.job.data_fingerprint
    elif isinstance(record, OutcomeLine):
        name, digest = record.config.data, record.environment.get("data_fingerprint")
    else:
        return None
    return Dataset(name=name[:MAX_PARAM], digest=digest[:MAX_DIGEST]) if name and digest else None


def _tags(record: JobLine, study: str, profile: str) -> dict[str, str]:
    outcome = record if isinstance(record, OutcomeLine) else None
    environment = outcome.environment if outcome else {}
    resolved = without_none(flat(outcome.resolved)) if outcome else {}
    wanted = {
        "sweeper.study": study,
        "sweeper.profile": profile,
        "sweeper.trial_id": record.trial_id,
        "sweeper.config_id": record.config_id,
        "sweeper.probe_id": record.probe_id,
        "sweeper.attempt": record.attempt,
        "sweeper.device": record.device,
        "sweeper.data_fingerprint": environment.get("data_fingerprint"),
        "sweeper.notes": "; ".join(record.notes) or None if isinstance(record, FinalLine) else None,
        "sweeper.error": record.error if isinstance(record, FailedLine) else None,
        **{f"sweeper.resolved.{name}": value for name, value in resolved.items()},
        **{f"sweeper.version.{name}": value for name, value in (environment.get("versions") or {}).items()},
    }
    return {key: _text(value) for key, value in wanted.items() if value is not None}


def _final_points(record: FinalLine, asked_ms: int, time_ms: int) -> list[Point]:
    """The curve, its times spread evenly over its tokens between asked and final; then the final figures."""
    whole = max(record.tokens, 1)
    points = []
    for tokens, loss in record.curve:
        at = asked_ms + round((time_ms - asked_ms) * min(tokens / whole, 1.0))
        points += _points({"train_loss": loss}, at, tokens)
    for branch in record.branches:
        points += _points({"branch_val_loss": branch.val_loss}, time_ms, branch.tokens)
    figures = {"val_loss": record.val_loss, "val_bpb": record.val_bpb, **_measured(record)}
    return points + _points(figures, time_ms, record.tokens)


def _measured(record: MeasuredLine) -> dict[str, float | None]:
    return {
        **_speeds(record.speed),
        "peak_memory_bytes": record.peak_memory_bytes,
        "beside_memory_bytes": record.beside_memory_bytes,
        "useful_fraction": of_own_seconds(record.seconds) if isinstance(record, FinalLine) else None,
        **{f"seconds.{part}": value for part, value in record.seconds.items()},
    }


def _speeds(speed: SpeedSummary | None) -> dict[str, float | None]:
    if speed is None:
        return {}
    return {
        "tokens_per_s": speed.tokens_per_s,
        "tokens_per_s_low": speed.low,
        "tokens_per_s_high": speed.high,
        "step_ms": speed.step_ms,
        "tflops_per_s": speed.tflops_per_s,
        "mfu": speed.mfu,
        "gpu_busy": speed.busy,
    }


def _points(values: Mapping[str, float | None], time_ms: int, step: int) -> list[Point]:
    """What is missing, NaN or infinite is left out."""
    return [
        Point(key=key, value=float(value), time_ms=time_ms, step=step)
        for key, value in values.items()
        if value is not None and math.isfinite(value)
    ]


def _text(value: Any) -> str:
    if isinstance(value, (Sequence, bool)) and not isinstance(value, str):
        value = json.dumps(value)
    text = str(value)
    return text if len(text) <= MAX_PARAM else text[: MAX_PARAM - 1] + "…"
