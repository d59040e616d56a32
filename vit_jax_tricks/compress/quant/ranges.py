"""Converts a range of values to the step and zero point of a grid."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.quant.grids import Grid
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float, Num


EPS = float(jnp.finfo(jnp.float32).eps)  # smallest step, as in torch's observers


class Range(NamedTuple):
    """Quantisation parameters of one place; `zero_point` None means 0."""

    scale: Float[Array, "..."]
    zero_point: Num[Array, "..."] | None = None


@checked
def next_power_of_two(scale: Float[Array, "..."]) -> Float[Array, "..."]:
    """The smallest power of two that is at least the scale: a shift, not a product.

    Exact: only exponents change, and the range never narrows.
    """
    mantissa, exponent = jnp.frexp(scale)
    exact = (mantissa == 0.5).astype(exponent.dtype)
    return jnp.ldexp(jnp.ones_like(scale), exponent - exact)


def _quotient(x: Array, divisor: float | int) -> Array:
    """x / divisor, correctly rounded: XLA would multiply by 1 / divisor instead."""
    return x / jax.lax.optimization_barrier(jnp.full_like(x, divisor))


@checked
def affine_range(
    low: Float[Array, "*c"] | float,
    high: Float[Array, "*c"] | float,
    *,
    grid: Grid,
    power_of_two: bool = False,
) -> Range:
    """Spans the whole grid over [low, high], with 0 exactly on a grid point.

    s = (max(high, 0) - min(low, 0)) / (grid.high - grid.low), at least 2^-23; z =
    clip(grid.low - round(min(low, 0) / s)). `power_of_two` rounds s up to the next
    power of two.

    Raises: UserError for an 8-bit float.
    Equivalent to torch's observers with per_tensor_affine (tested).
    """
    if grid.float8:
        raise UserError(f"{grid.float8} has no zero point: make the range symmetric.")
    low, high = jnp.minimum(low, 0), jnp.maximum(high, 0)
    scale = jnp.maximum(_quotient(high - low, grid.high - grid.low), EPS)
    scale = next_power_of_two(scale) if power_of_two else scale
    zero_point = jnp.clip(grid.low - jnp.round(low / scale), grid.low, grid.high)
    return Range(scale, zero_point.astype(jnp.int32))


@checked
def symmetric_range(
    low: Float[Array, "*c"] | float,
    high: Float[Array, "*c"] | float,
    *,
    grid: Grid,
    half_range: bool = False,
    power_of_two: bool = False,
) -> Range:
    """Uses the same step on both sides of 0: s = max(-low, high, 0) / grid.high.

    The largest value is then a grid point and the zero point is 0 (TensorRT and ONNX
    Runtime). With `half_range` the divisor is (grid.high - grid.low) / 2, 127.5 for
    int8, as in torch's observers and Qwix. On an unsigned grid, the zero point with
    `half_range` is the middle as in torch, 128 for uint8 and high // 2 for others;
    without `half_range` it is 0, for values that are never negative. The step is at
    least 2^-23; `power_of_two` rounds it up to the next power of two.

    Equivalent to torch's observers with per_tensor_symmetric (tested).
    """
    largest = jnp.maximum(jnp.maximum(-low, high), 0)
    divisor = (grid.high - grid.low) / 2 if half_range else grid.high
    scale = jnp.maximum(_quotient(largest, divisor), EPS)
    scale = next_power_of_two(scale) if power_of_two else scale
    if not half_range or grid.low:
        return Range(scale)
    middle = 128 if grid.high == 255 else int(grid.high) // 2
    return Range(scale, jnp.full(scale.shape, middle, jnp.int32))
