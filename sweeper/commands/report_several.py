"""Several run folders reported together: as one study where they are of one, and side by side in any case."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.commands.opening import opened
from sweeper.compare.comparison import Comparison, Side, compare, comparison_json
from sweeper.compare.joint_report import JointReport
from sweeper.ledger.file import read
from sweeper.ledger.merge import gathered, run_folders, unlike_keys
from sweeper.report.frontier_json import frontier_json
from sweeper.running.study_run import StudyRun
from sweeper.values.errors import UsageError
from sweeper.values.labels import listed
from sweeper.values.paths import command_of, results_in, shown
from sweeper.values.run_folder import RunFolder, write_atomically

if TYPE_CHECKING:
    from rich.console import Console

MOST_VALUE = 40
"""Characters of a study's value that are shown; longer ones are only named."""


def joint_json(found: JointReport) -> dict[str, Any]:
    """What `--json` prints."""
    frontier = None if found.merged is None else frontier_json(found.merged)
    return comparison_json(found.comparison or Comparison(sides=(), pairs=()), frontier=frontier, notes=found.notes)


def report_several(arguments: Namespace, console: Console) -> None:
    """`sweeper report A B …`: print what the folders hold together, and with --out write it."""
    from sweeper.report.comparison import joint_text

    folders, out = (arguments.study, *arguments.more), arguments.out
    check(folders, out)
    runs = [
        opened(Namespace(**vars(arguments) | {"study": folder, "out": None}), takes_folder=True) for folder in folders
    ]
    found = joint_report(runs)
    if out is not None:
        with results_in(out.absolute()):
            write(found, runs[0], RunFolder(root=out.absolute()), command=arguments.written)
    if arguments.json:
        print(json.dumps(joint_json(found), indent=2, allow_nan=False))
    else:
        console.print(joint_text(found, written=out and shown(RunFolder(root=out.absolute()).report)))


def check(folders: Sequence[Path], out: Path | None) -> None:
    """Raises UsageError where a folder is no run folder or named twice, and where `out` is a run folder."""
    sources = run_folders(folders)
    places = [source.root.resolve() for source in sources]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UsageError(f"{shown(sources[number].root)} is named twice: name each run folder once")
    if out is not None and (RunFolder(root=out).ledger.exists() or RunFolder(root=out).study.exists()):
        raise UsageError(f"{out} is a run folder, with a report of its own: name another folder with --out")


def joint_report(runs: Sequence[StudyRun]) -> JointReport:
    """Merge the runs where they are of one study and profile, and compare the first with each of the others.

    Raises UsageError where one study was measured on different data of the same name, where nothing was measured at
    all, and where different studies have no config with results in both.
    """
    folders = tuple([shown(run.folder.root) for run in runs])
    ledgers = [read(run.folder.ledger) for run in runs]
    of_each = [run.frontier(ledger) for run, ledger in zip(runs, ledgers, strict=True)]
    sides = [
        side
        for run, ledger, found in zip(runs, ledgers, of_each, strict=True)
        for side in run.sides(ledger, found, folder=shown(run.folder.root))
    ]
    notes = [f"{name} has no results yet." for name in _without(runs, sides)]
    if not (others := [run for run in runs[1:] if not _same_study(runs[0], run)]):
        together = gathered([run.folder.root for run in runs])
        if not together.records:
            raise UsageError(f"{listed([shown(run.folder.root) for run in runs])}: nothing was run yet")
        merged = runs[0].frontier(together.records)
        comparison = compare(sides) if len(sides) > 1 else None
        said = (*together.said, *notes)
        return JointReport(folders=folders, merged=merged, records=together.records, comparison=comparison, notes=said)
    comparison = compare(sides) if len(sides) > 1 else None
    if comparison is None or not any(pair.rows for pair in comparison.pairs):
        raise UsageError(_nothing_shared(runs, notes))
    differ = [_how_they_differ(runs[0], other) for other in others]
    return JointReport(folders=folders, merged=None, records=None, comparison=comparison, notes=(*differ, *notes))


def write(found: JointReport, first: StudyRun, folder: RunFolder, *, command: str) -> None:
    """Write the report into `folder`: its files as of a study where it is one, that of `first`; comparison.json too."""
    from sweeper.report.page.html import write_comparison

    if found.records is not None:
        commands = "\n".join(filter(None, (command_of(first.folder), command)))
        replace(first, folder=folder, command=commands).write_report(found.records, found.comparison)
    elif found.comparison is not None:
        write_comparison(folder, found.comparison, notes=found.notes, command=command)
    write_atomically(folder.comparison, json.dumps(joint_json(found), indent=1, allow_nan=False) + "\n")


def _without(runs: Sequence[StudyRun], sides: Sequence[Side]) -> list[str]:
    names = [shown(run.folder.root) for run in runs]
    return [name for name in names if name not in {side.folder for side in sides}]


def _same_study(a: StudyRun, b: StudyRun) -> bool:
    return a.loaded.profile == b.loaded.profile and not unlike_keys(a.folder, b.folder)


def _how_they_differ(a: StudyRun, b: StudyRun) -> str:
    names = [shown(run.folder.root) for run in (a, b)]
    return f"{names[1]} is another study than {names[0]}, so nothing is merged: they differ in {_differing(a, b)}."


def _differing(a: StudyRun, b: StudyRun) -> str:
    """What differs in two studies: "trial.seeds (3 and 5) and axes.n_layers ([1, 2] and [1, 3])"."""
    first, other = (dict(_leaves(run.loaded.resolved)) | {"profile": run.loaded.profile} for run in (a, b))
    keys = [key for key in {**first, **other} if first.get(key) != other.get(key)]
    telling = [key for key in keys if key not in ("name", "question")]
    return listed([_both_values(key, first, other) for key in telling]) if telling else f"{listed(keys)} alone"


def _leaves(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _both_values(key: str, first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    values = [str(one[key]) if key in one else "not set" for one in (first, other)]
    return f"{key} ({' and '.join(values)})" if max(map(len, values)) <= MOST_VALUE else key


def _nothing_shared(runs: Sequence[StudyRun], notes: Sequence[str]) -> str:
    """Why different studies have nothing to be compared, and what would be."""
    names = [shown(run.folder.root) for run in runs]
    own, others = _configs(runs[0]), [_configs(run) for run in runs[1:]]
    if planned := max(len(set(own) & set(other)) for other in others):
        return (
            f"{listed(names)} have no config with results in both: {planned} "
            f"{'are' if planned > 1 else 'is'} planned in both, and can be compared once both have run. "
            f"{' '.join(notes)}"
        ).strip()
    shapes = max(len(set(own.values()) & set(other.values())) for other in others)
    shared = f"{shapes} shapes are in both, with other recipes" if shapes else "no shape is in both"
    differ = "; ".join(_differing(runs[0], run) for run in runs[1:])
    return (
        f"{listed(names)} are different studies that share no config, so nothing can be compared: {shared}.\n"
        f"They differ in {differ}.\n"
        "Configs of the same shape and the same recipe (data, tokens, sequence length, precision, optimizer) are "
        "comparable, whatever the studies: let the studies share some."
    )


def _configs(run: StudyRun) -> dict[str, str]:
    """Of the configs that a study may try, the shape by config id."""
    return {planned.config.config_id: str(planned.config.shape) for planned in run.search.candidates}
