"""Gaussian blur by three box blurs, the approximation that Pillow uses."""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.pixels import PerImage, from_uint8, per_image, to_uint8
from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float, Num, Pixels, UInt8, UInt32


PASSES = 3


def box_radius(sigma: float | Float[Array, "b"]) -> Any:
    """Radius of the box blur whose three passes have the variance of the Gaussian.

    l + (2 l + 1) (l (l + 1) - 3 v) / (6 (v - (l + 1)^2)) with v = sigma^2 / 3 and l =
    floor((sqrt(12 v + 1) - 1) / 2).

    Source: Gwosdek et al., 2011, equations 11 and 14.
    """
    v = sigma * sigma / PASSES
    whole = ((12 * v + 1) ** 0.5 - 1) / 2 // 1
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * v)
    return whole + part / (6 * (v - (whole + 1) ** 2))


def _box_pass(
    levels: UInt8[Array, "b h w c"], weights: UInt32[Array, "b r"], axis: int
) -> UInt8[Array, "b h w c"]:
    """Box blur along one axis, with weights in units of 1/2^24; edges are repeated."""
    size, taps = levels.shape[axis], weights.shape[1]
    pad = [(0, 0)] * 4
    pad[axis] = (taps // 2, taps // 2)
    # Without a barrier, each tap would recompute the passes before this one.
    padded = jax.lax.optimization_barrier(jnp.pad(levels, pad, mode="edge"))
    total = jnp.full(levels.shape, 2**23, jnp.uint32)
    for i in range(taps):
        tap = jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
        total = total + weights[:, i, None, None, None] * tap.astype(jnp.uint32)
    return (total >> 24).astype(jnp.uint8)


@checked
def gaussian_blur(
    images: Pixels[Array, "b h w c"], sigma: PerImage, *, largest: float = 2.0
) -> Num[Array, "b h w c"]:
    """Blurs each image with its own standard deviation, in pixels, up to `largest`.

    The cost grows with `largest`, and a larger sigma is reduced to it. Floats in [0, 1]
    are rounded to 256 grey levels. Equivalent to Pillow's GaussianBlur (tested).

    Raises: UserError for a negative `largest`.
    """
    if largest < 0:
        raise UserError(f"largest={largest}: expected a number of pixels, 0 or more.")
    radius = box_radius(jnp.clip(per_image(sigma, images), 0, largest))[:, None]
    whole = jnp.floor(radius).astype(jnp.int32)
    inner = jnp.floor(2**24 / (2 * radius + 1)).astype(jnp.int32)
    outer = (2**24 - (2 * whole + 1) * inner) // 2
    reach = int(box_radius(largest)) + 1
    offset = jnp.abs(jnp.arange(-reach, reach + 1, dtype=jnp.int32))[None]
    weights = jnp.where(offset == whole + 1, outer, 0)
    weights = jnp.where(offset <= whole, inner, weights).astype(jnp.uint32)
    levels = to_uint8(images)
    for axis in (2,) * PASSES + (1,) * PASSES:
        levels = _box_pass(levels, weights, axis)
    return from_uint8(levels, images)
