"""`sweeper recommend`."""

from __future__ import annotations

import json
from typing import Any

from sweeper.commands.opening import measured_records, opened
from sweeper.commands.terminal import console
from sweeper.recommend.choices import recommendation_json
from sweeper.recommend.limits import limits_of
from sweeper.recommend.recommendation import recommend as recommendation
from sweeper.report.recommendation import recommendation_text


def recommend(arguments: Any) -> None:
    """What to train, for four uses, under limits."""
    limits = limits_of(vars(arguments))
    run = opened(arguments, takes_folder=True)
    records = measured_records(run)
    found = recommendation(
        run.loaded.study,
        run.plan,
        run.frontier(records),
        records,
        limits,
        device=arguments.device,
        extrapolate=arguments.extrapolate,
    )
    if arguments.json:
        print(json.dumps(recommendation_json(found), indent=2))
    else:
        console().print(recommendation_text(found))
