"""What was told of each job, and what of it counts: speeds and out of memory belong to a device and a cap on memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

from sweeper.records import Final, Resolved, Speed

MAX_ATTEMPTS = 3
"""A job that failed this often, over all runs of the study, is not tried again."""


@dataclass(frozen=True, kw_only=True)
class _Told:
    """An outcome; `own` when this run asked for it."""

    event: Final | Speed
    own: bool


class Outcomes:
    """All outcomes and failures so far, of this run and earlier ones.

    `memory_bytes` is this run's cap, `branch_at` what it asks for of a training.
    """

    def __init__(self, *, memory_bytes: int | None, branch_at: Sequence[float] = ()) -> None:
        self._memory_bytes, self._branch_at = memory_bytes, frozenset(branch_at)
        self._told: dict[str, list[_Told]] = {}
        self._device: str | None = None
        self.failures: Counter[str] = Counter()
        self.device_seconds = 0.0

    def add(self, event: Final | Speed, *, own: bool) -> bool:
        """Take in an outcome; whether it came from another kind of device than the one before, so that others count."""
        device = event.environment.get("device") or self._device
        changed, self._device = device != self._device, device
        self.device_seconds += sum(event.seconds.values())
        self._told.setdefault(event.job.job_id, []).append(_Told(event=event, own=own))
        return changed

    def is_given_up(self, job_id: str) -> bool:
        """Whether a job has failed too often to be tried again."""
        return self.failures[job_id] >= MAX_ATTEMPTS

    def counting(self, job_id: str) -> list[Final | Speed]:
        """The outcomes of a job that say something about this run, the latest first."""
        return [one.event for one in reversed(self._told.get(job_id, ())) if self._counts(one)]

    def resolved(self, job_id: str) -> list[Resolved]:
        """How a training on this kind of device was resolved, in a list of one; empty where there was none."""
        finals = [one for one in self._told.get(job_id, ()) if one.event.status != "out_of_memory"]
        return [one.event.job.resolved for one in finals[-1:] if self._of_this_device(one)]

    def _counts(self, told: _Told) -> bool:
        """Whether an outcome says something about this run's kind of device and cap on memory."""
        event, cap = told.event, self._memory_bytes
        if isinstance(event, Final) and event.status != "out_of_memory":
            if event.status == "ok" and not told.own and lacks_branches(event, self._branch_at):
                return False
            peak = event.peak_memory_bytes
            return cap is None or event.job.memory_bytes == cap or peak is None or peak <= cap
        return event.job.memory_bytes == cap and self._of_this_device(told)

    def _of_this_device(self, told: _Told) -> bool:
        device = told.event.environment.get("device")
        return told.own or not device or device == self._device


def lacks_branches(final: Final, branch_at: Set[float]) -> bool:
    """Whether a trial was run without some of these branches; one that diverged is there all the same."""
    return not branch_at <= {branch.fraction for branch in final.branches}
