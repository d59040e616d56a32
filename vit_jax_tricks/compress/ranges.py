"""From a range of values to the step and zero point of a grid."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.grids import Grid
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float, Num


EPS = float(jnp.finfo(jnp.float32).eps)  # the smallest step, as torch's observers have


class Range(NamedTuple):
    """How one place is quantised; no `zero_point` means 0."""

    scale: Float[Array, "..."]
    zero_point: Num[Array, "..."] | None = None


@checked
def next_power_of_two(scale: Float[Array, "..."]) -> Float[Array, "..."]:
    """The smallest power of two that is not below the scale: a shift, not a product.

    Exact: only exponents are touched, and the range is never narrower.
    """
    mantissa, exponent = jnp.frexp(scale)
    exact = (mantissa == 0.5).astype(exponent.dtype)
    return jnp.ldexp(jnp.ones_like(scale), exponent - exact)


def _quotient(x: Array, divisor: float | int) -> Array:
    """x / divisor, correctly rounded: XLA would multiply with 1 / divisor instead."""
    return x / jax.lax.optimization_barrier(jnp.full_like(x, divisor))


@checked
def affine_range(
    low: Float[Array, "*c"] | float,
    high: Float[Array, "*c"] | float,
    *,
    grid: Grid,
    power_of_two: bool = False,
) -> Range:
    """The whole grid over [low, high], with 0 on a step of its own.

    s = (max(high, 0) - min(low, 0)) / (grid.high - grid.low), at least 2^-23;
    z = clip(grid.low - round(min(low, 0) / s)). `power_of_two` makes s the next power.

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
    """The same step on both sides of 0: s = max(-low, high, 0) / grid.high.

    The largest value is then a number of the grid (TensorRT and ONNX Runtime; zero
    point 0). With `half_range` the divisor is (grid.high - grid.low) / 2, 127.5 for
    int8: torch's observers and Qwix. On an unsigned grid the zero point is then its
    middle as torch has it, 128 of uint8 and high // 2 of others; without `half_range`
    it is 0, for values that are never negative. The step is at least 2^-23;
    `power_of_two` makes it the next power.

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
