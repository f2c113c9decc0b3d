"""The helper process that tries the compiler while Ray starts."""

import os

import pytest

from sweeper.runners.device.compile_ahead import compiler_tried_ahead


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    return folder


@pytest.mark.compiler
def test_an_empty_cache_gets_what_the_first_compilation_needs_and_a_filled_one_is_left_alone(cache):
    with compiler_tried_ahead(wanted=True) as helper:
        assert helper.wait() == 0
    assert list(cache.rglob("*.so")), "no library was built"
    with compiler_tried_ahead(wanted=True) as helper:
        assert helper is None


def test_it_ends_with_what_it_is_for(cache):
    with compiler_tried_ahead(wanted=True) as helper:
        os.kill(helper.pid, 0)
    assert helper.returncode is not None


def test_nothing_is_tried_where_nothing_is_compiled(cache):
    with compiler_tried_ahead(wanted=False) as helper:
        assert helper is None
    assert not cache.exists()
