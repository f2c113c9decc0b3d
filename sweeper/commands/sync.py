"""`sweeper sync`."""

from __future__ import annotations

from typing import Any

from sweeper.tracking.sync import sync as sync_folder


def sync(arguments: Any) -> None:
    """Write to MLflow what its store lacks of run folders."""
    for folder in arguments.folders:
        print(sync_folder(folder, to=arguments.to))
