"""A small coordinate check: under CompleteP a few steps change activations alike at every width and depth.

`benchmarks/coordinate_check.py` is the large one, with more sizes and seeds; its code is what runs here.
"""

from dataclasses import replace

import pytest
import torch

from benchmarks.coordinate_check import DEPTH, WIDTH, check, exponent, summary

WIDTHS = replace(WIDTH, sizes=(64, 128, 256))
DEPTHS = replace(DEPTH, sizes=(2, 4, 8, 16))
BAR = 0.05


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def slopes(scan, parametrization, seeds):
    found = check(scan, parametrization, seeds)
    return [found[quantity]["exponent"]["mean"] for quantity in ("residual stream", "logits")]


@pytest.mark.parametrize(("scan", "seeds"), [(WIDTHS, 8), (DEPTHS, 5)], ids=["width", "depth"])
def test_completep_keeps_the_change_of_activations(scan, seeds):
    residual, logits = slopes(scan, "completep", seeds)
    assert abs(residual) <= BAR
    # Logits begin with a random part that shrinks as 1 ÷ √width; by the last step they have lost most of it.
    assert abs(logits) <= 3 * BAR


@pytest.mark.parametrize("scan", [WIDTHS, DEPTHS], ids=["width", "depth"])
def test_the_standard_parametrization_does_not(scan):
    residual, _ = slopes(scan, "standard", 2)
    assert residual > 0.5


def test_an_exponent_is_that_of_the_power_law():
    assert exponent((2, 4, 8, 16), [3 * size**-0.7 for size in (2, 4, 8, 16)]) == pytest.approx(-0.7)


def test_the_interval_over_seeds_is_students():
    # Mean 2, standard deviation 1, t(0.975; 2) = 4.30265.
    found = summary([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert [found["low"], found["high"]] == pytest.approx([2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5], abs=1e-3)
