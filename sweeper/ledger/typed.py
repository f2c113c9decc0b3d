"""The ledger's lines as typed values: read once, here, from the JSON that `sweeper.ledger.lines` makes.

A line is a frozen struct of what rooms look at. Its config is made when it is first asked for, and is one object for
all lines that say the same; its curve stays the bytes that it is until asked for. What a line holds beside that stays
in the file, and goes with the line where ledgers are merged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from sweeper.ledger.lines import event_record
from sweeper.values.events import Event, Failed, Final, Speed, SpeedSummary, memory_needed
from sweeper.values.records import (
    SCHEMA,
    UNRESOLVED,
    Config,
    DeviceType,
    Execution,
    Job,
    JobKind,
    Resolved,
    Status,
)
from sweeper.values.schedule import Branch

Curve = tuple[tuple[int, float | None], ...]
"""Pairs of tokens and training loss, None where that was no number."""
CONFIGS_KEPT = 1 << 15
"""Configs that are kept for further lines of the same; beyond them one is made again."""


class LaterSchema(ValueError):
    """A line of a later version than this one: `schema` is what it says."""

    def __init__(self, schema: object) -> None:
        super().__init__(f"schema {schema}, this version reads up to {SCHEMA}")
        self.schema = schema


class NoRecord(ValueError):
    """JSON that is no line of a ledger; the message says what is wrong, "" where it lacks what every line has."""


class Line(Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """What every line has. `time` is ISO 8601, "" of an event that isn't in a ledger yet."""

    schema: int = SCHEMA
    time: str = ""

    @property
    def kind(self) -> str:
        """The line's `type`, as it stands in the ledger."""
        return str(self.__struct_config__.tag)


class StartedLine(Line, frozen=True, kw_only=True, gc=False, tag="started"):
    """A run started, on so many devices. `command` is "" where it wasn't known."""

    devices: int
    command: str = ""


class OtherLine(Line, frozen=True, kw_only=True, gc=False, tag="other"):
    """A line of a type that this version doesn't know, `named` so."""

    named: str

    @property
    def kind(self) -> str:
        """The line's `type`, as it stands in the ledger."""
        return self.named


class JobLine(Line, frozen=True, kw_only=True, gc=False):
    """A line about one job: a training has a `trial_id`. `device` is a device type, None where none is known."""

    probe_id: str
    config_id: str
    trial_id: str | None = None
    device: str | None = None
    attempt: int = 1

    @property
    def job_id(self) -> str:
        """The job's id, as `sweeper.values.records.Job` has it."""
        return self.probe_id if self.trial_id is None else self.trial_id


class _Asked(Struct, frozen=True, kw_only=True, gc=False):
    """A job as it was asked for; its reference is left out, which all jobs of a study share."""

    kind: JobKind
    config: Raw
    execution: Execution
    seed: int = 0
    attempt: int = 1
    data_path: str | None = None
    data_fingerprint: str | None = None
    device: DeviceType = "cpu"
    memory_bytes: int | None = None
    shared_ok: bool = False
    resolved: Resolved = UNRESOLVED
    branch_at: tuple[float, ...] = ()
    on: str | None = None
    beside: bool = False


class AskedLine(JobLine, frozen=True, kw_only=True, gc=False, tag="asked"):
    """A job that was about to be handed out."""

    _job: _Asked = field(name="job")

    @property
    def job(self) -> Job:
        """The job, without its reference."""
        fields = {name: getattr(self._job, name) for name in _Asked.__struct_fields__ if name != "config"}
        return Job(config=_config(bytes(self._job.config)), **fields)

    @property
    def job_id(self) -> str:
        """The job's id, as `sweeper.values.records.Job` has it."""
        asked = self._job
        return _job_id(self, on=asked.on, beside=asked.beside)


class RungLine(JobLine, frozen=True, kw_only=True, gc=False, tag="rung"):
    """How far a training was: `sweeper.values.events.Rung`."""

    tokens: int
    loss: float
    tokens_per_s: float | None = None


class OutcomeLine(JobLine, frozen=True, kw_only=True, gc=False):
    """What a job came to. `on` is the device type that it was asked for, of several; None of one."""

    execution: Execution
    seed: int = 0
    resolved: Resolved = UNRESOLVED
    memory_bytes: int | None = None
    on: str | None = None
    beside: bool = False
    environment: Mapping[str, Any] = {}
    _shape: Raw = field(name="shape", default=Raw())
    _architecture: Raw = field(name="architecture", default=Raw())
    _program: Raw = field(name="program", default=Raw())
    _recipe: Raw = field(name="recipe", default=Raw())
    _params: Raw = field(name="params", default=Raw())
    _flops: Raw = field(name="train_flops_per_token", default=Raw())

    @property
    def config(self) -> Config:
        """The config, one object for all lines that say the same."""
        parts = {"shape": self._shape, "recipe": self._recipe}
        if not bytes(self._shape):
            parts |= {"architecture": self._architecture, "program": self._program}
            parts |= {"params": self._params, "train_flops_per_token": self._flops}
        whole = (f'"{name}":'.encode() + bytes(raw) for name, raw in parts.items() if bytes(raw))
        return _config(b"{" + b",".join(whole) + b"}")

    @property
    def job(self) -> Job:
        """The job, as far as its outcome says."""
        return Job(
            kind="speed" if self.trial_id is None else "train",
            config=self.config,
            execution=self.execution,
            seed=self.seed,
            attempt=self.attempt,
            memory_bytes=self.memory_bytes,
            resolved=self.resolved,
            on=self.on,
            beside=self.beside,
        )

    @property
    def job_id(self) -> str:
        """The job's id, as `sweeper.values.records.Job` has it."""
        return _job_id(self, on=self.on, beside=self.beside)

    @property
    def device_type(self) -> str:
        """The device type that it is from, as it is shown."""
        return self.device or "unknown device"


class MeasuredLine(OutcomeLine, frozen=True, kw_only=True, gc=False):
    """An outcome that says how a job ended, and what it measured of its device: a probe's or a trial's."""

    status: Status
    speed: SpeedSummary | None = None
    peak_memory_bytes: int | None = None
    beside_memory_bytes: int | None = None
    seconds: Mapping[str, float] = {}

    @property
    def memory_needed(self) -> int | None:
        """Bytes that its device must have for the job, None where its peak isn't known."""
        return memory_needed(self.peak_memory_bytes, self.beside_memory_bytes)


class SpeedLine(MeasuredLine, frozen=True, kw_only=True, gc=False, tag="speed"):
    """A probe's outcome: `sweeper.values.events.Speed`."""

    @property
    def event(self) -> Speed:
        """The event that the line was written of."""
        return Speed(
            job=self.job,
            status=self.status,
            speed=self.speed,
            peak_memory_bytes=self.peak_memory_bytes,
            seconds=self.seconds,
            environment=self.environment,
            beside_memory_bytes=self.beside_memory_bytes,
        )


class FinalLine(MeasuredLine, frozen=True, kw_only=True, gc=False, tag="final"):
    """A trial's outcome: `sweeper.values.events.Final`."""

    trial_id: str
    val_loss: float | None
    val_bpb: float | None = None
    tokens: int
    notes: tuple[str, ...] = ()
    branches: tuple[Branch, ...] = ()
    _curve: Raw = field(name="curve", default=Raw(b"[]"))

    @property
    def curve(self) -> Curve:
        """Pairs of tokens and training loss, decoded now."""
        return _CURVE.decode(self._curve)

    @property
    def event(self) -> Final:
        """The event that the line was written of."""
        return Final(
            job=self.job,
            status=self.status,
            val_loss=self.val_loss,
            val_bpb=self.val_bpb,
            curve=tuple([(tokens, loss) for tokens, loss in self.curve if loss is not None]),
            tokens=self.tokens,
            seconds=self.seconds,
            speed=self.speed,
            peak_memory_bytes=self.peak_memory_bytes,
            environment=self.environment,
            notes=self.notes,
            branches=self.branches,
            beside_memory_bytes=self.beside_memory_bytes,
        )


class FailedLine(OutcomeLine, frozen=True, kw_only=True, gc=False, tag="failed"):
    """A job that ended without a result: `sweeper.values.events.Failed`."""

    error: str
    traceback: str = ""

    @property
    def event(self) -> Failed:
        """The event that the line was written of."""
        return Failed(job=self.job, error=self.error, traceback=self.traceback, environment=self.environment)


Outcome = SpeedLine | FinalLine | FailedLine
_Known = StartedLine | AskedLine | RungLine | SpeedLine | FinalLine | FailedLine
_LINE: msgspec.json.Decoder[_Known] = msgspec.json.Decoder(_Known)
_CURVE: msgspec.json.Decoder[Curve] = msgspec.json.Decoder(Curve)
_DECODED_LATER = ("shape", "architecture", "program", "recipe", "params", "train_flops_per_token", "curve")
_TYPES = ("started", "asked", "rung", "speed", "final", "failed")


def read_line(line: bytes) -> Line:
    """A line of a ledger, with or without its end.

    Raises LaterSchema for one of a later version, NoRecord for other JSON, ValueError for what is no JSON.
    """
    try:
        found: Line = _LINE.decode(line)
        if isinstance(found, AskedLine):
            _config(bytes(found._job.config))
        elif isinstance(found, OutcomeLine):
            _ = found.config
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return _read_slowly(line)
    if found.schema > SCHEMA:
        raise LaterSchema(found.schema)
    return found


def line_of(event: Event) -> Line:
    """The line that an event would have, without its time; a trial's without its curve."""
    record = event_record(event)
    return read_line(json.dumps({**record, "curve": []} if isinstance(event, Final) else record).encode())


def _read_slowly(line: bytes) -> Line:
    """A line that isn't as this version writes them: of another one, or damaged."""
    record = json.loads(line)
    if not isinstance(record, dict) or "type" not in record:
        raise NoRecord("")
    schema = record.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise LaterSchema(schema)
    if record["type"] not in _TYPES:
        return OtherLine(named=str(record["type"]), schema=schema, time=str(record.get("time", "")))
    try:
        found: Line = msgspec.convert(_with_raw(record), _Known)
        if isinstance(found, AskedLine | OutcomeLine):
            _ = found.job
    except (msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
        raise NoRecord(str(error)) from None
    return found


def _with_raw(record: dict[str, Any]) -> dict[str, Any]:
    """`record` with what is decoded later as JSON: for text that Python's reader takes and the fast one doesn't."""
    raw: dict[str, Any] = {name: Raw(json.dumps(record[name])) for name in _DECODED_LATER if name in record}
    job = record.get("job")
    if isinstance(job, dict) and "config" in job:
        raw["job"] = {**job, "config": Raw(json.dumps(job["config"]))}
    return {**record, **raw}


def _job_id(line: JobLine, *, on: str | None, beside: bool) -> str:
    if line.trial_id is not None:
        return line.trial_id
    return f"{line.probe_id}@{on}" if beside else line.probe_id


@lru_cache(maxsize=CONFIGS_KEPT)
def _config(plain: bytes) -> Config:
    return Config.from_dict(json.loads(plain))
