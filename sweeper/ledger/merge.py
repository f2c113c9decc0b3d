"""Ledgers of one study, run by several people or on several device types, put together in a new run folder."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sweeper.ledger.file import Ledger, read_with_bytes
from sweeper.ledger.typed import FinalLine, Line
from sweeper.values.errors import UsageError
from sweeper.values.labels import listed
from sweeper.values.paths import profile_of, shown
from sweeper.values.records import Resolved
from sweeper.values.run_folder import RunFolder, write_atomically


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What the ledgers of `sources` hold together, typed, and as it is `written`, with what this version doesn't know.

    `said` are sentences on what is the same, and what isn't pooled.
    """

    sources: tuple[RunFolder, ...]
    records: tuple[Line, ...]
    written: tuple[Mapping[str, Any], ...] = field(repr=False)
    said: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The new folder, and what was `said` of its sources."""

    folder: RunFolder
    said: tuple[str, ...]


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Write the ledgers of `folders`, one after another, into the new folder `out`; each line once.

    Raises UsageError as `gathered` does, and where `out` holds something already. Nothing is written then.
    """
    target = RunFolder(root=out.absolute())
    if target.root.exists() and any(target.root.iterdir()):
        raise UsageError(f"{shown(target.root)} isn't empty: name a new folder with --out")
    found = gathered(folders)
    target.root.mkdir(parents=True, exist_ok=True)
    write_atomically(target.study, found.sources[0].study.read_text(encoding="utf-8"))
    write_atomically(target.plan, json.dumps(_plan_of(found.sources)) + "\n")
    with Ledger(target.ledger, lock=target.lock) as ledger:
        for record in found.written:
            ledger.append(record)
    return Merged(folder=target, said=found.said)


def gathered(folders: Sequence[Path]) -> Gathered:
    """The lines of the ledgers of `folders`, one ledger after another, each line once.

    Raises UsageError where a folder is no run folder, and where they are of different studies or profiles or were
    measured on different data of the same name.
    """
    sources = run_folders(folders)
    _check_same_study(sources)
    both = [list(read_with_bytes(source.ledger)) for source in sources]
    ledgers = [[line for line, _ in ledger] for ledger in both]
    _check_same_data(sources, ledgers)
    each: dict[str, tuple[Line, Mapping[str, Any]]] = {}
    for line, written in (pair for ledger in both for pair in ledger):
        record = json.loads(written)
        each[json.dumps(record, sort_keys=True)] = line, record
    records = tuple([line for line, _ in each.values()])
    return Gathered(
        sources=tuple(sources),
        records=records,
        written=tuple([record for _, record in each.values()]),
        said=tuple(_said(sources, ledgers, records)),
    )


def run_folders(folders: Sequence[Path]) -> list[RunFolder]:
    """The run folders at these places. Raises UsageError where one is none."""
    sources = [RunFolder(root=folder.absolute()) for folder in folders]
    for source in sources:
        if not source.ledger.exists() or not source.study.exists():
            raise UsageError(f"{shown(source.root)} is no run folder, it lacks study.yaml or ledger.jsonl")
    return sources


def unlike_keys(a: RunFolder, b: RunFolder) -> list[str]:
    """The top keys in which the studies of two run folders differ; none where it is one study."""
    first, other = (yaml.safe_load(source.study.read_text(encoding="utf-8")) for source in (a, b))
    return [key for key in {**first, **other} if first.get(key) != other.get(key)]


def _plan_of(sources: Sequence[RunFolder]) -> dict[str, Any]:
    """What is known of the plan before the first report: the profile, which the folder's name may not say."""
    return {"profile": profile_of(sources[0]), "command": ""}


def _check_same_study(sources: Sequence[RunFolder]) -> None:
    for source in sources[1:]:
        if unlike := unlike_keys(sources[0], source):
            raise UsageError(
                f"{shown(sources[0].root)} and {shown(source.root)} are of different studies, in {listed(unlike)}: "
                "run the same study in both, and merge then"
            )
        profiles = [profile_of(one) for one in (sources[0], source)]
        if profiles[0] != profiles[1]:
            raise UsageError(
                f"{shown(sources[0].root)} is of profile {profiles[0]}, {shown(source.root)} of {profiles[1]}: "
                "results of different profiles are never mixed"
            )


def _check_same_data(sources: Sequence[RunFolder], ledgers: Sequence[Sequence[Line]]) -> None:
    found: dict[tuple[str, int | None], dict[str, RunFolder]] = defaultdict(dict)
    for source, ledger in zip(sources, ledgers, strict=True):
        for record in ledger:
            if isinstance(record, FinalLine) and (mark := record.environment.get("data_fingerprint")):
                config = record.config
                found[str(config.data), config.vocab_size].setdefault(mark, source)
    for (data, _), marks in found.items():
        if len(marks) > 1:
            where = " and ".join(f"{mark} in {shown(source.root)}" for mark, source in marks.items())
            raise UsageError(
                f"{data} isn't the same data everywhere (fingerprints {where}): its losses can't be compared"
            )


def _said(sources: Sequence[RunFolder], ledgers: Sequence[Sequence[Line]], merged: Sequence[Line]) -> Iterator[str]:
    done: dict[str, set[int]] = defaultdict(set)
    resolved: dict[str, set[Resolved]] = defaultdict(set)
    devices: dict[int, set[str]] = defaultdict(set)
    for number, ledger in enumerate(ledgers):
        for record in ledger:
            if isinstance(record, FinalLine) and record.status == "ok":
                done[record.trial_id].add(number)
                resolved[record.config_id].add(record.resolved)
                devices[number].add(str(record.device))
    for number, source in enumerate(sources):
        own = sum(number in where for where in done.values())
        yield f"{shown(source.root)}: {own} trials, on {listed(sorted(devices[number])) or 'no device'}"
    total = sum(map(len, ledgers))
    if len(merged) < total:
        yield f"{total - len(merged)} lines are in several of them, and count once"
    results = Counter(record.trial_id for record in merged if isinstance(record, FinalLine))
    if again := sum(count > 1 for count in results.values()):
        yield f"{again} trials have several results: of one device type the last counts"
    if unlike := sum(len(ways) > 1 for ways in resolved.values()):
        yield f"{unlike} configs were resolved differently, and aren't pooled: the report says which"
