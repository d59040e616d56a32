"""Crop and resize as two small matrix products, each image with a box of its own.

Along one axis a box of L pixels that starts at pixel s becomes R pixels; the middle of
pixel i of these is at s + (2 i + 1) L / (2 R) in the input, and its value is the mean
of the pixels j of the box, weighted by

    filter((j + 1/2 - s - (2 i + 1) L / (2 R)) / max(1, L / R))

which widens as the picture shrinks (antialiasing). Pixels outside the box count for
nothing, as if it had been cut out first.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vit_jax_tricks.augment.pixels import compute_dtype
from vit_jax_tricks.augment.warp import INTERPOLATIONS, Interpolation
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Float, Int, Num


HIGHEST = jax.lax.Precision.HIGHEST


def _bilinear(x: jax.Array) -> jax.Array:
    return jnp.maximum(1 - jnp.abs(x), 0)


def _bicubic(x: jax.Array) -> jax.Array:
    """Keys' cubic with a = -1/2."""
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


def _lanczos(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) < 3, jnp.sinc(x) * jnp.sinc(x / 3), 0)


def resampling_matrix(
    start: Int[Array, "b"],
    length: Int[Array, "b"],
    resized: Int[Array, "b"] | None = None,
    offset: Int[Array, "b"] | None = None,
    *,
    size: int,
    source: int,
    interpolation: Interpolation = "bicubic",
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b size source"]:
    """Weights of the input's pixels in each output pixel, along one axis; see above.

    The output is `size` of the `resized` pixels from `offset` on, by default all. Where
    it reaches beyond them it mirrors them without repeating the last (reflect padding).
    Equivalent to the tables of Pillow's resize (tested); "nearest" takes the pixel that
    the position lies in.
    """
    plain = resized is None and offset is None
    resized = jnp.full_like(length, size) if resized is None else resized
    offset = jnp.zeros_like(length) if offset is None else offset
    start, length, resized, offset = (
        jnp.asarray(v, jnp.int32)[:, None] for v in (start, length, resized, offset)
    )
    i = jnp.arange(size, dtype=jnp.int32)[None] + offset
    i = jnp.where(i < 0, -i, i)
    i = jnp.where(i >= resized, 2 * (resized - 1) - i, i)
    # Whole numbers keep the place exact: start + whole + part / (2 resized).
    whole, part = jnp.divmod((2 * i + 1) * length, 2 * resized)
    j = jnp.arange(source, dtype=jnp.int32)[None, None]
    steps = (j - (start + whole)[..., None]).astype(dtype)
    part = part.astype(dtype) / (2 * resized).astype(dtype)
    stretch = jnp.maximum(length.astype(dtype) / resized.astype(dtype), 1)

    def hit(_: jax.Array) -> jax.Array:
        pixel = whole
        if plain:
            table = _pillow_nearest(size, source)
            pixel = jnp.take(table, length[:, 0] - 1, axis=0, mode="clip")
        return (j == (start + pixel)[..., None]).astype(dtype)

    shapes = {
        "nearest": hit,
        "bilinear": _bilinear,
        "bicubic": _bicubic,
        "lanczos": _lanczos,
    }
    distance = (steps + (0.5 - part[..., None])) / stretch[..., None]
    weights = _weights(shapes, distance, interpolation)
    within = (j >= start[..., None]) & (j < (start + length)[..., None])
    weights = jnp.where(within, weights, 0)
    return weights / weights.sum(axis=-1, keepdims=True)


def _pillow_nearest(size: int, source: int) -> Int[np.ndarray, "source size"]:
    """The pixel that Pillow takes when 1, 2, .. `source` pixels become `size`.

    It adds up steps of length / size in float64, whose rounding decides at edges.
    """
    step = np.arange(1.0, source + 1)[:, None] / size
    places = np.concatenate(
        [step / 2, np.broadcast_to(step, (source, size - 1))], axis=1
    )
    hit = np.add.accumulate(places, axis=1).astype(np.int32)
    return np.minimum(hit, np.arange(source, dtype=np.int32)[:, None])


def _weights(
    shapes: dict[str, Callable[[jax.Array], jax.Array]],
    distance: jax.Array,
    interpolation: Interpolation,
) -> jax.Array:
    if not isinstance(interpolation, str):
        kind = interpolation[:, None, None]
        options = [shapes[name](distance) for name in INTERPOLATIONS]
        return jnp.select([kind == k for k in range(len(options))], options)
    if interpolation not in shapes:
        raise UserError(
            f'interpolation="{interpolation}" is unknown.'
            f"{nearest(interpolation, shapes)}"
        )
    return shapes[interpolation](distance)


def crop_and_resize(
    images: Num[Array, "b h w c"],
    box: Int[Array, "b 4"],
    *,
    size: tuple[int, int],
    resized: Int[Array, "b 2"] | None = None,
    offset: Int[Array, "b 2"] | None = None,
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
      interpolation: "nearest", "bilinear", "bicubic" or "lanczos", or for each image
        0, 1 or 2, its place in this list.

    Raises:
      UserError: An unknown interpolation.
    """
    grey_levels = images.dtype == jnp.uint8
    dtype = jnp.result_type(float) if grey_levels else compute_dtype(images)
    rows, columns = (
        resampling_matrix(
            box[:, axis],
            box[:, 2 + axis],
            None if resized is None else resized[:, axis],
            None if offset is None else offset[:, axis],
            size=size[axis],
            source=images.shape[1 + axis],
            interpolation=interpolation,
            dtype=dtype,
        )
        for axis in (0, 1)
    )

    def scale_height(x: Array, weights: Array) -> jax.Array:
        return jnp.einsum("boh,bhwc->bowc", weights, x, precision=HIGHEST)

    def scale_width(x: Array, weights: Array) -> jax.Array:
        return jnp.einsum("bow,bhwc->bhoc", weights, x, precision=HIGHEST)

    x = images.astype(dtype)
    if not grey_levels:
        x = scale_width(scale_height(x, rows), columns)
        return jnp.clip(x, 0, 1).astype(images.dtype)
    rows, columns = _fixed_point(rows), _fixed_point(columns)
    flat = _levels(scale_height(_levels(scale_width(x, columns)), rows))
    target = jnp.asarray(size)[None] if resized is None else resized
    lost = box[:, 2:].astype(jnp.int32) - target.astype(jnp.int32)
    tall_first = (lost[:, 0] > 0) & (lost[:, 0] > 2 * lost[:, 1])
    tall = _levels(scale_width(_levels(scale_height(x, rows)), columns))
    x = jnp.where(tall_first[:, None, None, None], tall, flat)
    return x.astype(jnp.uint8)


def _fixed_point(weights: Array) -> jax.Array:
    """Pillow keeps weights as multiples of 2^-22."""
    return jnp.round(weights * 2**22) / 2**22


def _levels(x: Array) -> jax.Array:
    return jnp.clip(jnp.floor(x + 0.5), 0, 255)
