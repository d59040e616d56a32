"""Crop and resize: a weighted sum of pixels along each axis, with a box for each image.

Only a few pixels contribute to each sum. CPUs and GPUs gather them; on TPUs the weights
are matrices, and the sums are two small matrix products.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.pixels import compute_dtype
from vit_jax_tricks.augment.resample_weights import (
    FIXED_BITS,
    SUPPORT,
    Weights,
    count_taps,
    fixed_point_weights,
    resampling_weights,
)
from vit_jax_tricks.augment.warp import Interpolation
from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Float, Int, Num, Pixels, UInt8


HIGHEST = jax.lax.Precision.HIGHEST
MOST_TAPS = 16  # beyond this, a matrix product is as fast
MOST_SUMMED = 512  # pixels: 512 * 128 * 255 < 2^24
PRODUCTS = {1: "boh,bhwc->bowc", 2: "bow,bhwc->bhoc"}  # along an axis


@checked
def crop_and_resize(
    images: Pixels[Array, "b h w c"],
    box: Int[Array, "b 4"],
    *,
    size: tuple[int, int],
    resized: Int[Array, "b 2"] | None = None,
    offset: Int[Array, "b 2"] | None = None,
    least: tuple[int, int] | None = None,
    interpolation: Interpolation = "bicubic",
) -> Num[Array, "b h2 w2 c"]:
    """Cuts a box out of each image and resizes it to `size`.

    With `resized` and `offset` (y, x), the box is resized to `resized`, and the output
    is the part of `size` that starts at `offset`, mirrored beyond the edges. For uint8,
    equivalent to Pillow's crop and resize, bit for bit (tested). Pillow sums integers,
    rounds between the two passes, and resizes heights first where they shrink by more
    than twice as many pixels as widths; uint8 therefore computes both orders unless the
    batch is one image. Float images in 0..1 are neither scaled nor rounded, and are
    clipped to 0..1.

    Args:
      images: uint8, or float in 0..1.
      box: (top, left, height, width) in pixels, inside the image.
      least: (h, w), a lower bound for `resized`; with it, the resize is faster.
      interpolation: "nearest", "bilinear", "bicubic" or "lanczos"; or, for each image,
        0, 1 or 2 as an index into this list.

    Raises:
      UserError: an unknown interpolation.
    """
    if isinstance(interpolation, str) and interpolation not in SUPPORT:
        hint = nearest(interpolation, SUPPORT)
        raise UserError(f'interpolation="{interpolation}" is unknown.{hint}')
    least = size if resized is None else least
    source = images.shape[1:3]
    each: dict[str, Any] = {"box": box, "resized": resized, "offset": offset}
    name = interpolation if isinstance(interpolation, str) else None
    each["interpolation"] = interpolation if name is None else None
    run = functools.partial(_crop_and_resize, size=size, interpolation=name)
    products = functools.partial(run, taps=(None, None))
    if least is None:
        return products(images, each)
    taps = tuple(count_taps(interpolation, source[i] / least[i]) for i in (0, 1))
    if max(taps) > MOST_TAPS:
        return products(images, each)
    gathers = functools.partial(run, taps=taps)

    def materialized(images: Array, each: dict[str, Any]) -> jax.Array:
        """A branch that is always taken keeps later fusions from recomputing this."""
        inside = jnp.all(each["box"] >= 0)
        shape = jax.eval_shape(gathers, images, each)
        black = functools.partial(jnp.zeros, shape.shape, shape.dtype)
        return jax.lax.cond(inside, lambda: gathers(images, each), black)

    return jax.lax.platform_dependent(
        images, each, tpu=products, cpu=materialized, default=gathers
    )


def _crop_and_resize(
    images: Num[Array, "b h w c"],
    each: dict[str, Any],
    *,
    size: tuple[int, int],
    interpolation: str | None,
    taps: tuple[int | None, ...],
) -> Num[Array, "b h2 w2 c"]:
    box, resized, offset = (each[name] for name in ("box", "resized", "offset"))
    grey_levels = images.dtype == jnp.uint8
    dtype = compute_dtype(images)
    floats = functools.partial(resampling_weights, dtype=dtype)
    weights = fixed_point_weights if grey_levels else floats
    rows, columns = (
        weights(
            box[:, axis],
            box[:, 2 + axis],
            None if resized is None else resized[:, axis],
            None if offset is None else offset[:, axis],
            size=size[axis],
            source=images.shape[1 + axis],
            taps=taps[axis],
            interpolation=interpolation or each["interpolation"],
        )
        for axis in (0, 1)
    )
    if not grey_levels:
        # XLA recomputes the first pass for each tap of the second; widths cost less.
        x = _scale(_scale(images.astype(dtype), columns, axis=2), rows, axis=1)
        return jnp.clip(x, 0, 1).astype(images.dtype)
    target = jnp.asarray(size)[None] if resized is None else resized
    lost = box[:, 2:].astype(jnp.int32) - target.astype(jnp.int32)
    tall_first = (lost[:, 0] > 0) & (lost[:, 0] > 2 * lost[:, 1])

    def flat() -> Array:
        return _scale_levels(_scale_levels(images, columns, axis=2), rows, axis=1)

    def tall() -> Array:
        return _scale_levels(_scale_levels(images, rows, axis=1), columns, axis=2)

    if len(images) == 1:
        return jax.lax.cond(tall_first[0], tall, flat)
    return jnp.where(tall_first[:, None, None, None], tall(), flat())


def _scale(x: Float[Array, "b h w c"], weights: Weights, axis: int) -> jax.Array:
    if weights.place is None:
        return jnp.einsum(PRODUCTS[axis], weights.weight, x, precision=HIGHEST)
    return _gathered(x, weights, axis)


def _scale_levels(
    levels: UInt8[Array, "b h w c"], weights: Weights, axis: int
) -> UInt8[Array, "b h2 w2 c"]:
    """Integer sums, which fit in 31 bits, rounded half up to grey levels."""
    if weights.place is None:
        total = _whole_products(levels, weights.weight, axis)
    else:
        total = _gathered(levels, weights, axis)
    rounded = (total + (1 << (FIXED_BITS - 1))) >> FIXED_BITS
    return jnp.clip(rounded, 0, 255).astype(jnp.uint8)


def _gathered(x: Num[Array, "b h w c"], weights: Weights, axis: int) -> jax.Array:
    """Weighted sum of rows or columns; those outside have weight 0."""
    assert weights.place is not None
    place, weight = weights.place, weights.weight
    take = jax.vmap(lambda x, i: jnp.take(x, i, axis=axis - 1, mode="clip"))
    shape = [len(x), 1, 1, 1]
    shape[axis] = weight.shape[1]
    taps = (
        take(x, place[..., t]).astype(weight.dtype) * weight[..., t].reshape(shape)
        for t in range(weight.shape[2])
    )
    return functools.reduce(jnp.add, taps)


def _whole_products(
    levels: UInt8[Array, "b h w c"], weight: Int[Array, "b n t"], axis: int
) -> Int[Array, "b h2 w2 c"]:
    """Exact on every device: 8-bit products in float32, with sums below 2^24.

    Weights are split into three 8-bit digits, and at most 512 pixels are summed at
    once. TPUs and GPUs may then round the factors to bfloat16 or TF32 without changing
    them.
    """
    low = ((weight + 128) & 255) - 128
    rest = (weight - low) >> 8
    middle = ((rest + 128) & 255) - 128
    digits = (low, middle, (rest - middle) >> 8)
    total = jnp.int32(0)
    for start in range(0, weight.shape[2], MOST_SUMMED):
        part = slice(start, start + MOST_SUMMED)
        x = levels[:, part] if axis == 1 else levels[:, :, part]
        x = x.astype(jnp.float32)
        for place, digit in enumerate(digits):
            factor = digit[..., part].astype(jnp.float32)
            sums = jnp.einsum(PRODUCTS[axis], factor, x)
            total += sums.astype(jnp.int32) << (8 * place)
    return total
