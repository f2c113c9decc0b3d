"""The Driver with its memory: what is asked is in the ledger before it runs, what is told before it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sweeper.ledger.file import Ledger
from sweeper.ledger.lines import asked_record, event_record, started_record
from sweeper.ledger.typed import Line
from sweeper.running.again import as_if_not_measured
from sweeper.search.driver import Driver
from sweeper.search.job_states import replay
from sweeper.search.on_kinds import OnKinds
from sweeper.values.events import Continue, Done, Event, Stop, Wait
from sweeper.values.records import Job

Observer = Callable[[Line], None]
FingerprintOf = Callable[[str, int], str | None]
"""Of data, by its name in the recipe and the vocabulary: what `environment.data_fingerprint` would hold here and now.

None where that needn't be known.
"""


def now() -> str:
    """The time as ledgers have it: ISO 8601, UTC, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Session:
    """`ask` and `tell` for a runner. Observers are handed every new ledger record, after it is on disk.

    The first record says that a run starts on so many `devices`, by this `command` ("" where it isn't known). Jobs
    say which data they want: what has the fingerprint that it has for this process, when it is first asked for.
    Trials of the ids `again` are asked for as if they had no outcome yet.
    """

    def __init__(
        self,
        driver: Driver | OnKinds,
        ledger: Ledger,
        *,
        observers: Sequence[Observer] = (),
        devices: int = 1,
        command: str = "",
        fingerprint_of: FingerprintOf = lambda name, vocab_size: None,
        again: Sequence[str] = (),
    ) -> None:
        self._fingerprint_of = cache(fingerprint_of)
        self._search = driver if isinstance(driver, OnKinds) else OnKinds(driver)
        self._ledger, self._observers = ledger, tuple(observers)
        replay(as_if_not_measured(ledger.records, again), self._search)
        self._record(started_record(devices=devices, command=command))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that jobs are asked for: of devices of one kind, none."""
        return self._search.kinds

    def ask(self, free: Sequence[str] = ()) -> Job | Wait | Done:
        """The next job, recorded as asked; where there are `kinds`, for one of those that are `free`."""
        answer = self._search.ask(free)
        if isinstance(answer, Job):
            data, vocab_size = answer.config.data, answer.config.vocab_size
            known = data is not None and vocab_size is not None
            fingerprint = self._fingerprint_of(data, vocab_size) if known else None
            answer = replace(answer, data_fingerprint=fingerprint)
            self._record(asked_record(answer))
        return answer

    def tell(self, event: Event) -> Continue | Stop:
        """Record an event, then let the Driver decide what follows."""
        self._record(event_record(event))
        return self._search.tell(event)

    def _record(self, record: dict[str, Any]) -> None:
        stamped = {"schema": record["schema"], "type": record["type"], "time": now(), **record}
        line = self._ledger.append(stamped)
        for observer in self._observers:
            observer(line)
