"""Tests here need no Ray, and a compiler only where they say so: `make quick` runs the others."""

import sys

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _compiles_only_where_marked(request):
    before = _seen()
    yield
    if request.node.get_closest_marker("compiler") is None:
        assert _seen() <= before, "this test compiles: mark it `compiler`"
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), "this test starts Ray: it belongs in tests/functional"


def _seen() -> int:
    """How many functions Dynamo has compiled in this process since it was last reset."""
    frames = sys.modules.get("torch._dynamo.convert_frame")
    return len(frames.input_codes.seen) if frames else 0
