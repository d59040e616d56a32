"""Affine warps that sample as Pillow does, with a matrix for each image.

A matrix (a, b, c, d, e, f) maps an output pixel to the input: the pixel in column x and
row y has its centre at (x + 1/2, y + 1/2), and is read at
(a (x + 1/2) + b (y + 1/2) + c, d (x + 1/2) + e (y + 1/2) + f).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Float, Int, Num


INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
Fill = float | int | Sequence[float | int] | Num[Array, "c"]
Interpolation = str | Int[Array, "b"]


def _rows(*entries: Array) -> Float[Array, "b 6"]:
    return jnp.stack(jnp.broadcast_arrays(*entries), axis=-1)


@checked
def shear_x_matrix(amount: Float[Array, "b"]) -> Float[Array, "b 6"]:
    """Reads row y `amount` (y + 1/2) pixels further right; the top edge stays."""
    zero, one = jnp.zeros_like(amount), jnp.ones_like(amount)
    return _rows(one, amount, zero, zero, one, zero)


@checked
def shear_y_matrix(amount: Float[Array, "b"]) -> Float[Array, "b 6"]:
    """Reads column x `amount` (x + 1/2) pixels further down; the left edge stays."""
    zero, one = jnp.zeros_like(amount), jnp.ones_like(amount)
    return _rows(one, zero, zero, amount, one, zero)


@checked
def translate_matrix(x: Float[Array, "b"], y: Float[Array, "b"]) -> Float[Array, "b 6"]:
    """Moves the image left by `x` and up by `y` pixels, as in Pillow's transform."""
    zero, one = jnp.zeros_like(x), jnp.ones_like(x)
    return _rows(one, zero, x, zero, one, y)


@checked
def rotate_matrix(
    degrees: Float[Array, "b"], size: tuple[int, int]
) -> Float[Array, "b 6"]:
    """Rotates counter-clockwise by `degrees` about the centre of an image (h, w)."""
    angle = -jnp.deg2rad(degrees)
    rounding = 4 * jnp.finfo(angle.dtype).eps  # makes right angles exact
    cos, sin = (
        jnp.where(jnp.abs(v) < rounding, 0, v) for v in (jnp.cos(angle), jnp.sin(angle))
    )
    y, x = size[0] / 2, size[1] / 2
    return _rows(cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


@checked
def affine_warp(
    images: Num[Array, "b h w c"],
    matrix: Float[Array, "b 6"],
    *,
    fill: Fill = 0.0,
    interpolation: Interpolation = "bicubic",
    along: str | None = None,
) -> Num[Array, "b h w c"]:
    """Warps each image by its matrix; the area outside the image becomes `fill`.

    For uint8, equivalent to Pillow's Image.transform(AFFINE) (tested): edge pixels are
    repeated, bicubic is the cubic with a = -1, results are truncated to integers, and
    nearest steps in 1/65536 pixels under shear and rotation. With a float64 matrix
    every bit agrees; a float32 matrix changes a few values by 1. Float images in 0..1
    are neither scaled nor rounded; bicubic clips them to 0..1.

    Args:
      images: uint8, or float in 0..1; class ids of any number type for "nearest".
      matrix: (a, b, c, d, e, f) for each image, in pixels; see the module docstring.
      fill: in the images' units, one number or one for each channel.
      interpolation: "nearest", "bilinear" or "bicubic"; or, for each image, an index
        into this list.
      along: "x" or "y" if no matrix moves anything along the other axis (faster, with
        the same result), or None.

    Raises:
      UserError: an unknown interpolation, or one other than "nearest" for class ids.
    """
    check_whole("affine_warp: images", images, interpolation)
    size = images.shape[1], images.shape[2]
    y, x = affine_positions(matrix, size)
    if not isinstance(interpolation, str) or interpolation == "nearest":
        # Pillow takes whole steps only where rows and columns are mixed.
        stepped = (matrix[:, 1] != 0) | (matrix[:, 3] != 0)
        if not isinstance(interpolation, str):
            stepped &= interpolation == 0
        stepped = stepped[:, None, None]
        y = jnp.where(stepped, _stepped(matrix[:, 3:], size), y)
        x = jnp.where(stepped, _stepped(matrix[:, :3], size), x)
    return sample(images, y, x, fill=fill, interpolation=interpolation, along=along)


def check_whole(what: str, x: Array, interpolation: Interpolation) -> None:
    """Raises UserError if integers other than grey levels would be blended."""
    blends = not isinstance(interpolation, str) or interpolation != "nearest"
    if blends and x.dtype != jnp.uint8 and not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(
            f"{what} is {x.dtype}{list(x.shape)}; expected uint8 or floats, "
            'or give interpolation="nearest" for class ids.'
        )


def affine_positions(
    matrix: Float[Array, "b 6"],
    size: tuple[int, int],
    origin: tuple[float, float] = (0.0, 0.0),
) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"]]:
    """Input positions y and x of each output pixel, in pixels from the top left corner.

    The matrix acts on positions relative to `origin` (y, x).
    """
    oy, ox = origin
    x = (jnp.arange(size[1], dtype=matrix.dtype) + (0.5 - ox))[None, None]
    y = (jnp.arange(size[0], dtype=matrix.dtype) + (0.5 - oy))[None, :, None]
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    return d * x + e * y + (f + oy), a * x + b * y + (c + ox)


def _stepped(row: Float[Array, "b 3"], size: tuple[int, int]) -> Float[Array, "b h w"]:
    """Centre of the pixel reached in steps of 1/65536 pixels, along one axis."""

    def fixed(value: Array) -> jax.Array:
        steps = jnp.floor(value * 65536 + 0.5).astype(jnp.int32)
        return steps[:, None, None]

    x = jnp.arange(size[1], dtype=jnp.int32)[None, None]
    y = jnp.arange(size[0], dtype=jnp.int32)[None, :, None]
    start = fixed(row[:, 2] + row[:, 0] * 0.5 + row[:, 1] * 0.5)
    place = fixed(row[:, 0]) * x + fixed(row[:, 1]) * y + start
    return (place >> 16).astype(row.dtype) + 0.5


def sample(
    images: Num[Array, "b h w c"],
    y: Float[Array, "b h2 w2"],
    x: Float[Array, "b h2 w2"],
    *,
    fill: Fill,
    interpolation: Interpolation,
    along: str | None = None,
) -> Num[Array, "b h2 w2 c"]:
    """Reads images at real positions (1/2 is the centre of the first pixel).

    See `affine_warp`. Nearest accepts any number type, such as class ids. With `along`,
    the positions on the other axis are pixel centres.
    """
    b, h, w, c = images.shape
    shift, taps = _stencil(interpolation, x.dtype)
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    # Outside, where a position may be too large for an integer, any pixel will do.
    y, x = jnp.where(inside, y, 0) - shift, jnp.where(inside, x, 0) - shift
    y0, x0 = jnp.floor(y), jnp.floor(x)
    dy, dx = (y - y0)[..., None], (x - x0)[..., None]
    row, column = y0.astype(jnp.int32), x0.astype(jnp.int32)
    pixels = jnp.reshape(images, (b, h * w, c))
    take = jax.vmap(lambda image, i: jnp.take(image, i, axis=0, mode="clip"))

    def tap(j: int, i: int) -> jax.Array:
        place = jnp.clip(row + j, 0, h - 1) * w + jnp.clip(column + i, 0, w - 1)
        return take(pixels, place)

    if len(taps) == 1:
        out = tap(0, 0)
    elif along == "x":
        out = _curve([tap(0, i).astype(x.dtype) for i in taps], dx, interpolation)
    elif along == "y":
        out = _curve([tap(j, 0).astype(x.dtype) for j in taps], dy, interpolation)
    else:
        curves = [
            _curve([tap(j, i).astype(x.dtype) for i in taps], dx, interpolation)
            for j in taps
        ]
        out = _curve(curves, dy, interpolation)
        if len(taps) == 4:
            out = jnp.clip(out, 0, 255 if images.dtype == jnp.uint8 else 1)
    outside = jnp.broadcast_to(jnp.asarray(fill, images.dtype), c)[None, None, None]
    return jnp.where(inside[..., None], out.astype(images.dtype), outside)


def _stencil(
    interpolation: Interpolation, dtype: DTypeLike
) -> tuple[jax.Array, tuple[int, ...]]:
    """The shift to subtract before rounding down, and the neighbour pixels to read."""
    if not isinstance(interpolation, str):
        shift = jnp.where(interpolation == 0, 0.0, 0.5).astype(dtype)
        return shift[:, None, None], (-1, 0, 1, 2)
    if interpolation not in INTERPOLATIONS:
        raise UserError(
            f'interpolation="{interpolation}" is unknown.'
            f"{nearest(interpolation, INTERPOLATIONS)}"
        )
    kind = INTERPOLATIONS.index(interpolation)
    shift = jnp.asarray(0.5 if kind else 0.0, dtype)[None, None, None]
    return shift, ((0,), (0, 1), (-1, 0, 1, 2))[kind]


def _curve(
    values: list[jax.Array], at: jax.Array, interpolation: Interpolation
) -> jax.Array:
    """The interpolating polynomial between the two middle values, 0 <= at < 1."""
    if len(values) == 2:
        return values[0] + (values[1] - values[0]) * at
    v1, v2, v3, v4 = values
    slope, square, cube = v3 - v1, 2 * (v1 - v2) + v3 - v4, v2 - v1 + v4 - v3
    if not isinstance(interpolation, str):
        kind = interpolation[:, None, None, None]
        slope = jnp.where(kind == 2, slope, jnp.where(kind == 1, v3 - v2, 0))
        square, cube = jnp.where(kind == 2, square, 0), jnp.where(kind == 2, cube, 0)
    return v2 + at * (slope + at * (square + at * cube))
