"""Tests on one device take turns, in whatever process: speed is only measured on a device that isn't shared."""

import fcntl
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _device_to_itself():
    with open(Path(tempfile.gettempdir()) / "sweeper-tests-gpu.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
