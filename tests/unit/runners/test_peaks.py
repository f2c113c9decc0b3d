"""Peaks belong to whole device names, and none is a figure with sparsity."""

import pytest

from sweeper.runners.device.peaks import PEAKS, bf16_peak


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-40GB", 312.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71.0),
        ("NVIDIA B200", 2250.0),
    ],
)
def test_a_known_device_has_its_dense_peak_with_a_source(name, tflops):
    peak = bf16_peak(name)
    assert peak.tflops == tflops
    assert "https://" in peak.source


@pytest.mark.parametrize(
    "name",
    [
        "AMD EPYC, 2 threads",
        "Tesla V100-SXM2-16GB",  # computes no bf16
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",  # a slice
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "",
    ],
)
def test_an_unknown_device_has_none(name):
    assert bf16_peak(name) is None


def test_tensor_core_rates_follow_from_the_chips():
    """Multiprocessors × boost GHz × FLOPs a clock and multiprocessor, from the architecture whitepapers."""
    chips = {
        "NVIDIA A100-SXM4-80GB": (108, 1.410, 2048),
        "NVIDIA H100 80GB HBM3": (132, 1.830, 4096),
        "NVIDIA H100 PCIe": (114, 1.620, 4096),
        "NVIDIA L40S": (142, 2.490, 1024),
        "NVIDIA GeForce RTX 4090": (128, 2.520, 512),
        "NVIDIA GeForce RTX 3090": (82, 1.695, 512),
    }
    for name, (multiprocessors, ghz, flops) in chips.items():
        assert bf16_peak(name).tflops == pytest.approx(multiprocessors * ghz * flops / 1000, rel=0.02), name
    assert len(PEAKS) > len(chips)
