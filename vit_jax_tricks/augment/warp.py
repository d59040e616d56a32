"""Affine warps that sample as Pillow does, each image with a matrix of its own.

A matrix (a, b, c, d, e, f) leads from an output pixel to the input: the centre of
column x and row y, (x + 1/2, y + 1/2), is looked up at
(a (x + 1/2) + b (y + 1/2) + c, d (x + 1/2) + e (y + 1/2) + f).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Float, Int, Num


INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
Fill = float | Sequence[float] | Num[Array, "c"]
Interpolation = str | Int[Array, "b"]


def _rows(*entries: Array) -> Float[Array, "b 6"]:
    return jnp.stack(jnp.broadcast_arrays(*entries), axis=-1)


def shear_x_matrix(amount: Float[Array, "b"]) -> Float[Array, "b 6"]:
    """Row y is read `amount` (y + 1/2) pixels further right; the top edge stays."""
    zero, one = jnp.zeros_like(amount), jnp.ones_like(amount)
    return _rows(one, amount, zero, zero, one, zero)


def shear_y_matrix(amount: Float[Array, "b"]) -> Float[Array, "b 6"]:
    """Column x is read `amount` (x + 1/2) pixels further down; the left edge stays."""
    zero, one = jnp.zeros_like(amount), jnp.ones_like(amount)
    return _rows(one, zero, zero, amount, one, zero)


def translate_matrix(x: Float[Array, "b"], y: Float[Array, "b"]) -> Float[Array, "b 6"]:
    """The picture moves left by `x` pixels and up by `y`, as in Pillow's transform."""
    zero, one = jnp.zeros_like(x), jnp.ones_like(x)
    return _rows(one, zero, x, zero, one, y)


def rotate_matrix(
    degrees: Float[Array, "b"], size: tuple[int, int]
) -> Float[Array, "b 6"]:
    """Counter-clockwise by `degrees` about the centre of an image of size (h, w)."""
    angle = -jnp.deg2rad(degrees)
    rounding = 4 * jnp.finfo(angle.dtype).eps  # a right angle has no residue
    cos, sin = (
        jnp.where(jnp.abs(v) < rounding, 0, v) for v in (jnp.cos(angle), jnp.sin(angle))
    )
    y, x = size[0] / 2, size[1] / 2
    return _rows(cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def affine_warp(
    images: Num[Array, "b h w c"],
    matrix: Float[Array, "b 6"],
    *,
    fill: Fill = 0.0,
    interpolation: Interpolation = "bicubic",
) -> Num[Array, "b h w c"]:
    """Warps each image by its matrix; what lies outside becomes `fill`.

    Equivalent to Pillow's Image.transform(AFFINE) for uint8 (tested): pixels beyond
    the edge repeat it, bicubic is the cubic with a = -1, results are cut off to whole
    numbers, and nearest steps in 1/65536 pixels under shear and rotation. With a
    float64 matrix every bit agrees; a float32 one moves few values, by 1. Float
    images, within 0..1, are neither scaled nor rounded; bicubic keeps them there.

    Args:
      images: uint8, or float in 0..1.
      matrix: (a, b, c, d, e, f) for each image, in pixels; see the module.
      fill: In the images' units, one number or one for each channel.
      interpolation: "nearest", "bilinear" or "bicubic", or for each image its place
        in this list.

    Raises:
      UserError: An unknown interpolation.
    """
    _, h, w, _ = images.shape
    entries = [entry[:, None, None] for entry in jnp.moveaxis(matrix, -1, 0)]
    x = _positions(entries[:3], h, w)
    y = _positions(entries[3:], h, w)
    if not (isinstance(interpolation, str) and interpolation != "nearest"):
        stepped = (entries[1] != 0) | (entries[3] != 0)
        if not isinstance(interpolation, str):
            stepped &= (interpolation == 0)[:, None, None]
        x = jnp.where(stepped, _stepped(entries[:3], h, w), x)
        y = jnp.where(stepped, _stepped(entries[3:], h, w), y)
    return sample(images, y, x, fill=fill, interpolation=interpolation)


def _positions(entries: list[jax.Array], h: int, w: int) -> Float[Array, "b h w"]:
    per_x, per_y, start = entries
    x = (jnp.arange(w, dtype=start.dtype) + 0.5)[None, None]
    y = (jnp.arange(h, dtype=start.dtype) + 0.5)[None, :, None]
    return per_x * x + per_y * y + start


def _stepped(entries: list[jax.Array], h: int, w: int) -> Float[Array, "b h w"]:
    """The centre of the pixel that steps of 1/65536 pixels lead to."""

    def fixed(value: jax.Array) -> jax.Array:
        return jnp.floor(value * 65536 + 0.5).astype(jnp.int32)

    per_x, per_y, start = entries
    x = jnp.arange(w, dtype=jnp.int32)[None, None]
    y = jnp.arange(h, dtype=jnp.int32)[None, :, None]
    place = fixed(per_x) * x + fixed(per_y) * y
    place += fixed(start + per_x * 0.5 + per_y * 0.5)
    return (place >> 16).astype(start.dtype) + 0.5


def sample(
    images: Num[Array, "b h w c"],
    y: Float[Array, "b h2 w2"],
    x: Float[Array, "b h2 w2"],
    *,
    fill: Fill,
    interpolation: Interpolation,
) -> Num[Array, "b h2 w2 c"]:
    """Values at real positions (1/2 is the centre of the first pixel); see above."""
    b, h, w, c = images.shape
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    # Far outside, where a position may not fit an integer, any pixel will do.
    x, y = jnp.where(inside, x, 0), jnp.where(inside, y, 0)
    if isinstance(interpolation, str):
        if interpolation not in INTERPOLATIONS:
            raise UserError(
                f'interpolation="{interpolation}" is unknown.'
                f"{nearest(interpolation, INTERPOLATIONS)}"
            )
        kind = INTERPOLATIONS.index(interpolation)
        shift = 0.5 if kind else 0.0
        taps = ((0,), (0, 1), (-1, 0, 1, 2))[kind]
    else:
        kind = interpolation[:, None, None]
        shift = jnp.where(kind == 0, 0.0, 0.5).astype(x.dtype)
        taps = (-1, 0, 1, 2)
    x0, y0 = jnp.floor(x - shift), jnp.floor(y - shift)
    dx, dy = (x - shift - x0)[..., None], (y - shift - y0)[..., None]
    x0, y0 = x0.astype(jnp.int32), y0.astype(jnp.int32)
    rows = images.reshape(b, h * w, c)
    take = jax.vmap(lambda image, i: jnp.take(image, i, axis=0, mode="clip"))

    def tap(j: int, i: int) -> jax.Array:
        place = jnp.clip(y0 + j, 0, h - 1) * w + jnp.clip(x0 + i, 0, w - 1)
        return take(rows, place).astype(x.dtype)

    values = [_between([tap(j, i) for i in taps], dx, kind) for j in taps]
    out = _between(values, dy, kind)
    if jnp.issubdtype(images.dtype, jnp.integer):
        out = jnp.clip(out, 0, 255)
    elif not isinstance(kind, int) or kind == 2:
        out = jnp.clip(out, 0, 1)
    fill = jnp.broadcast_to(jnp.asarray(fill, images.dtype), c)
    return jnp.where(
        inside[..., None], out.astype(images.dtype), fill[None, None, None]
    )


def _between(values, at, kind):
    """The curve through the middle two of 4 values (or of 2, or just 1)."""
    if len(values) == 1:
        return values[0]
    if len(values) == 2:
        return values[0] + (values[1] - values[0]) * at
    v1, v2, v3, v4 = values
    p = [v2, v3 - v1, 2 * (v1 - v2) + v3 - v4, v2 - v1 + v4 - v3]
    if not isinstance(kind, int):
        cubic = (kind == 2)[..., None]
        slope = jnp.where((kind == 1)[..., None], v3 - v2, 0)
        p[1:] = (
            jnp.where(cubic, p[1], slope),
            jnp.where(cubic, p[2], 0),
            jnp.where(cubic, p[3], 0),
        )
    return p[0] + at * (p[1] + at * (p[2] + at * p[3]))
