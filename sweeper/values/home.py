"""A home for users who have none, or none that can be written, as in containers. Stdlib only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sweeper.values.errors import UsageError


def settle_home() -> None:
    """Where neither HOME nor the system knows a home, set HOME for this process and those that it starts.

    Ray can't be imported without, nor can `~` be resolved by others. Where the home can't be written, Matplotlib is
    given another place for what it keeps there, or it would say so at each report.
    """
    if not os.path.isabs(os.path.expanduser("~")):
        os.environ["HOME"] = str(temporary_home())
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "matplotlib"
    if "MPLCONFIGDIR" not in os.environ and not may_write(settings):
        os.environ["MPLCONFIGDIR"] = str(temporary_home() / "matplotlib")


def temporary_home() -> Path:
    """This user's own folder below the temporary one, made where it can be.

    Raises UsageError where somebody else has it: what is kept there is loaded as code.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"sweeper-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return Path("/tmp") / f"sweeper-{os.getuid()}"  # who writes there will say what is wrong
    if folder.lstat().st_uid != os.getuid():
        raise UsageError(
            f"{folder} is somebody else's, and there is no home that can be written: set HOME to a folder of yours"
        )
    return folder


def may_write(folder: Path) -> bool:
    """Whether files can be made in `folder`, or, where it isn't there yet, in the nearest above it that is."""
    near = nearest(folder)
    return near.is_dir() and os.access(near, os.W_OK | os.X_OK)


def nearest(folder: Path) -> Path:
    """The folder, or where it isn't there yet, the nearest above it that is."""
    path = folder.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
