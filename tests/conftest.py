"""What all tests share: no user's caches are touched, one compile cache for the whole run."""

import gc
import os
import signal
import tempfile
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts what runs in the background so, and whoever is started by tests would not hear a Ctrl-C either.
    signal.signal(signal.SIGINT, signal.default_int_handler)

FREEZE, UNFREEZE = gc.freeze, gc.unfreeze
CACHES = Path(tempfile.gettempdir()) / f"sweeper-tests-{os.getuid()}"
os.environ.setdefault("SWEEPER_CACHE_DIR", str(CACHES / "data"))
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHES / "inductor"))
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported: matrices here are small
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # test processes share the cores: none spins while it waits
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def pytest_xdist_auto_num_workers():
    """Two for each core that this one may use, four at most: each holds torch and, in turn, a Ray.

    A part of their time goes into waiting for processes that they have started.
    """
    return min(4, len(os.sched_getaffinity(0)) * 2)


def pytest_xdist_make_scheduler(config, log):
    """A file's tests run in one worker, and so do all tests of a CUDA device, which isn't timed while others use it.

    A worker that has run one keeps a context there until it ends.
    """
    from xdist.scheduler import LoadFileScheduling

    class OneDevice(LoadFileScheduling):
        def _split_scope(self, nodeid):
            scope = super()._split_scope(nodeid)
            return "tests/gpu" if scope.startswith("tests/gpu/") else scope

    return OneDevice(config, log)


@pytest.fixture(autouse=True, scope="module")
def _old_objects_stay():
    """The collector looks at what a file's tests have made, not at a million older objects after every job.

    Jobs freeze and thaw for themselves what they compile: where a test looks at that, it asks for `jobs_freeze`.
    """
    UNFREEZE()
    gc.collect()
    FREEZE()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", lambda: None)
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture
def jobs_freeze(monkeypatch):
    """Jobs freeze and thaw as they do outside tests."""
    monkeypatch.setattr(gc, "freeze", FREEZE)
    monkeypatch.setattr(gc, "unfreeze", UNFREEZE)
    yield
    gc.collect()
    FREEZE()


@pytest.fixture(autouse=True)
def _own_tracking(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def pytest_ignore_collect(collection_path):
    """Tests for a CUDA device are collected only where there is one, so that nothing is called green unseen."""
    import torch

    # A folder named on the command line isn't asked about, what lies in it is.
    theirs = "gpu" in (collection_path.name, collection_path.parent.name)
    return True if theirs and not torch.cuda.is_available() else None
