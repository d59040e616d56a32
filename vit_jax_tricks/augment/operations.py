"""Operations of the augmentation policies, with a separate choice and amount per image.

Each is an affine warp, a lookup table over the grey levels, a blend with a degenerate
image (or that image itself), or a rotation of the hue. A slot runs each of these kinds
once, on the images that drew such an operation.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment import tone, warp
from vit_jax_tricks.augment.blur import gaussian_blur
from vit_jax_tricks.augment.enhance import blend_with, smooth
from vit_jax_tricks.augment.hue import adjust_hue
from vit_jax_tricks.augment.pixels import luma
from vit_jax_tricks.augment.subset import apply_where
from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Bool, Float, Int, UInt8


ALONG = {"x": ("shear_x", "translate_x"), "y": ("shear_y", "translate_y")}
WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
TABLES = ("invert", "solarize", "solarize_add", "posterize", "brightness")
HISTOGRAM = ("auto_contrast", "equalize")  # tables that need the image's histogram
MEASURED = ("contrast", *HISTOGRAM)  # contrast needs its mean
BLENDS = ("saturation", "sharpness")
# Operations that share nothing: (images, amount) -> images. A new one is a line here,
# and in the families of `levels` that have it.
OWN: dict[str, Callable[..., Array]] = {
    "gaussian_blur": gaussian_blur,
    "hue": adjust_hue,
}
# `op` is an index into this list; 0 changes nothing.
OPERATIONS = ("identity", *WARPS, *TABLES, *MEASURED, *BLENDS, *OWN)


def code(name: str) -> int:
    """Index of an operation in OPERATIONS.

    Raises: UserError for an unknown operation.
    """
    if name not in OPERATIONS:
        hint = nearest(name, OPERATIONS)
        raise UserError(f'operation "{name}" is unknown.{hint}')
    return OPERATIONS.index(name)


def is_one_of(op: Int[Array, "b"], names: Sequence[str]) -> Bool[Array, "b"]:
    """Whether each operation is one of `names`."""
    chosen = jnp.asarray([code(name) for name in names], op.dtype)
    return jnp.any(op[:, None] == chosen[None], axis=1)


@checked
def operation_matrix(
    op: Int[Array, "b"], amount: Float[Array, "b"], size: tuple[int, int]
) -> Float[Array, "b 6"]:
    """Affine matrix of each image's operation (see `affine_warp`), else the identity.

    With it, the same draw moves dense labels, boxes and masks.
    """

    def only(name: str) -> Array:
        return jnp.where(op == code(name), amount, 0)

    matrix = warp.translate_matrix(only("translate_x"), only("translate_y"))
    for name, make in (
        ("shear_x", warp.shear_x_matrix),
        ("shear_y", warp.shear_y_matrix),
        ("rotate", lambda degrees: warp.rotate_matrix(degrees, size)),
    ):
        chosen = (op == code(name))[:, None]
        matrix = jnp.where(chosen, make(only(name)), matrix)
    return matrix


def _tables(op: Int[Array, "b"], amount: Float[Array, "b"]) -> UInt8[Array, "b 1 256"]:
    """Composes the tables that need no image; at most one of them changes anything."""

    def given(name: str, neutral: float) -> Array:
        return jnp.where(op == code(name), amount, neutral)[:, None, None]

    levels = jnp.arange(256, dtype=jnp.int32)[None, None]
    inverted = (op == code("invert"))[:, None, None]
    threshold = jnp.where(inverted, 0, given("solarize", 256.0))
    levels = tone.solarize_levels(levels, threshold)
    levels = tone.solarize_add_levels(levels, given("solarize_add", 0.0))
    levels = tone.posterize_levels(levels, given("posterize", 8.0))
    black = jnp.zeros_like(levels)
    levels = tone.fade_levels(levels, given("brightness", 1.0), black)
    return levels.astype(jnp.uint8)


def _contrast_tables(
    images: UInt8[Array, "b h w c"], amount: Float[Array, "b"]
) -> UInt8[Array, "b 1 256"]:
    """Tables that move levels away from the mean grey, or towards it."""
    levels = jnp.arange(256, dtype=jnp.int32)[None, None]
    mean = tone.mean_luma(images)[:, None, None]
    return tone.fade_levels(levels, amount[:, None, None], mean).astype(jnp.uint8)


def _histogram_tables(
    images: UInt8[Array, "b h w c"], op: Int[Array, "b"]
) -> UInt8[Array, "b c 256"]:
    """Tables of auto_contrast and equalize."""
    counts = tone.histogram(images)
    stretches = (op == code("auto_contrast"))[:, None, None]
    stretched, spread = tone.auto_contrast_table(counts), tone.equalize_table(counts)
    return jnp.where(stretches, stretched, spread)


def _blended(
    images: UInt8[Array, "b h w c"], op: Int[Array, "b"], amount: Float[Array, "b"]
) -> UInt8[Array, "b h w c"]:
    sharper = (op == code("sharpness"))[:, None, None, None]
    under = jnp.where(sharper, smooth(images), luma(images).astype(jnp.uint8))
    return blend_with(under, images, amount)


@checked
def apply_operation(
    images: UInt8[Array, "b h w c"],
    op: Int[Array, "b"],
    amount: Float[Array, "b"],
    *,
    among: Sequence[str] = OPERATIONS,
    fill: warp.Fill = 0.0,
    interpolation: str | Int[Array, "b"] = "bicubic",
    largest_blur: float = 2.0,
) -> UInt8[Array, "b h w c"]:
    """Applies one operation to each image, bit for bit as Pillow does.

    The warps are the exception; see `affine_warp`.

    Args:
      images: grey or RGB.
      op: the operation, as an index into OPERATIONS.
      amount: shear (pixels per pixel), shift left or up (pixels), degrees
        counter-clockwise, threshold, levels to add, bits to keep, blending factor,
        sigma of the blur (pixels), or fraction of a turn of the hue.
      among: the operations that can occur in `op`; others then cost nothing.
      fill, interpolation: for warps, see `affine_warp`.
      largest_blur: a larger sigma is reduced to it.

    Raises: UserError for an unknown operation in `among`.
    """
    among = tuple(OPERATIONS[code(name)] for name in among)
    amount = amount.astype(jnp.float32)
    each_its_own = () if isinstance(interpolation, str) else (interpolation,)

    def warped(along, images, op, amount, *chosen):
        matrix = operation_matrix(op, amount, images.shape[1:3])
        how = chosen[0] if chosen else interpolation
        options = {"fill": fill, "interpolation": how, "along": along}
        return warp.affine_warp(images, matrix, **options)

    def stage(names: Sequence[str], fn: Callable[..., Array], x, *parameters):
        here = [name for name in names if name in among]
        return apply_where(is_one_of(op, here), fn, x, *parameters) if here else x

    for along, names in (*ALONG.items(), (None, ("rotate",))):
        fn = functools.partial(warped, along)
        images = stage(names, fn, images, op, amount, *each_its_own)
    if any(name in among for name in (*TABLES, *MEASURED)):
        tables = _tables(op, amount)

        def contrast(_, *x):
            return _contrast_tables(*x)

        def histogram(_, *x):
            return _histogram_tables(*x)

        tables = stage(("contrast",), contrast, tables, images, amount)
        if any(name in among for name in HISTOGRAM):
            shape = (*tables.shape[:1], images.shape[-1], 256)
            tables = jnp.broadcast_to(tables, shape)
            tables = stage(HISTOGRAM, histogram, tables, images, op)
        images = stage((*TABLES, *MEASURED), tone.apply_table, images, tables)
    images = stage(BLENDS, _blended, images, op, amount)
    blurred = functools.partial(gaussian_blur, largest=largest_blur)
    for name, fn in (OWN | {"gaussian_blur": blurred}).items():
        images = stage((name,), fn, images, amount)
    return images


@checked
def apply_operations(
    images: UInt8[Array, "b h w c"],
    op: Int[Array, "b n"],
    amount: Float[Array, "b n"],
    *,
    interpolation: str | Int[Array, "b n"] = "bicubic",
    **options: Any,
) -> UInt8[Array, "b h w c"]:
    """Applies n operations to each image, one after another; see `apply_operation`."""
    each_its_own = {} if isinstance(interpolation, str) else {"how": interpolation.T}

    def body(images: Array, slot: dict[str, Array]) -> tuple[Array, None]:
        how = slot.pop("how", interpolation)
        return apply_operation(images, **slot, interpolation=how, **options), None

    slots = {"op": op.T, "amount": amount.T, **each_its_own}
    return jax.lax.scan(body, images, slots)[0]
