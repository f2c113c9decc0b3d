"""`sweeper plan`."""

from __future__ import annotations

import json
import sys
from typing import Any

from sweeper.commands.opening import opened
from sweeper.commands.terminal import console
from sweeper.planning.plan import plan_csv, plan_json


def plan(arguments: Any) -> None:
    """The lattice: what is feasible, what was dropped and why, what it will cost."""
    run = opened(arguments)
    if arguments.png is not None:
        from sweeper.report.lattice_figure import lattice_png

        lattice_png(run.plan, arguments.png)
    if arguments.json:
        print(json.dumps(plan_json(run.plan), indent=2))
    elif arguments.csv:
        plan_csv(run.plan, sys.stdout)
    else:
        from sweeper.report.tables import plan_table
        from sweeper.runners.data.inventory import data_splits

        console().print(plan_table(plan_json(run.plan)), *data_splits(run.plan.data_path), sep="\n")
