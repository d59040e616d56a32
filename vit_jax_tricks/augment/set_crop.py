"""Applies the crop that `config.augment` selects."""

from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.augment.pixels import to_float, to_uint8
from vit_jax_tricks.augment.resized_crop import (
    Cropped,
    random_or_center_crop,
    random_resized_crop,
    simple_random_crop,
)
from vit_jax_tricks.augment.settings import Settings
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Integer, Num, PRNGKeyArray


def crop_as_set(
    s: Settings,
    key: PRNGKeyArray,
    images: Num[Array, "b h w c"],
    index: Integer[Array, "b"],
) -> Cropped:
    """Crops and resizes to the original size; returns the images and the geometry.

    uint8 images are resampled as floats, at half the cost, and rounded only if a later
    stage works on grey levels.

    Raises: UserError for images that are not square, if the crop needs squares.
    """
    h, w = images.shape[1], images.shape[2]
    if s.crop != "random_resized" and h != w:
        raise UserError(f"config.augment.crop={s.crop} needs squares, not {h}x{w}.")
    x, how = to_float(images), s.interpolation
    if s.crop == "simple":
        x, geometry = simple_random_crop(key, x, index, size=h, interpolation=how)
    else:
        square = s.crop == "random_or_center"
        crop: Any = random_or_center_crop if square else random_resized_crop
        x, geometry = crop(
            key,
            x,
            index,
            size=h if square else (h, w),
            scale=s.crop_scale,
            ratio=s.crop_ratio,
            interpolation=how,
        )
    rounds = images.dtype == jnp.uint8 and s.on_levels
    return to_uint8(x) if rounds else x, geometry
