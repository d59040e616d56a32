"""Crop and resize: along each axis a weighted sum of pixels, each image its own box.

Few pixels count for each sum. CPUs and GPUs gather them; on TPUs the weights are
matrices, and the sums two small matrix products.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.pixels import compute_dtype
from vit_jax_tricks.augment.resample_weights import (
    SUPPORT,
    Weights,
    count_taps,
    resampling_weights,
)
from vit_jax_tricks.augment.warp import Interpolation
from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Float, Int, Num, Pixels


HIGHEST = jax.lax.Precision.HIGHEST
MOST_TAPS = 16  # beyond, a matrix product is as fast


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
    """Cuts out a box of each image and resizes it to `size`.

    With `resized` and `offset` (y, x) the box is resized to `resized` and the output is
    its part of `size` from `offset` on, mirrored where it reaches beyond the edge.

    Equivalent to Pillow's crop and resize for uint8 (tested): it rounds between the
    passes, and shrinks heights first where they lose more than twice as many pixels as
    widths, so uint8 costs both orders. Float images, within 0..1, are neither scaled
    nor rounded; they are kept there.

    Args:
      images: uint8, or float in 0..1.
      box: (top, left, height, width) in pixels, inside the image.
      least: (h, w), which `resized` never goes below; knowing it is faster.
      interpolation: "nearest", "bilinear", "bicubic" or "lanczos", or for each image
        0, 1 or 2, its place in this list.

    Raises:
      UserError: An unknown interpolation.
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
        """A branch that is always taken keeps later fusions from doing it twice."""
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
    dtype = jnp.result_type(float) if grey_levels else compute_dtype(images)
    rows, columns = (
        resampling_weights(
            box[:, axis],
            box[:, 2 + axis],
            None if resized is None else resized[:, axis],
            None if offset is None else offset[:, axis],
            size=size[axis],
            source=images.shape[1 + axis],
            taps=taps[axis],
            interpolation=interpolation or each["interpolation"],
            dtype=dtype,
        )
        for axis in (0, 1)
    )
    x = images.astype(dtype)
    if not grey_levels:
        # XLA computes the first again for each tap of the second; widths cost less.
        x = _scale_height(_scale_width(x, columns), rows)
        return jnp.clip(x, 0, 1).astype(images.dtype)
    rows, columns = _fixed_point(rows), _fixed_point(columns)
    flat = _levels(_scale_height(_levels(_scale_width(x, columns)), rows))
    target = jnp.asarray(size)[None] if resized is None else resized
    lost = box[:, 2:].astype(jnp.int32) - target.astype(jnp.int32)
    tall_first = (lost[:, 0] > 0) & (lost[:, 0] > 2 * lost[:, 1])
    tall = _levels(_scale_width(_levels(_scale_height(x, rows)), columns))
    x = jnp.where(tall_first[:, None, None, None], tall, flat)
    return x.astype(jnp.uint8)


def _scale_height(x: Float[Array, "b h w c"], weights: Weights) -> jax.Array:
    if weights.place is None:
        return jnp.einsum("boh,bhwc->bowc", weights.weight, x, precision=HIGHEST)
    return _gathered(x, weights, axis=1)


def _scale_width(x: Float[Array, "b h w c"], weights: Weights) -> jax.Array:
    if weights.place is None:
        return jnp.einsum("bow,bhwc->bhoc", weights.weight, x, precision=HIGHEST)
    return _gathered(x, weights, axis=2)


def _gathered(x: Float[Array, "b h w c"], weights: Weights, axis: int) -> jax.Array:
    """Rows or columns, weighed and added; those outside weigh nothing."""
    assert weights.place is not None
    place = weights.place
    take = jax.vmap(lambda x, i: jnp.take(x, i, axis=axis - 1, mode="clip"))
    shape = [len(x), 1, 1, 1]
    shape[axis] = weights.weight.shape[1]
    taps = (
        take(x, place[..., t]) * weights.weight[..., t].reshape(shape)
        for t in range(weights.weight.shape[2])
    )
    return functools.reduce(jnp.add, taps)


def _fixed_point(weights: Weights) -> Weights:
    """Pillow keeps weights as multiples of 2^-22."""
    return weights._replace(weight=jnp.round(weights.weight * 2**22) / 2**22)


def _levels(x: Array) -> jax.Array:
    return jnp.clip(jnp.floor(x + 0.5), 0, 255)
