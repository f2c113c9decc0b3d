"""What was told of each job, and what of it counts: speeds and out of memory belong to a device and a cap on memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

from sweeper.values.events import Event, Final, Speed, memory_needed
from sweeper.values.records import Resolved

Outcome = float | Literal["out_of_memory", "unavailable"]
"""Of a probe: its tokens/s, or why there are none; unavailable is what failed for good."""

MAX_ATTEMPTS = 3
"""A job that failed this often, over all runs of the study, is not tried again."""


@dataclass(frozen=True, kw_only=True)
class _Told:
    """An outcome; `own` when this run asked for it."""

    event: Final | Speed
    own: bool


class Outcomes:
    """All outcomes and failures so far, of this run and earlier ones.

    `memory_bytes` is this run's cap, `branch_at` what it asks for of a training; `any_device`: outcomes count wherever
    they come from.
    """

    def __init__(self, *, memory_bytes: int | None, branch_at: Sequence[float] = (), any_device: bool = False) -> None:
        self._memory_bytes, self._branch_at, self._any_device = memory_bytes, frozenset(branch_at), any_device
        self._told: dict[str, list[_Told]] = {}
        self._device: str | None = None
        self.failures: Counter[str] = Counter()
        self.device_seconds = 0.0

    def add(self, event: Final | Speed, *, own: bool) -> bool:
        """Take in an outcome; whether it came from another device type than the one before, so that others count.

        One from beside the search says nothing of the kind that the search goes by.
        """
        device = event.environment.get("device") or self._device
        if event.job.beside and event.job.kind == "train":
            device = self._device
        changed, self._device = device != self._device, device
        self.count_seconds(event)
        self._told.setdefault(event.job.job_id, []).append(_Told(event=event, own=own))
        return changed

    def count_seconds(self, event: Event) -> None:
        """Add what a job has taken to the hours of the study; failed attempts leave no seconds."""
        if isinstance(event, Final | Speed):
            self.device_seconds += sum(event.seconds.values())

    def is_given_up(self, job_id: str) -> bool:
        """Whether a job has failed too often to be tried again."""
        return self.failures[job_id] >= MAX_ATTEMPTS

    def counting(self, job_id: str) -> list[Final | Speed]:
        """The outcomes of a job that say something about this run, the latest first."""
        return [one.event for one in reversed(self._told.get(job_id, ())) if self._counts(one)]

    def of_probe(self, job_id: str) -> Outcome | None:
        """What measuring a speed has come to, None as long as it hasn't; without a figure it is as good as none."""
        if not (told := self.counting(job_id)):
            return "unavailable" if self.is_given_up(job_id) else None
        if told[0].status == "out_of_memory":
            return "out_of_memory"
        return told[0].speed.tokens_per_s if told[0].status == "ok" and told[0].speed else "unavailable"

    def as_here(self, final: Final) -> Final:
        """A trial from beside the search, with the speed and the memory that its probe had on the search's device."""
        if not final.job.beside:
            return final
        probe = next(iter(self.counting(final.job.probe_id)), None)
        if probe is None:
            return replace(final, speed=None, peak_memory_bytes=None, beside_memory_bytes=None)
        return replace(
            final,
            speed=probe.speed,
            peak_memory_bytes=probe.peak_memory_bytes,
            beside_memory_bytes=probe.beside_memory_bytes,
        )

    def resolved(self, job_id: str) -> list[Resolved]:
        """How a training on this device type was resolved, in a list of one; empty where there was none."""
        finals = [one for one in self._told.get(job_id, ()) if one.event.status != "out_of_memory"]
        return [one.event.job.resolved for one in finals[-1:] if self._of_this_device(one)]

    def _counts(self, told: _Told) -> bool:
        """Whether an outcome says something about this run's device type and cap on memory."""
        event, cap = told.event, self._memory_bytes
        if isinstance(event, Final) and event.status != "out_of_memory":
            if event.status == "ok" and not told.own and lacks_branches(event, self._branch_at):
                return False
            needed = memory_needed(event.peak_memory_bytes, event.beside_memory_bytes)
            return cap is None or event.job.memory_bytes == cap or needed is None or needed <= cap
        return event.job.memory_bytes == cap and self._of_this_device(told)

    def _of_this_device(self, told: _Told) -> bool:
        device = told.event.environment.get("device")
        if told.event.job.beside and told.event.job.kind == "train":  # resolved by the search; its memory wasn't its
            return isinstance(told.event, Final) and told.event.status != "out_of_memory"
        return told.own or self._any_device or not device or device == self._device


def precision_used(environment: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What a job computed in: it may be FP8 of other layers, or emulated, elsewhere. None where that isn't recorded."""
    report = environment.get("precision")
    names = ("name", "backend", "layer_filter", "converted", "total", "emulated")
    return None if report is None else tuple([report.get(name) for name in names])


def lacks_branches(final: Final, branch_at: Set[float]) -> bool:
    """Whether a trial was run without some of these branches; one that diverged is there all the same."""
    return not branch_at <= {branch.fraction for branch in final.branches}
