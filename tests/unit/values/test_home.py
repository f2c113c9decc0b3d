"""Users without a home that can be written: a uid that the system doesn't know, a home in the way."""

import os
import pwd

import pytest

from sweeper.runners.data.cache import cache_dir
from sweeper.values import home
from sweeper.values.errors import UsageError


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """The temporary folder, for a user who has set nothing."""
    for name in ("SWEEPER_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "to be put back after what the test sets")
        monkeypatch.delenv(name)
    monkeypatch.setattr(home.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def homeless(monkeypatch):
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_uid_that_nobody_knows_has_a_cache_of_its_own(temporary, homeless):
    own = temporary / f"sweeper-{os.getuid()}"
    assert cache_dir() == own / ".cache" / "sweeper"
    assert own.stat().st_mode & 0o077 == 0, "kernels are loaded from it"


def test_a_tilde_without_a_home_stays_as_it_is(temporary, homeless, monkeypatch):
    monkeypatch.setenv("SWEEPER_CACHE_DIR", "~/cache")
    assert cache_dir().name == "cache"


def test_a_home_that_cant_be_written_is_gone_round(temporary, monkeypatch):
    (temporary / "file").write_text("no folder can be made below this")
    monkeypatch.setenv("HOME", str(temporary / "file"))
    assert cache_dir() == temporary / f"sweeper-{os.getuid()}" / ".cache" / "sweeper"


def test_somebody_elses_folder_is_refused(temporary, homeless, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # what is made belongs to who runs this test
    with pytest.raises(UsageError, match=r"sweeper-54321 is somebody else's.*: set HOME to a folder of yours"):
        cache_dir()


def test_a_home_is_named_where_there_is_none(temporary, homeless):
    home.settle_home()
    assert os.environ["HOME"] == str(temporary / f"sweeper-{os.getuid()}")
    assert "MPLCONFIGDIR" not in os.environ


def test_a_home_that_is_there_stays(temporary, monkeypatch):
    (temporary / "file").write_text("no folder can be made below this")
    monkeypatch.setenv("HOME", str(temporary / "file"))
    home.settle_home()
    assert os.environ["HOME"] == str(temporary / "file")
    assert os.environ["MPLCONFIGDIR"] == str(temporary / f"sweeper-{os.getuid()}" / "matplotlib")


def test_a_users_own_place_for_matplotlib_stays(temporary, homeless, monkeypatch):
    monkeypatch.setenv("MPLCONFIGDIR", "/nowhere")
    home.settle_home()
    assert os.environ["MPLCONFIGDIR"] == "/nowhere"
