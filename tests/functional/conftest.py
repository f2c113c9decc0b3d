"""What tests of whole runs share."""

import pytest
from tiny_study import write_text


@pytest.fixture
def place(tmp_path):
    """A folder with text to train on, for `tiny_study.write_study`."""
    write_text(tmp_path / "text")
    return tmp_path
