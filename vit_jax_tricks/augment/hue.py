"""Hue rotation: RGB to hue, saturation and value, a shift of the hue, and back."""

import functools

import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.augment.pixels import PerImage, check_channels, per_image
from vit_jax_tricks.checks import checked
from vit_jax_tricks.typing import Array, Float, Int, Num, Pixels, UInt8


@checked
def adjust_hue(
    images: Pixels[Array, "b h w c"], turn: PerImage
) -> Num[Array, "b h w c"]:
    """Rotates the hue by `turn` (-1/2..1/2 of the circle); grey images are unchanged.

    For uint8, equivalent to torchvision's adjust_hue on a Pillow image (tested), where
    hue, saturation and value are integers; for floats, to the version for tensors.
    """
    check_channels(images)
    if images.shape[-1] == 1:
        return images
    turn = per_image(turn, images)[:, None, None, None]
    if images.dtype == jnp.uint8:
        return _turn_levels(images, turn)
    return _turn_floats(images, turn.astype(images.dtype))


def _spread(
    images: Num[Array, "b h w 3"],
) -> tuple[Array, Array, Array, Array]:
    """Largest channel, spread to the smallest, index of the largest, hue within it.

    The hue is 2 which + within / spread sixths of a turn; `within` is the difference
    between the other two channels.
    """
    red, green, blue = jnp.split(images, 3, axis=-1)
    top = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    which = jnp.where(red == top, 0, jnp.where(green == top, 1, 2))
    others = jnp.where(green == top, blue - red, red - green)
    within = jnp.where(red == top, green - blue, others)
    return top, top - low, which, within


def _away(hue: Array, turn: int) -> Array:
    """Distance of each channel from the largest, 0..turn / 6, at hue 0..turn.

    clip(min(k, 4 - k), 0, 1) with k = (5, 3, 1) + the hue in sixths of a turn, mod 6.
    """
    sixth = turn // 6
    starts = jnp.asarray([5 * sixth, 3 * sixth, sixth], hue.dtype)[None, None, None]
    k = jnp.mod(starts + hue, turn)
    return jnp.clip(jnp.minimum(k, 4 * sixth - k), 0, sixth)


def _turn_floats(images: Float[Array, "b h w 3"], turn: Array) -> Array:
    top, spread, which, within = _spread(images)
    hue = 2 * which.astype(images.dtype) + within / jnp.where(spread == 0, 1, spread)
    return jnp.clip(top - spread * _away(hue + 6 * turn, 6), 0, 1)


@functools.cache
def _one_too_low() -> np.ndarray:
    """Bit table of the inputs where Pillow's float32 hue falls just below an integer.

    The exact hue is an integer only at within = k spread / gcd(85, spread). Bit ((2
    which + (within < 0)) 256 + spread) 86 + |k| is set if Pillow's is one too low; each
    word holds 32 bits.
    """
    bits = np.zeros((3, 2, 256, 86), bool)
    for which, sign in np.ndindex(3, 2):
        for spread in range(1, 256):
            k = np.arange(np.gcd(85, spread) + 1)
            within = k * (spread // k[-1])
            middle = (spread - within).astype(np.float32) / np.float32(spread)
            sixths = 2 * which + (1 - 2 * sign) * (1 - middle.astype(float))
            sixths = sixths.astype(np.float32).astype(float)
            turns = np.fmod(sixths / 6 + 1, 1).astype(np.float32)
            found = (turns.astype(float) * 255).astype(int)
            over = 85 * (2 * which * spread + (1 - 2 * sign) * within)
            whole, rest = np.divmod(over, 2 * spread)
            low = (rest == 0) & (found < whole % 255)
            bits[which, sign, spread, k] = low
    words = bits.reshape(-1, 32) @ (1 << np.arange(32, dtype=np.uint64))
    return words.astype(np.uint32)


def _quotient(a: Int[Array, "..."], b: Int[Array, "..."]) -> Int[Array, "..."]:
    """a // b for 0 <= a < 2^18, 0 < b < 2^10; the added half outweighs any rounding."""
    ratio = (a.astype(jnp.float32) + 0.5) / b.astype(jnp.float32)
    return jnp.floor(ratio).astype(jnp.int32)


def _turn_levels(images: UInt8[Array, "b h w 3"], turn: Array) -> Array:
    """Integer arithmetic throughout, so that every device gives the same result."""
    top, spread, which, within = _spread(images.astype(jnp.int32))
    safe = jnp.maximum(spread, 1)
    over = 85 * (2 * which * spread + within)
    over = jnp.where(over < 0, over + 510 * spread, over)
    hue = _quotient(over, 2 * safe)
    parts = jnp.where(spread % 5 == 0, 5, 1) * jnp.where(spread % 17 == 0, 17, 1)
    order = jnp.where(within < 0, 2 * which + 1, 2 * which)
    bit = (order * 256 + spread) * 86 + _quotient(jnp.abs(within) * parts, safe)
    words = jnp.asarray(_one_too_low())
    word = words.at[bit >> 5].get(mode="promise_in_bounds")
    low = (word >> (bit & 31).astype(jnp.uint32)).astype(jnp.int32) & 1
    hue = hue - jnp.where(hue * 2 * safe == over, low, 0)
    saturation = _quotient(255 * spread, jnp.maximum(top, 1))
    hue = (hue + (turn * 255).astype(jnp.int32)) & 255
    share = _away(6 * hue, 6 * 255)  # in 255ths
    value = 2 * top * (65025 - saturation * share)
    return ((value + 65025) // 130050).astype(jnp.uint8)
