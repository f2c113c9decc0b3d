"""Asynchronous successive halving (1810.05934), by stopping: of what reaches a milestone, the best third goes on.

Milestones are fractions of a trial's own tokens: the grace, and 3, 9, … times it. Compared are training losses of
trials of equally many tokens, so at equal tokens and at the same place of the schedule; none is stopped before there
are three to compare. A curve's middle hasn't cooled down: that a shape is behind there doesn't prove that it would be
so at the end, which is why nothing is stopped unless a study asks for it.
"""

from __future__ import annotations

import math

from sweeper.values.events import Continue, Rung, Stop

KEPT_OF = 3


class SuccessiveHalving:
    """Decides by rungs of first seeds; of a trial that is run again, the latest loss at a milestone counts.

    A config that went on with its first seed is trained to the end with the others, to be compared in pairs.
    """

    def __init__(self, *, grace: float) -> None:
        self._milestones = [grace * KEPT_OF**power for power in range(8) if grace * KEPT_OF**power < 1]
        self._losses: dict[tuple[int, int], dict[str, float]] = {}
        self._passed: dict[str, int] = {}

    def tell(self, rung: Rung) -> Continue | Stop:
        """Take in a loss; Stop where it isn't among the best third at a milestone that it has just reached."""
        job = rung.job
        whole = job.config.tokens_of(job.steps)
        if job.kind != "train" or job.seed != 0 or whole is None:
            return Continue()
        reached = sum(rung.tokens >= milestone * whole for milestone in self._milestones)
        if reached == self._passed.get(job.trial_id, 0):
            return Continue()
        self._passed[job.trial_id] = reached
        if not reached:
            return Continue()
        losses = self._losses.setdefault((reached, whole), {})
        losses[job.trial_id] = rung.loss if math.isfinite(rung.loss) else math.inf
        better = sum(loss < losses[job.trial_id] for loss in losses.values())
        goes_on = len(losses) < KEPT_OF or better < math.ceil(len(losses) / KEPT_OF)
        return Continue() if goes_on else Stop()
