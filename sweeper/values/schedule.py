"""A training's learning rate over its steps, the branches that leave it to cool down earlier, and what these measured.

Warm-up–stable–decay (2405.18392, linear decay). A branch at a fraction b of a training of S steps has n = round(b·S) of
them: it leaves the training, its trunk, at n − round(cooldown·n) steps and cools down over the rest. It's thus the
training of n steps whose warm-up takes as many steps as the trunk's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Of `steps` steps the first `rising` warm up and the last `falling` cool down."""

    steps: int
    rising: int
    falling: int

    @classmethod
    def of(cls, steps: int, *, warmup: float, cooldown: float) -> Schedule:
        """`warmup` and `cooldown` are fractions of all steps."""
        return cls(steps=steps, rising=max(1, round(warmup * steps)), falling=round(cooldown * steps))

    def factor(self, step: int) -> float:
        """The learning rate of step `step` (from 0), as a fraction of the peak.

        It falls along a line that reaches 0 with the step after the last; both ends always fit, however few the steps.
        """
        return min(1.0, (step + 1) / self.rising, (self.steps - step) / (self.falling + 1))

    @property
    def stable_until(self) -> int:
        """After so many steps it begins to cool down; a branch leaves its trunk there."""
        return self.steps - self.falling

    def branch(self, fraction: float, *, cooldown: float) -> Schedule:
        """That of a branch at `fraction` of the steps, its warm-up in steps being this one's."""
        steps = max(1, round(fraction * self.steps))
        return Schedule(steps=steps, rising=self.rising, falling=round(cooldown * steps))


@dataclass(frozen=True, kw_only=True)
class Branch:
    """What a branch at `fraction` of a trial's tokens came to: the cooled loss of a training of `tokens` tokens.

    `val_loss` in nats per token and `val_bpb` in bits per byte, over the trial's own held-out tokens; None where the
    branch diverged or couldn't be taken, which a note of the trial tells. `train_seconds`: of the steps of such a
    training, those that the branch shares with the trial included.
    """

    fraction: float
    tokens: int
    val_loss: float | None = None
    val_bpb: float | None = None
    train_seconds: float | None = None
