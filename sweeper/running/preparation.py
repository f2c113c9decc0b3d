"""What is seen to before a study's first job: whether it may go on, what is left to do, for how long."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.ledger.typed import FinalLine, Line, MeasuredLine, OutcomeLine
from sweeper.running.again import as_if_not_measured, check_again
from sweeper.running.session import FingerprintOf
from sweeper.running.study_run import StudyRun, on_several_kinds
from sweeper.search.driver import Driver
from sweeper.search.follow_up import to_follow
from sweeper.search.job_states import replay
from sweeper.search.on_kinds import OnKinds
from sweeper.values.errors import UsageError
from sweeper.values.home import may_write
from sweeper.values.labels import duration
from sweeper.values.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run is about to do: `text` says so in a line. `seconds` by the plan, 0 where nothing takes any.

    `kinds` are the device types that jobs are asked for, the one that the search goes by first; with `probed` the
    speed of every config is measured before any training. Trials of the ids `again` are measured once more.
    """

    text: str
    seconds: float
    is_complete: bool
    kinds: tuple[str, ...]
    probed: bool
    again: tuple[str, ...]


def prepare(
    run: StudyRun,
    records: Sequence[Line],
    at_a_time: int,
    kinds: Sequence[str],
    fingerprint_of: FingerprintOf,
    again: Sequence[str],
) -> Prepared:
    """See that a study may go on from `records`, and write what is going to run: study.yaml and plan.json.

    Raises UsageError when the data is no longer what kept results were measured on or no trial of an id of `again` has
    ended, OSError where a file can't be written.
    """
    check_again(records, again)
    left = as_if_not_measured(records, again)
    kinds = kinds_as_before(kinds, records)
    probed = len(kinds) > 1 or on_several_kinds(records)
    search = OnKinds(run.search.driver(probed=probed), kinds)
    replay(left, search)
    check_data(run.folder, search.driver, records, fingerprint_of)
    check_logs(run.folder)
    run.write_study()
    seconds = run.seconds_missing(search.driver) / at_a_time
    about = f", about {duration(seconds)}" if seconds else ""
    to_come = search.driver.to_propose + to_follow(search.driver)
    return Prepared(
        text=census(search, left, branch_at=run.loaded.study.trial.branch_at) + about,
        seconds=seconds,
        is_complete=not to_come and "missing" not in search.states().values(),
        kinds=kinds,
        probed=probed,
        again=tuple(again),
    )


def check_data(folder: RunFolder, known: Driver, records: Sequence[Line], fingerprint_of: FingerprintOf) -> None:
    """Refuse to add to results that were measured on other data of the same name."""
    wanted = set(known.jobs)
    kept: dict[tuple[str, int], set[str]] = {}
    for record in records:
        if isinstance(record, FinalLine) and record.trial_id in wanted:
            data, vocab_size = record.config.data, record.config.vocab_size
            found = record.environment.get("data_fingerprint")
            if found and data is not None and vocab_size is not None:
                kept.setdefault((data, vocab_size), set()).add(found)
    for (name, vocab_size), before in kept.items():
        now = fingerprint_of(name, vocab_size)
        if before - {now}:
            raise UsageError(
                f"{name}: the data has changed since results in {folder.root} were measured (fingerprint "
                f"{', '.join(sorted(before))}, now {now}): bring the old data back, or start anew with --fresh"
            )


def check_logs(folder: RunFolder) -> None:
    """OSError where jobs couldn't write their logs: the first would fail, and with it all."""
    folder.logs.mkdir(exist_ok=True)
    if not may_write(folder.logs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder.logs))


def kinds_as_before(kinds: Sequence[str], records: Sequence[Line]) -> tuple[str, ...]:
    """The kinds, first the one that an earlier run went by, where it's still among them."""
    outcomes = (r for r in reversed(records) if isinstance(r, OutcomeLine))
    before = next((r.on for r in outcomes if r.on is not None and not r.beside), None)
    return tuple(sorted(kinds, key=lambda kind: kind != before))


def census(search: OnKinds, records: Sequence[Line], *, branch_at: Sequence[float] = ()) -> str:
    """What of the ledger still applies, in one line."""
    settled = {record.job_id for record in records if isinstance(record, MeasuredLine)}
    driver, states = search.driver, search.states()
    kept = [job_id for job_id in settled if states.get(job_id) == "done"]
    stale = settled - set(driver.jobs) - set(states)
    missing = list(states.values()).count("missing") + driver.to_propose + to_follow(driver)
    parts = [f"{missing} jobs to do"] if not settled else [f"{len(kept)} kept", f"{missing} to do"]
    trained = {record.trial_id for record in records if isinstance(record, FinalLine) and record.status == "ok"}
    if branch_at and (again := sum(states.get(job_id) == "missing" for job_id in trained)):
        parts.append(f"{again} of them again, as they ran without these branches")
    if stale:
        parts.append(f"{len(stale)} no longer asked (kept in the ledger)")
    return ", ".join(parts)
