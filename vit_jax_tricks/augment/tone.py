"""Tone curves: maps each grey level by a formula or by the image's histogram.

Every operation here is a table of 256 entries, one for each image or each channel. On
floats in [0, 1] it acts on their 256 grey levels, so no gradient passes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.augment.pixels import (
    PerImage,
    from_uint8,
    luma,
    per_image,
    rounded_product,
    to_uint8,
)
from vit_jax_tricks.checks import checked
from vit_jax_tricks.typing import Array, Float, Int, Num, Pixels, UInt8


Levels = Int[Array, "..."]
Amounts = Float[Array, "..."]


def solarize_levels(levels: Levels, threshold: Amounts) -> Levels:
    """i below the threshold, 255 - i at or above it."""
    return jnp.where(levels.astype(threshold.dtype) < threshold, levels, 255 - levels)


def solarize_add_levels(levels: Levels, amount: Amounts) -> Levels:
    """min(255, i + amount) for i below 128, i otherwise."""
    more = jnp.minimum(levels + amount.astype(jnp.int32), 255)
    return jnp.where(levels < 128, more, levels)


def posterize_levels(levels: Levels, bits: Amounts) -> Levels:
    """i with its lowest 8 - bits bits cleared; 0 bits give black, 8 bits give i."""
    dropped = 8 - jnp.clip(bits, 0, 8).astype(jnp.int32)
    return (levels >> dropped) << dropped


def fade_levels(levels: Levels, factor: Amounts, constant: Levels) -> Levels:
    """constant + factor (i - constant), truncated and clipped to 0..255."""
    constant, away = (x.astype(factor.dtype) for x in (constant, levels - constant))
    out = constant + rounded_product(factor, away)
    return jnp.clip(out, 0, 255).astype(jnp.int32)


def apply_table(
    images: UInt8[Array, "b h w c"], table: UInt8[Array, "b #c 256"]
) -> UInt8[Array, "b h w c"]:
    """table[b, c, images[b, y, x, c]]; a table with one channel serves all channels."""
    b, c = images.shape[0], images.shape[-1]
    first = 256 * jnp.arange(c) if table.shape[1] == c else jnp.zeros(c, jnp.int32)
    place = images.astype(jnp.int32) + first.astype(jnp.int32)[None, None, None]
    look = jax.vmap(lambda row, i: row.at[i].get(mode="promise_in_bounds"))
    return look(table.reshape(b, -1), place)


def histogram(images: UInt8[Array, "b h w c"]) -> Int[Array, "b c 256"]:
    """Counts the pixels of each channel at each grey level."""
    b, _, _, c = images.shape
    first = 256 * jnp.arange(c, dtype=jnp.int32)
    place = images.reshape(b, -1, c).astype(jnp.int32) + first[None, None]

    def count(place: Array) -> Array:
        bins = jnp.zeros(c * 256, jnp.int32)
        return bins.at[place.reshape(-1)].add(1, mode="promise_in_bounds")

    return jax.vmap(count)(place).reshape(b, c, 256)


def mean_luma(images: UInt8[Array, "b h w c"]) -> Int[Array, "b"]:
    """The mean grey, rounded half up, for images of any size.

    32 bits hold the sums along the shorter side; the total needs 64.
    """
    grey = luma(images)[..., 0]
    sums = grey.sum(axis=1 if grey.shape[1] < grey.shape[2] else 2)
    pixels = grey[0].size
    with jax.enable_x64(True):
        total = sums.astype(jnp.int64).sum(axis=1)
        return ((2 * total + pixels) // (2 * pixels)).astype(jnp.int32)


def equalize_table(counts: Int[Array, "b c 256"]) -> UInt8[Array, "b c 256"]:
    """(step // 2 + pixels darker than i) // step, with step = (pixels - last) // 255.

    `last` counts the pixels at the brightest level that occurs. Images with step 0 are
    unchanged.
    """
    levels = jnp.arange(256, dtype=jnp.int32)[None, None]
    brightest = jnp.max(jnp.where(counts > 0, levels, 0), axis=-1, keepdims=True)
    last = jnp.sum(jnp.where(levels == brightest, counts, 0), axis=-1, keepdims=True)
    step = (counts.sum(axis=-1, keepdims=True) - last) // 255
    darker = jnp.cumsum(counts, axis=-1) - counts
    out = jnp.clip((step // 2 + darker) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step == 0, levels, out).astype(jnp.uint8)


@functools.cache
def _one_too_low() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bit table of the inputs where Pillow's stretch falls just below an integer.

    Pillow uses float64. Of the levels lo..lo + d, only lo + k d / gcd(255, d) map to
    integers. Bit first[d] + lo * parts[d] + k - 1 is set if Pillow's value for k is one
    too low; each word holds 32 bits.
    """
    parts = np.gcd(255, np.arange(256))
    first = np.concatenate([[0], np.cumsum((256 - np.arange(256)) * parts)])
    bits = np.zeros(-(-first[-1] // 32) * 32, bool)
    for d in range(1, 256):
        lo = np.arange(256 - d)[:, None]
        k = np.arange(1, parts[d] + 1)[None]
        scale = 255.0 / d
        found = ((lo + k * (d // parts[d])) * scale - lo * scale).astype(int)
        bits[first[d] + lo * parts[d] + k - 1] = found < k * (255 // parts[d])
    words = bits.reshape(-1, 32) @ (1 << np.arange(32, dtype=np.uint64))
    return words.astype(np.uint32), first[:256].astype(np.int32), parts.astype(np.int32)


def auto_contrast_table(counts: Int[Array, "b c 256"]) -> UInt8[Array, "b c 256"]:
    """Stretches the occurring levels lo..hi to 0..255, truncated to integers.

    i 255 / (hi - lo) - lo 255 / (hi - lo), as Pillow rounds it in float64; channels
    with a single level are unchanged.
    """
    levels = jnp.arange(256, dtype=jnp.int32)[None, None]
    hi = jnp.max(jnp.where(counts > 0, levels, 0), axis=-1, keepdims=True)
    lo = jnp.min(jnp.where(counts > 0, levels, 255), axis=-1, keepdims=True)
    d = jnp.maximum(hi - lo, 1)
    above = jnp.clip(levels - lo, 0, d)
    words, first, parts = map(jnp.asarray, _one_too_low())
    k, rest = jnp.divmod(above * parts[d], d)
    bit = first[d] + lo * parts[d] + k - 1
    low = (words[bit // 32] >> (bit % 32).astype(jnp.uint32)) & 1
    out = above * 255 // d - jnp.where((rest == 0) & (k > 0), low.astype(jnp.int32), 0)
    return jnp.where(hi <= lo, levels, out).astype(jnp.uint8)


def _by_curve(images: Num[Array, "b h w c"], curve, amount: PerImage) -> Array:
    levels = to_uint8(images).astype(jnp.int32)
    out = curve(levels, per_image(amount, images)[:, None, None, None])
    return from_uint8(out.astype(jnp.uint8), images)


@checked
def invert(images: Pixels[Array, "b h w c"]) -> Num[Array, "b h w c"]:
    """255 - i, or 1 - x for floats. Equivalent to Pillow's ImageOps.invert (tested)."""
    return 255 - images if images.dtype == jnp.uint8 else 1 - images


@checked
def solarize(
    images: Pixels[Array, "b h w c"], threshold: PerImage = 128.0
) -> Num[Array, "b h w c"]:
    """Inverts the levels at or above the threshold; 256 inverts none.

    Equivalent to Pillow's ImageOps.solarize (tested).
    """
    return _by_curve(images, solarize_levels, threshold)


@checked
def solarize_add(
    images: Pixels[Array, "b h w c"], amount: PerImage
) -> Num[Array, "b h w c"]:
    """Adds `amount` to levels below 128, up to 255. Equivalent to timm's (tested)."""
    return _by_curve(images, solarize_add_levels, amount)


@checked
def posterize(
    images: Pixels[Array, "b h w c"], bits: PerImage
) -> Num[Array, "b h w c"]:
    """Keeps the highest `bits` of 8, from 0 (black) to 8 (all).

    Equivalent to Pillow's ImageOps.posterize for 1..8 (tested). 0, which Pillow 13
    rejects, gives black, as in earlier versions.
    """
    return _by_curve(images, posterize_levels, bits)


@checked
def equalize(images: Pixels[Array, "b h w c"]) -> Num[Array, "b h w c"]:
    """Spreads the levels of each channel so that all occur about equally often.

    Equivalent to Pillow's ImageOps.equalize (tested).
    """
    levels = to_uint8(images)
    out = apply_table(levels, equalize_table(histogram(levels)))
    return from_uint8(out, images)


@checked
def auto_contrast(images: Pixels[Array, "b h w c"]) -> Num[Array, "b h w c"]:
    """Stretches the levels of each channel to 0..255.

    Equivalent to Pillow's ImageOps.autocontrast (tested, for every range of levels).
    """
    levels = to_uint8(images)
    out = apply_table(levels, auto_contrast_table(histogram(levels)))
    return from_uint8(out, images)
