"""The Driver with its memory: what is asked is in the ledger before it runs, what is told before it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sweeper.ledger import Ledger
from sweeper.records import SCHEMA, Continue, Done, Event, Job, Stop, Wait, event_from_record, event_record
from sweeper.search.driver import Driver

Observer = Callable[[Mapping[str, Any]], None]


def now() -> str:
    """The time as ledgers have it: ISO 8601, UTC, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Session:
    """`ask` and `tell` for a runner. Observers are handed every new ledger record, after it is on disk."""

    def __init__(self, driver: Driver, ledger: Ledger, *, observers: Sequence[Observer] = ()) -> None:
        self._driver, self._ledger, self._observers = driver, ledger, tuple(observers)
        for record in ledger.records:
            event = event_from_record(record)
            if event is not None:
                driver.tell(event)

    def ask(self) -> Job | Wait | Done:
        """The next job, recorded as asked."""
        answer = self._driver.ask()
        if isinstance(answer, Job):
            self._record(
                {
                    "schema": SCHEMA,
                    "type": "asked",
                    **answer.ids(),
                    "device": None,
                    "attempt": answer.attempt,
                    "job": answer.to_dict(),
                }
            )
        return answer

    def tell(self, event: Event) -> Continue | Stop:
        """Record an event, then let the Driver decide what follows."""
        self._record(event_record(event))
        return self._driver.tell(event)

    def _record(self, record: dict[str, Any]) -> None:
        stamped = {"schema": record["schema"], "type": record["type"], "time": now(), **record}
        self._ledger.append(stamped)
        for observer in self._observers:
            observer(stamped)
