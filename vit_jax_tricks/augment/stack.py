"""Builds a config's augmentation as functions of the training step."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from vit_jax_tricks.augment.erase import random_erasing
from vit_jax_tricks.augment.geometry import Geometry, identity_geometry
from vit_jax_tricks.augment.mix import Labels, mixup_or_cutmix
from vit_jax_tricks.augment.pixels import to_float
from vit_jax_tricks.augment.settings import Settings
from vit_jax_tricks.augment.stages import Moved, Still, stages
from vit_jax_tricks.checks import checked
from vit_jax_tricks.random import fold_in_str
from vit_jax_tricks.sharding import each_shard
from vit_jax_tricks.typing import Array, Float, Integer, Num, Pixels, PRNGKeyArray


Augment = Callable[[PRNGKeyArray, Array, Array], Moved]
Mix = Callable[[PRNGKeyArray, Array, Labels], tuple[Array, Labels]]


class Stack(NamedTuple):
    """Functions that the training step calls, in this order.

    Attributes:
      augment: (key, images uint8 [b, h, w, c], index [b]) -> (images float in [0, 1],
        their `Geometry`). XLA drops the geometry where nothing reads it.
      erase: (key, normalised images, index) -> the same images with boxes filled.
      mix: (key, images, labels) -> both, mixed.
      mix_first: whether to mix before normalising and erasing rather than after.
    """

    augment: Augment
    erase: Still
    mix: Mix
    mix_first: bool


def from_config(
    *, mean: tuple[float, ...], size: int | None = None, **options: Any
) -> Stack:
    """Builds the stack from the keys of `config.augment` (see configs/common.py).

    Images are cropped, flipped, passed through the policy, jittered, and then warped
    and shifted. Each part has its own random stream, so switching one on does not
    change the draws of the others. Parts that are off cost nothing. Under
    `jax.set_mesh`, each device works on its own images. `mean` (of the normalisation,
    in 0..1) fills the area that a policy's warp leaves empty. With `size`, one of
    `multi_scale`, the images become squares of that side: by the crop, if there is one.

    Raises:
      UserError: a value out of range, or an unknown name.
    """
    parts = stages(mean=mean, size=size, **options)
    settings = Settings(**options)

    @checked
    def augment(
        key: PRNGKeyArray, images: Pixels[Array, "b h w c"], index: Integer[Array, "b"]
    ) -> tuple[Float[Array, "b h2 w2 c"], Geometry]:
        geometry = identity_geometry(len(index), (images.shape[1], images.shape[2]))
        for name, part in parts:
            images, geometry = part(fold_in_str(key, name), images, index, geometry)
        return to_float(images), geometry

    @checked
    def erase(
        key: PRNGKeyArray, images: Float[Array, "b h w c"], index: Integer[Array, "b"]
    ) -> Float[Array, "b h w c"]:
        if not settings.erasing:
            return images
        boxes = functools.partial(
            random_erasing,
            prob=settings.erasing,
            mode=settings.erasing_mode,
            count=(1, settings.erasing_count),
        )
        return _one_by_one(boxes, key, images, index)

    @checked
    def mix(
        key: PRNGKeyArray, images: Float[Array, "b h w c"], labels: Labels
    ) -> tuple[Array, Labels]:
        if not (settings.mixup or settings.cutmix) or settings.mix_prob == 0:
            return images, labels
        return mixup_or_cutmix(
            key,
            images,
            labels,
            mixup_alpha=settings.mixup,
            cutmix_alpha=settings.cutmix,
            prob=settings.mix_prob,
            switch_prob=settings.switch_prob,
            mode=settings.mix_mode,
        )

    return Stack(
        augment=each_shard(augment),
        erase=each_shard(erase),
        mix=mix,
        mix_first=settings.mix_first,
    )


def _one_by_one(
    fn: Still,
    key: PRNGKeyArray,
    images: Num[Array, "b h w c"],
    index: Integer[Array, "b"],
) -> Num[Array, "b h w c"]:
    """fn(key, images, index); on a CPU, image by image.

    Noise is then drawn only for images that are erased.
    """

    def each(key: PRNGKeyArray, images: Array, index: Array) -> Array:
        def one(image: tuple[Array, Array]) -> Array:
            return fn(key, image[0][None], image[1][None])[0]

        return jax.lax.map(one, (images, index))

    return jax.lax.platform_dependent(key, images, index, cpu=each, default=fn)
