"""Compression: quantisation (fake and in integers), observers, calibration."""

from vit_jax_tricks.compress import clipping, observers
from vit_jax_tricks.compress.fake_quant import (
    fake_quant,
    learned_fake_quant,
    learned_step,
)
from vit_jax_tricks.compress.grids import Grid, grid
from vit_jax_tricks.compress.integer import (
    dequantize,
    int8_linear,
    integer_dot,
    quantize,
)
from vit_jax_tricks.compress.ranges import (
    Range,
    affine_range,
    power_of_two,
    symmetric_range,
)


__all__ = [
    "Grid",
    "Range",
    "affine_range",
    "clipping",
    "dequantize",
    "fake_quant",
    "grid",
    "int8_linear",
    "integer_dot",
    "learned_fake_quant",
    "learned_step",
    "observers",
    "power_of_two",
    "quantize",
    "symmetric_range",
]
