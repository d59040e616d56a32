"""Grey levels: Pillow's uint8, and their conversion to and from floats in [0, 1]."""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float, Int, Num, UInt8


PerImage = float | int | Num[Array, ""] | Num[Array, "b"]


def to_uint8(images: Num[Array, "..."]) -> UInt8[Array, "..."]:
    """Converts floats in [0, 1] to grey levels 0..255, rounding to the nearest."""
    if images.dtype == jnp.uint8:
        return jnp.asarray(images)
    return jnp.round(jnp.clip(images, 0, 1) * 255).astype(jnp.uint8)


def from_uint8(images: UInt8[Array, "..."], like: Num[Array, "..."]) -> Array:
    """Converts grey levels to the dtype of `like`: uint8, or floats in [0, 1]."""
    return images if like.dtype == jnp.uint8 else images.astype(like.dtype) / 255


def to_float(images: Num[Array, "..."]) -> Float[Array, "..."]:
    """Converts grey levels to float32 in [0, 1]; floats are returned unchanged."""
    return images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images


def compute_dtype(images: Num[Array, "..."]) -> Any:
    """float64 for float64 images, else float32."""
    return jnp.float64 if images.dtype == jnp.float64 else jnp.float32


def per_image(amount: PerImage, images: Num[Array, "b ..."]) -> Float[Array, "b"]:
    """Broadcasts one amount, or one for each image, to floats [b]."""
    amount = jnp.asarray(amount).astype(compute_dtype(images))
    return jnp.broadcast_to(amount, images.shape[:1])


def rounded_product(
    factor: Float[Array, "..."], whole: Float[Array, "..."]
) -> Float[Array, "..."]:
    """factor * whole in float32, rounded once, for integers `whole` below 2^12.

    Pillow rounds this product, then a sum, and then truncates; a compiler that fuses
    product and sum would give other levels. Here the two halves of the factor (12 bits
    each) have exact products, so that their sum rounds once, whatever is fused.
    """
    bits = jax.lax.bitcast_convert_type(factor, jnp.int32)
    high = jax.lax.bitcast_convert_type(bits & ~0xFFF, jnp.float32)
    return high * whole + (factor - high) * whole


def luma(images: UInt8[Array, "b h w c"]) -> Int[Array, "b h w 1"]:
    """Pillow's grey: (19595 R + 38470 G + 7471 B + 32768) >> 16; grey images stay."""
    check_channels(images)
    levels = images.astype(jnp.int32)
    if images.shape[-1] == 1:
        return levels
    red, green, blue = jnp.split(levels, 3, axis=-1)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def check_channels(images: Num[Array, "b h w c"]) -> None:
    """Raises UserError unless the images are grey or RGB."""
    if images.shape[-1] not in (1, 3):
        raise UserError(
            f"colour operations need 1 or 3 channels, got {images.shape[-1]}: "
            "give images [b, h, w, 3]."
        )


def normalize(
    images: Num[Array, "b h w c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b h w c"]:
    """(images - mean) / std for each channel; uint8 is first scaled to [0, 1]."""
    images = to_float(images)
    shape = (1, 1, 1, len(mean))
    offset = jnp.asarray(mean, images.dtype).reshape(shape)
    return (images - offset) / jnp.asarray(std, images.dtype).reshape(shape)
