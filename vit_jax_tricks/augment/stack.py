"""The augmentation of a config as two functions of the training step."""

import functools
from collections.abc import Callable

from vit_jax_tricks.augment.affine import random_affine
from vit_jax_tricks.augment.crop import random_pad_crop
from vit_jax_tricks.augment.flip import random_flip
from vit_jax_tricks.augment.mix import Mixed, mixup_or_cutmix
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.random import fold_in_str
from vit_jax_tricks.typing import Array, Float, Int, PRNGKeyArray


Augment = Callable[[PRNGKeyArray, Array, Array], Array]
Mix = Callable[[PRNGKeyArray, Array, Array], Mixed]


def from_config(
    *,
    flip: bool,
    pad: int,
    degrees: float,
    translate: float,
    scale: tuple[float, float],
    shear: float,
    mixup: float,
    cutmix: float,
    mix_prob: float,
    switch_prob: float,
) -> tuple[Augment, Mix]:
    """Builds `augment(key, images, index)` and `mix(key, images, labels)`.

    Each operation has a stream of its own, so switching one on leaves the draws of the
    others alone. What is off costs nothing.

    Raises:
      UserError: a value outside its range.
    """
    ranges = {
        "pad": pad >= 0,
        "degrees": 0 <= degrees <= 180,
        "translate": 0 <= translate <= 1,
        "scale": len(scale) == 2 and 0 < scale[0] <= scale[1],
        "shear": 0 <= shear < 90,
        "mixup": mixup >= 0,
        "cutmix": cutmix >= 0,
        "mix_prob": 0 <= mix_prob <= 1,
        "switch_prob": 0 <= switch_prob <= 1,
    }
    values = locals()
    for name, fits in ranges.items():
        if not fits:
            raise UserError(f"config.augment.{name}={values[name]}: out of range.")
    warped = degrees or translate or shear or tuple(scale) != (1.0, 1.0)
    warp = functools.partial(
        random_affine, degrees=degrees, translate=translate, scale=scale, shear=shear
    )

    def augment(
        key: PRNGKeyArray, images: Float[Array, "b h w c"], index: Int[Array, "b"]
    ) -> Float[Array, "b h w c"]:
        if warped:
            images = warp(fold_in_str(key, "affine"), images, index)
        if pad:
            images = random_pad_crop(fold_in_str(key, "crop"), images, index, pad=pad)
        if flip:
            images = random_flip(fold_in_str(key, "flip"), images, index)
        return images

    def mix(
        key: PRNGKeyArray, images: Float[Array, "b h w c"], labels: Float[Array, "b k"]
    ) -> Mixed:
        if not (mixup or cutmix) or mix_prob == 0:
            return images, labels
        return mixup_or_cutmix(
            key,
            images,
            labels,
            mixup_alpha=mixup,
            cutmix_alpha=cutmix,
            prob=mix_prob,
            switch_prob=switch_prob,
        )

    return augment, mix
