"""`sweeper ui`."""

from __future__ import annotations

from typing import Any

from sweeper.tracking.tracker import serve


def ui(arguments: Any) -> int:
    """MLflow's pages on the results."""
    return serve(arguments.out, port=arguments.port)
