"""Trials that are measured again because somebody asked for it: `sweeper run --again TRIAL_ID`.

A run that is told so begins as if these trials had no outcome yet. Their earlier lines stay in the ledger; of one
trial the latest outcome counts, there and in every report.
"""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.values.errors import UsageError
from sweeper.values.records import Record

_OUTCOMES = ("final", "rung")


def check_again(records: Sequence[Record], trial_ids: Sequence[str]) -> None:
    """Raises UsageError, for all at once, where no trial of these ids has ended."""
    ended = {str(record["trial_id"]) for record in records if record["type"] == "final"}
    unknown = [trial_id for trial_id in dict.fromkeys(trial_ids) if trial_id not in ended]
    if unknown:
        raise UsageError(
            "\n".join(f"--again {trial_id}: no trial of this id has ended in this run folder" for trial_id in unknown)
            + f"\n{len(ended)} trials have: the report names those that stand out, ledger.jsonl has all"
        )


def as_if_not_measured(records: Sequence[Record], trial_ids: Sequence[str]) -> list[Record]:
    """The records without the outcomes of these trials."""
    gone = set(trial_ids)
    return [r for r in records if not (r["type"] in _OUTCOMES and r.get("trial_id") in gone)]
