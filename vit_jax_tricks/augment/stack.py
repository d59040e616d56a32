"""Builds a config's augmentation as functions of the training step."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from vit_jax_tricks.augment import parse, policy
from vit_jax_tricks.augment.affine import random_affine
from vit_jax_tricks.augment.auto_augment import aug_mix
from vit_jax_tricks.augment.color_jitter import color_jitter
from vit_jax_tricks.augment.crop import random_pad_crop
from vit_jax_tricks.augment.erase import random_erasing
from vit_jax_tricks.augment.flip import random_flip
from vit_jax_tricks.augment.mix import Labels, mixup_or_cutmix
from vit_jax_tricks.augment.pixels import to_float
from vit_jax_tricks.augment.set_crop import crop_as_set
from vit_jax_tricks.augment.settings import Settings
from vit_jax_tricks.augment.trace import Trace, traced
from vit_jax_tricks.checks import checked
from vit_jax_tricks.random import fold_in_str
from vit_jax_tricks.sharding import each_shard
from vit_jax_tricks.typing import Array, Float, Integer, Num, Pixels, PRNGKeyArray


Augment = Callable[[PRNGKeyArray, Array, Array], Array]
Mix = Callable[[PRNGKeyArray, Array, Labels], tuple[Array, Labels]]


class Stack(NamedTuple):
    """Functions that the training step calls, in this order.

    Attributes:
      augment: (key, images uint8 [b, h, w, c], index [b]) -> images float in [0, 1].
      erase: (key, normalised images, index) -> the same images with boxes filled.
      mix: (key, images, labels) -> both, mixed.
      mix_first: whether to mix before normalising and erasing rather than after.
      trace: (key, index, (h, w)) -> the `Geometry` that `augment` with this key gives
        images of h x w pixels.
    """

    augment: Augment
    erase: Augment
    mix: Mix
    mix_first: bool
    trace: Trace


def stages(*, mean: tuple[float, ...], **options: Any) -> list[tuple[str, Augment]]:
    """The parts of `Stack.augment` in order, with the names of their random streams.

    Parts that are off are left out. Arguments and errors as in `from_config`.
    """
    settings = Settings(**options)
    settings.check()
    return [*_on_levels(settings, mean), *_on_floats(settings)]


def from_config(*, mean: tuple[float, ...], **options: Any) -> Stack:
    """Builds the stack from the keys of `config.augment` (see configs/common.py).

    Images are cropped, flipped, passed through the policy, jittered, and then warped
    and shifted. Each part has its own random stream, so switching one on does not
    change the draws of the others. Parts that are off cost nothing. Under
    `jax.set_mesh`, each device works on its own images. `mean` (of the normalisation,
    in 0..1) fills the area that a policy's warp leaves empty.

    Raises:
      UserError: a value out of range, or an unknown name.
    """
    parts = stages(mean=mean, **options)
    settings = Settings(**options)

    @checked
    def augment(
        key: PRNGKeyArray, images: Pixels[Array, "b h w c"], index: Integer[Array, "b"]
    ) -> Float[Array, "b h w c"]:
        for name, part in parts:
            images = part(fold_in_str(key, name), images, index)
        return to_float(images)

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
        trace=functools.partial(traced, settings),
    )


def _on_levels(s: Settings, mean: tuple[float, ...]) -> list[tuple[str, Augment]]:
    """The parts that work on uint8 images, with the names of their streams."""
    steps: list[tuple[str, Augment]] = []
    if s.crop != "none":

        def crop(key: PRNGKeyArray, images: Array, index: Array) -> Array:
            return crop_as_set(s, key, images, index)[0]

        steps.append(("box", functools.partial(_one_by_one, crop)))
    if s.flip:
        steps.append(("flip", random_flip))
    fill = tuple(min(255, round(255 * m)) for m in mean)
    warps = {"fill": fill, "interpolation": s.interpolation}
    if s.auto_augment.startswith("augmix"):
        mixed = functools.partial(aug_mix, policy=s.auto_augment, **warps)
        steps.append(("policy", mixed))
    elif s.auto_augment != "none":
        law = parse.parse_policy(s.auto_augment)
        applied = functools.partial(policy.apply_policy, policy=law, **warps)
        steps.append(("policy", applied))
    if s.jitters:
        strength = s.color_jitter
        jitter = functools.partial(
            color_jitter,
            brightness=strength,
            contrast=strength,
            saturation=strength,
            hue=s.hue,
            prob=s.jitter_prob,
        )
        steps.append(("jitter", jitter))
    return steps


def _one_by_one(
    fn: Augment,
    key: PRNGKeyArray,
    images: Num[Array, "b h w c"],
    index: Integer[Array, "b"],
) -> Num[Array, "b h w c"]:
    """fn(key, images, index); on a CPU, image by image.

    An image then stays in the cache, and noise is drawn only for images that are
    erased.
    """

    def each(key: PRNGKeyArray, images: Array, index: Array) -> Array:
        def one(image: tuple[Array, Array]) -> Array:
            return fn(key, image[0][None], image[1][None])[0]

        return jax.lax.map(one, (images, index))

    return jax.lax.platform_dependent(key, images, index, cpu=each, default=fn)


def _on_floats(s: Settings) -> list[tuple[str, Augment]]:
    """The parts that work on floats in [0, 1], with the names of their streams."""
    steps: list[tuple[str, Augment]] = []
    if s.warps:

        def warp(key: PRNGKeyArray, images: Array, index: Array) -> Array:
            return random_affine(key, to_float(images), index, **s.warps)

        steps.append(("affine", warp))
    if s.pad:
        steps.append(("crop", functools.partial(random_pad_crop, pad=s.pad)))
    return steps
