"""The long form of tests/functional/tracking/test_mlflow_away.py: a server that is away for a minute, of 120 trials."""

from pathlib import Path

import pytest
from test_mlflow_away import check_a_killed_server, folder

from sweeper.values.run_folder import RunFolder

__all__ = ["folder"]


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_server_that_is_killed_for_a_minute_has_everything_once(folder: RunFolder, tmp_path: Path) -> None:
    check_a_killed_server(folder, tmp_path, trials=120, seconds=1.5)
