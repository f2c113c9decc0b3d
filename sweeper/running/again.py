"""Trials that are measured again because somebody asked for it: `sweeper run --again TRIAL_ID`.

A run that is told so begins as if these trials had no outcome yet. Their earlier lines stay in the ledger; of one
trial the latest outcome counts, there and in every report.
"""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.ledger.typed import FinalLine, Line, RungLine
from sweeper.values.errors import UsageError


def check_again(records: Sequence[Line], trial_ids: Sequence[str]) -> None:
    """Raises UsageError, for all at once, where no trial of these ids has ended."""
    ended = {record.trial_id for record in records if isinstance(record, FinalLine)}
    unknown = [trial_id for trial_id in dict.fromkeys(trial_ids) if trial_id not in ended]
    if unknown:
        raise UsageError(
            "\n".join(f"--again {trial_id}: no trial of this id has ended in this run folder" for trial_id in unknown)
            + f"\n{len(ended)} trials have: the report names those that stand out, ledger.jsonl has all"
        )


def as_if_not_measured(records: Sequence[Line], trial_ids: Sequence[str]) -> list[Line]:
    """The records without the outcomes of these trials."""
    gone = set(trial_ids)
    return [r for r in records if not (isinstance(r, FinalLine | RungLine) and r.trial_id in gone)]
