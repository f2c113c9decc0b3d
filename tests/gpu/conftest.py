"""One run of the tests of a device at a time: from its first one on, a process keeps a context there until it ends."""

import fcntl
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _device_to_itself():
    with open(Path(tempfile.gettempdir()) / "sweeper-tests-gpu.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
