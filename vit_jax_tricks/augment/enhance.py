"""Enhancements: blends with a degenerate image (black, mean grey, grey or smoothed).

degenerate + factor (image - degenerate), clipped to the valid range: factor 0 gives the
degenerate image, 1 the image itself, and more exaggerates. uint8 images match Pillow
bit for bit: float32, truncated to integers. Floats in [0, 1] follow torchvision's
formulas for tensors, without rounding, and pass gradients.
"""

import jax.numpy as jnp

from vit_jax_tricks.augment.pixels import (
    PerImage,
    check_channels,
    compute_dtype,
    luma,
    per_image,
)
from vit_jax_tricks.augment.tone import fade_levels, mean_luma
from vit_jax_tricks.checks import checked
from vit_jax_tricks.typing import Array, Float, Num, Pixels


def blend_with(
    degenerate: Num[Array, "b #h #w #c"],
    images: Num[Array, "b h w c"],
    factor: Float[Array, "b"],
) -> Num[Array, "b h w c"]:
    """degenerate + factor (images - degenerate), both of one dtype; see above."""
    factor = factor[:, None, None, None]
    if images.dtype == jnp.uint8:
        levels, under = (x.astype(jnp.int32) for x in (images, degenerate))
        return fade_levels(levels, factor, under).astype(jnp.uint8)
    out = degenerate + factor.astype(images.dtype) * (images - degenerate)
    return jnp.clip(out, 0, 1)


def _grey(images: Num[Array, "b h w c"]) -> Num[Array, "b h w 1"]:
    if images.dtype == jnp.uint8:
        return luma(images).astype(jnp.uint8)
    check_channels(images)
    if images.shape[-1] == 1:
        return images
    red, green, blue = jnp.split(images, 3, axis=-1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def smooth(images: Num[Array, "b h w c"]) -> Num[Array, "b h w c"]:
    """Weighted mean of each pixel (weight 5) and its eight neighbours; edges stay.

    Equivalent to Pillow's SMOOTH filter (tested).
    """
    b, h, w, c = images.shape
    flat = images.reshape(b, h, w * c)  # long rows, for vector instructions
    whole = images.dtype == jnp.uint8
    x = jnp.pad(flat, ((0, 0), (1, 1), (c, c)), mode="edge")
    x = x.astype(jnp.int32) if whole else x
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    total = rows[:, :, : -2 * c] + rows[:, :, c:-c] + rows[:, :, 2 * c :]
    total = total + 4 * x[:, 1:-1, c:-c]
    inner = (2 * total + 13) // 26 if whole else total / 13
    at_y, at_x = jnp.arange(h)[None, :, None], jnp.arange(w * c)[None, None]
    edge = (at_y == 0) | (at_y == h - 1) | (at_x < c) | (at_x >= (w - 1) * c)
    return jnp.where(edge, flat, inner.astype(images.dtype)).reshape(images.shape)


@checked
def grayscale(images: Pixels[Array, "b h w c"]) -> Num[Array, "b h w c"]:
    """Copies the grey image to every channel.

    Equivalent to Pillow's convert("L") (tested).
    """
    return jnp.broadcast_to(_grey(images), images.shape)


@checked
def adjust_brightness(
    images: Pixels[Array, "b h w c"], factor: PerImage
) -> Num[Array, "b h w c"]:
    """Multiplies the pixels by `factor`.

    Equivalent to Pillow's ImageEnhance.Brightness (tested).
    """
    black = jnp.zeros((images.shape[0], 1, 1, 1), images.dtype)
    return blend_with(black, images, per_image(factor, images))


@checked
def adjust_contrast(
    images: Pixels[Array, "b h w c"], factor: PerImage
) -> Num[Array, "b h w c"]:
    """Moves pixels away from the mean of the grey image, or towards it.

    Equivalent to Pillow's ImageEnhance.Contrast (tested).
    """
    if images.dtype == jnp.uint8:
        mean = mean_luma(images)[:, None, None, None].astype(jnp.uint8)
    else:
        # Row by row: a single sum over megapixels would lose precision.
        rows = _grey(images).astype(compute_dtype(images)).mean(axis=2, keepdims=True)
        mean = rows.mean(axis=1, keepdims=True).astype(images.dtype)
    return blend_with(mean, images, per_image(factor, images))


@checked
def adjust_saturation(
    images: Pixels[Array, "b h w c"], factor: PerImage
) -> Num[Array, "b h w c"]:
    """Moves pixels away from the grey image, or towards it.

    Equivalent to Pillow's ImageEnhance.Color (tested).
    """
    return blend_with(_grey(images), images, per_image(factor, images))


@checked
def adjust_sharpness(
    images: Pixels[Array, "b h w c"], factor: PerImage
) -> Num[Array, "b h w c"]:
    """Moves pixels away from the smoothed image, or towards it.

    Equivalent to Pillow's ImageEnhance.Sharpness (tested).
    """
    return blend_with(smooth(images), images, per_image(factor, images))
