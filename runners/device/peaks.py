"""Dense bf16 peaks of devices, for the model FLOPs utilisation (2204.02311). A device not listed has none.

Makers print the figure with 2:4 sparsity large, which doubles it; nothing here is sparse, so where a source gives that
one alone, half of it stands here. Consumer cards are listed with fp32 accumulation, which is what torch's bf16 matmuls
use. Peaks are at the boost clock, so no device quite reaches its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Dense bf16 TFLOP/s of one device type, and the document that says so."""

    tflops: float
    source: str


_PAGES = "https://www.nvidia.com/en-us/data-center"
_A100 = (
    "NVIDIA A100 datasheet, https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/"
    "nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
)
_H100 = "NVIDIA H100 datasheet, https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet, halved"
_ADA = (
    "NVIDIA Ada GPU architecture whitepaper, appendix A, https://images.nvidia.com/aem-dam/Solutions/Data-Center/l4/"
    "nvidia-ada-gpu-architecture-whitepaper-v2.1.pdf"
)
_GA102 = (
    "NVIDIA Ampere GA102 whitepaper, appendix A, "
    "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
)

PEAKS = {
    r"NVIDIA A100-(SXM4|PCIE)-\d+GB|NVIDIA A100 80GB PCIe": Peak(tflops=312.0, source=_A100),
    r"NVIDIA A30": Peak(tflops=165.0, source=f"NVIDIA A30 datasheet, {_PAGES}/products/a30-gpu/"),
    r"NVIDIA H100 80GB HBM3": Peak(tflops=989.4, source=_H100),
    r"NVIDIA H100 PCIe": Peak(tflops=756.0, source=_H100),
    r"NVIDIA H100 NVL": Peak(tflops=835.5, source=_H100),
    r"NVIDIA H200": Peak(tflops=989.4, source=f"NVIDIA H200 datasheet, {_PAGES}/h200/, halved"),
    r"NVIDIA H200 NVL": Peak(tflops=835.5, source=f"NVIDIA H200 datasheet, {_PAGES}/h200/, halved"),
    r"NVIDIA B200": Peak(tflops=2250.0, source=f"NVIDIA HGX B200 specifications, {_PAGES}/hgx/, an eighth, halved"),
    r"NVIDIA L4": Peak(tflops=121.0, source=f"NVIDIA L4 datasheet, {_PAGES}/l4/, halved"),
    r"NVIDIA L40": Peak(tflops=181.05, source=f"NVIDIA L40 datasheet, {_PAGES}/l40/"),
    r"NVIDIA L40S": Peak(tflops=362.05, source=f"NVIDIA L40S datasheet, {_PAGES}/l40s/"),
    r"NVIDIA GeForce RTX 4090": Peak(tflops=165.2, source=_ADA),
    r"NVIDIA GeForce RTX 3090": Peak(tflops=71.0, source=_GA102),
}
"""By the device's whole name, as torch.cuda.get_device_name gives it: a slice of a device (MIG) is another device."""


def bf16_peak(device_name: str) -> Peak | None:
    """The peak of a device, None where it isn't known."""
    return next((peak for pattern, peak in PEAKS.items() if re.fullmatch(pattern, device_name)), None)
