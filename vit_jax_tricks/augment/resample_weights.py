"""Resampling weights: which input pixels contribute to a resized pixel, and how much.

Along one axis, a box of L pixels that starts at pixel s becomes R pixels. The centre of
output pixel i is at s + (2 i + 1) L / (2 R) in the input, and its value is the mean of
the pixels j of the box, weighted by

    filter((j + 1/2 - s - (2 i + 1) L / (2 R)) / max(1, L / R))

The filter widens as the image shrinks (antialiasing). Pixels outside the box have
weight 0, as if the box had been cut out first.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vit_jax_tricks.augment.warp import INTERPOLATIONS, Interpolation
from vit_jax_tricks.typing import Array, Int, Num


FIXED_BITS = 22
SUPPORT = {"nearest": 1, "bilinear": 1, "bicubic": 2, "lanczos": 3}  # half width


class Weights(NamedTuple):
    """Pixel weights along one axis: of pixels `place` [b, n, t], or of all if None."""

    weight: Num[Array, "b n t"]
    place: Int[Array, "b n t"] | None


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


def resampling_weights(
    start: Int[Array, "b"],
    length: Int[Array, "b"],
    resized: Int[Array, "b"] | None = None,
    offset: Int[Array, "b"] | None = None,
    *,
    size: int,
    source: int,
    taps: int | None = None,
    interpolation: Interpolation = "bicubic",
    dtype: DTypeLike = jnp.float32,
) -> Weights:
    """Weights of the input pixels in each output pixel along one axis; see the module.

    The output is `size` of the `resized` pixels, starting at `offset`; by default all
    of them. Beyond the edge they are mirrored without repeating the edge pixel (reflect
    padding). With `taps`, only that many pixels around the centre are weighted; see
    `count_taps`.

    Equivalent to the tables of Pillow's resize (tested); "nearest" takes the pixel that
    contains the position.
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
    # Integers keep the position exact: start + whole + part / (2 resized).
    whole, part = jnp.divmod((2 * i + 1) * length, 2 * resized)
    part = part.astype(dtype) / (2 * resized).astype(dtype)
    stretch = jnp.maximum(length.astype(dtype) / resized.astype(dtype), 1)
    if taps is None:
        place, j = None, jnp.arange(source, dtype=jnp.int32)[None, None]
    else:
        wide = _support(interpolation) * (1 if interpolation == "nearest" else stretch)
        # All are multiples of 1 / (2 resized). Adding half a step leaves the floor
        # unchanged and makes it immune to rounding, however a compiler computes it.
        slack = 0.25 / resized.astype(dtype)
        left = jnp.floor(part + slack + 0.5 - wide).astype(jnp.int32)
        first = start + whole + left
        place = j = first[..., None] + jnp.arange(taps, dtype=jnp.int32)[None, None]
    steps = (j - (start + whole)[..., None]).astype(dtype)

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
    return Weights(weights / weights.sum(axis=-1, keepdims=True), place)


def fixed_point_weights(*places: Any, **options: Any) -> Weights:
    """`resampling_weights` as integer multiples of 2^-22, int32, as Pillow stores them.

    Halves are rounded away from 0. Needs float64: float32 has only two bits more.
    """
    with jax.enable_x64(True):
        weight, place = resampling_weights(*places, **options, dtype=jnp.float64)
        scaled = weight * 2.0**FIXED_BITS
        fixed = scaled + jnp.where(scaled < 0, -0.5, 0.5)
        return Weights(fixed.astype(jnp.int32), place)


def _support(interpolation: Interpolation) -> int:
    return SUPPORT[interpolation] if isinstance(interpolation, str) else 2


def count_taps(interpolation: Interpolation, shrink: float) -> int:
    """Upper bound on the pixels that contribute if a box shrinks by up to `shrink`."""
    wide = 1.0 if interpolation == "nearest" else max(1.0, shrink)
    return math.ceil(2 * _support(interpolation) * wide)


def _pillow_nearest(size: int, source: int) -> Int[np.ndarray, "source size"]:
    """The pixel that Pillow takes when 1, 2, .. `source` pixels become `size`.

    Pillow accumulates steps of length / size in float64, and the rounding decides ties.
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
        nearest, linear, cubic = (shapes[name](distance) for name in INTERPOLATIONS)
        return jnp.where(kind == 0, nearest, jnp.where(kind == 1, linear, cubic))
    return shapes[interpolation](distance)
