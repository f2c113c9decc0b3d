"""The reference config: one config of a study that every device measures again, so that its drift is known."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.planning.plan import PlannedConfig
from sweeper.planning.resolving import JobSettings
from sweeper.values.records import Job

STEPS = 1000
"""In place of minutes; the learning rate follows them, and nothing that is measured."""


def reference_job(candidates: Sequence[PlannedConfig], settings: JobSettings) -> Job | None:
    """The speed job of the reference config, by declaration alone; None where there is nothing to compare.

    It is the config of the median parameter count (of an even number the lower median; of equal counts the first), at
    its smallest micro-batch, which has memory wherever a larger one has, and in bf16 where the precision is auto. Where
    its length is in minutes it gets steps instead, of which its speed doesn't depend: it's no probe that has to size a
    training, and such a one takes longer.
    """
    points = sum(1 if one.choose == "fastest" else len(one.executions) for one in candidates)
    if points < 2:
        return None
    median = sorted(one.params.total for one in candidates)[(len(candidates) - 1) // 2]
    chosen = next(one for one in candidates if one.params.total == median)
    config = chosen.config.at_precision("bf16") if chosen.config.precision == "auto" else chosen.config
    if config.minutes is not None:
        config = config.with_recipe(minutes=None, steps=STEPS)
    execution = min(chosen.executions, key=lambda execution: execution.batch_size)
    return Job(kind="speed", config=config, execution=execution, **vars(settings))
