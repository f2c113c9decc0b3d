"""A Ray of our own where the home can't be written, to which Ray would write its token."""

import os

import pytest

from sweeper.runners.ray import connection


@pytest.fixture
def home(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_where_the_home_can_be_written_ray_does_as_it_does(home):
    assert connection._own_token() == {}


def test_where_it_cant_ray_is_given_a_token_of_its_own(home):
    (home / ".ray").write_text("no folder can be made here")
    first, second = connection._own_token(), connection._own_token()
    assert set(first) == {"RAY_AUTH_TOKEN"}
    assert len(first["RAY_AUTH_TOKEN"]) == 64
    assert first != second


def test_a_token_that_is_named_stays(home, monkeypatch):
    (home / ".ray").write_text("no folder can be made here")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", os.devnull)
    assert connection._own_token() == {}
