"""Peak speeds of accelerators, and the model FLOPs utilisation (MFU)."""

from collections.abc import Sequence
from typing import Any


# Dense bfloat16 FLOP/s of one JAX device, from the vendors' data sheets. The first
# entry whose name is part of `device_kind` is used, so longer names come first.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "TPU v6": 918e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v4": 275e12,
    "TPU v3": 61.5e12,  # a JAX device is one of the chip's two cores
    "TPU v2": 22.5e12,
}


def peak_flops(device: Any) -> float | None:
    """Dense bfloat16 FLOP/s of a JAX device, or None if unknown (CPUs)."""
    kind = device.device_kind
    return next((peak for name, peak in PEAK_FLOPS.items() if name in kind), None)


def mfu(flops_per_second: float, devices: Sequence[Any]) -> float | None:
    """Model FLOPs utilisation in 0..1: useful FLOP/s over the devices' peak."""
    peak = peak_flops(devices[0])
    return None if peak is None else flops_per_second / (peak * len(devices))
