"""A Ray cluster that asks for a token: it is shown the one that lies where Ray puts it, and nobody else is."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from test_address import Cluster

from sweeper.runners.ray import survey
from sweeper.values.errors import UsageError

TOKEN = "5" * 32
JOINED = """\
from sweeper.runners.ray.survey import survey
found = survey({address!r})
from sweeper.runners.ray.connection import connected
import ray
with connected(found.address):
    print(len(ray.nodes()), "node")
"""


@pytest.fixture(scope="module")
def cluster():
    home = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Ray's sockets have 107 characters
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_AUTH_MODE", "token")
        there = Cluster(home, auth="token")
    try:
        yield there
    finally:
        there.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user without a token, and without any of Ray's settings, as they are again afterwards."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def lay_token(user, token=TOKEN, *, name=".ray/auth_token"):
    (user / name).parent.mkdir(exist_ok=True)
    (user / name).write_text(token)
    return user / name


def refused(address):
    with pytest.raises(UsageError) as caught:
        survey.survey(address)
    assert "RAY_AUTH_MODE" not in os.environ or os.environ["RAY_AUTH_MODE"] == "disabled"
    return str(caught.value)


def test_the_token_is_taken_from_where_ray_puts_it(cluster, user):
    lay_token(user)
    ran = subprocess.run(
        [sys.executable, "-c", JOINED.format(address=cluster.address)],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.stdout == "1 node\n", ran.stderr


def test_the_token_is_taken_from_where_the_user_says_it_is(cluster, user, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(lay_token(user, name="token")))
    assert survey.survey(cluster.address).nodes
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_without_a_token_or_with_another_one_it_is_said_what_to_do(cluster, user, monkeypatch):
    assert "lets in only who has its token" in refused(cluster.address)
    lay_token(user, "6" * 32)
    assert "lets in only who has its token" in refused(cluster.address)
    lay_token(user)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "lets in only who has its token" in refused(cluster.address)


def test_a_stranger_is_not_shown_the_token(user, monkeypatch):
    lay_token(user)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: {"10.0.0.5:6379"})
    assert not survey._shows_token("10.0.0.6:6379")
    assert "RAY_AUTH_MODE" not in os.environ
