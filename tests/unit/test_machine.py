"""What a job is given, on machines that are made up."""

import pytest

from sweeper import machine
from sweeper.errors import UsageError
from sweeper.machine import job_gpus, job_resources


@pytest.fixture
def devices(monkeypatch):
    def there_are(*, gpus, cores):
        monkeypatch.setattr(machine, "gpu_count", lambda: gpus)
        monkeypatch.setattr(machine, "cpu_count", lambda: cores)

    return there_are


@pytest.mark.parametrize(
    ("gpus", "cores", "asked", "given"),
    [
        (0, 8, (None, None), (0, 8)),
        (2, 8, (None, None), (1, 4)),
        (2, 8, (0, None), (0, 8)),
        (2, 1, (1, None), (1, 1)),
        (2, 8, (None, 3), (1, 3)),
    ],
)
def test_what_a_study_leaves_open_is_the_machines(devices, gpus, cores, asked, given):
    devices(gpus=gpus, cores=cores)
    assert job_resources(gpus=asked[0], cpus=asked[1]) == given


def test_a_gpu_that_is_not_there_can_be_planned_but_not_given(devices):
    devices(gpus=0, cores=2)
    assert job_gpus(1) == 1
    with pytest.raises(UsageError, match="a job wants 1 GPU, this machine has 0"):
        job_resources(gpus=1, cpus=None)
    with pytest.raises(UsageError, match="a job wants 3 cores, this machine has 2"):
        job_resources(gpus=0, cpus=3)
